"""A run while it goes on: what its folder says now, in the terminal or for Prometheus."""
