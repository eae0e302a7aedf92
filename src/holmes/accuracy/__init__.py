"""Measured runs against predictions: read tables, predict rows, score, and fit to them."""
