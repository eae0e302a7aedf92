"""Tensor parallelism: a model's declared split applied to its blocks."""
