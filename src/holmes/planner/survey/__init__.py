"""Every layout scored at once over arrays: time and memory of each."""
