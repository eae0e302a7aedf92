"""The trainer, the plain reference run, and the comparison of the two."""
