"""What one job may use: sites, clusters, nodes, devices, NICs and links."""
