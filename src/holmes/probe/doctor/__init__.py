"""Whether this machine, or every machine of a site, is fit to train, and what to do if not.

:mod:`state` reads what is there, :mod:`machine`, :mod:`variables` and :mod:`site` judge it
without touching anything, :mod:`examine` runs them on one machine or on all.
"""
