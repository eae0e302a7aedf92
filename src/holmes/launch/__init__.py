"""Starting ranks: the warm pool on this machine, torchrun, Slurm.

A *seat* is a place for one process, numbered as the devices of the site are;
the logical rank of the process that sits there comes from the Plan alone.
"""
