"""Folders in Hugging Face format: what config.json says, which tensor is which, reading them."""
