"""Measures this machine, or all machines of a site, and writes a site file.

Flow: :mod:`machine` and :mod:`nics` read what is there, :mod:`bench` measures
it, :mod:`reach` tries every NIC of every node against every other node, and
:mod:`clusters` turns that matrix into clusters and links. :mod:`write` prints
the site file, with the spread of each figure beside it.
"""
