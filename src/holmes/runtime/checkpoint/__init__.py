"""Checkpoints: a folder per step, safetensors and a JSON manifest, committed last.

Import from the modules: those that only look at files (``folders``, ``manifest``,
``payload``, ``check``, ``repair``, ``interval``) need no torch.
"""
