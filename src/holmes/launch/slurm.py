"""Slurm's compressed node lists, such as ``n[01-03,7],login``."""

from __future__ import annotations

import re

from holmes.errors import ConfigError

MOST_HOSTS = 100_000
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def expand_hosts(nodelist: str) -> list[str]:
    """The host names of a list, in order: ``n[01-02,7]`` gives n01, n02, n7.

    Several bracketed parts in one name multiply, as in Slurm (``r[1-2]n[1-2]``).

    Raises:
        ConfigError: the text is no node list, or names an absurd number of hosts.
    """
    hosts: list[str] = []
    for entry in _split(nodelist):
        hosts += _expand(entry, nodelist)
        if len(hosts) > MOST_HOSTS:
            raise _bad(nodelist, f"it names more than {MOST_HOSTS} hosts")
    return hosts


def _split(nodelist: str) -> list[str]:
    """Split at the commas outside brackets."""
    entries, depth, current = [], 0, ""
    for letter in nodelist:
        depth += (letter == "[") - (letter == "]")
        if depth not in (0, 1):
            raise _bad(nodelist, "its brackets do not match")
        if letter == "," and depth == 0:
            entries.append(current)
            current = ""
        else:
            current += letter
    entries.append(current)
    if depth or not all(entries):
        raise _bad(nodelist, "a bracket is open or a name is empty")
    return entries


def _expand(entry: str, nodelist: str) -> list[str]:
    head, bracket, rest = entry.partition("[")
    if not bracket:
        return [entry]
    inside, _, tail = rest.partition("]")
    tails = _expand(tail, nodelist) if tail else [""]
    names: list[str] = []
    for part in inside.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise _bad(nodelist, f"{part!r} is no number or range")
        first, last = match[1], match[2] or match[1]
        if not 0 <= int(last) - int(first) < MOST_HOSTS:
            raise _bad(nodelist, f"the range {part} is empty or too long")
        for number in range(int(first), int(last) + 1):
            names += [f"{head}{number:0{len(first)}d}{end}" for end in tails]
            if len(names) > MOST_HOSTS:
                raise _bad(nodelist, f"it names more than {MOST_HOSTS} hosts")
    return names


def _bad(nodelist: str, why: str) -> ConfigError:
    return ConfigError(
        f"cannot read the node list {nodelist[:80]!r}", where="SLURM_STEP_NODELIST", why=why
    )
