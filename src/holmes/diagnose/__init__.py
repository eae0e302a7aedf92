"""Diagnosis: from what a run left behind to a verdict: what is wrong, where, how sure.

A run leaves, per rank, a board (what it did last) and a flight record (its last steps),
and after a failure ``evidence.json``, which the watcher wrote before anything was ended.
Read ``verdict.py``, ``watcher.py`` (during the run), ``records.py`` (what is read),
``stopped.py`` (why nothing moves), ``edges.py`` and ``slow.py`` (why it is slow).
"""
