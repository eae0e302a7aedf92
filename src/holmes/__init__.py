"""Holmes: plan, rehearse and train large models on clusters whose NICs differ."""

__version__ = "0.1.0"
