"""Which of several paths each of a few large flows takes.

A fabric hashes connections to paths, so that with few large flows one path is
often full and another empty; whoever knows which source port goes where can
place them (C4, arXiv 2406.04594, traffic planning). This is scheduling on machines of
unequal speed: the time of a placement is that of the path which ends last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from holmes.errors import ConfigError, UnavailableError

WORTH_MOVING = 0.1
"""A running flow is moved when the end comes nearer by this share: moving costs a reconnect."""


def finish_seconds(bytes_: Sequence[float], rates: Sequence[float], paths: Sequence[int]) -> float:
    """When the last path ends.

    ``bytes_[i]`` is what is left of flow ``i`` and ``paths[i]`` its path; ``rates[p]`` is in
    bytes per second, 0 for a path that is dead (infinite if a flow with bytes is on it).
    """
    return max(_ends(bytes_, rates, paths), default=0.0)


def spread(bytes_: Sequence[float], rates: Sequence[float]) -> tuple[int, ...]:
    """The path of every flow, so that the last ends early.

    Largest first, each to the path that ends first with it (Graham 1969: at most
    4/3 of the least time on equal paths; Gonzalez, Ibarra and Sahni 1977: below
    twice it on unequal ones), then single moves and exchanges while they help.

    Raises:
        ConfigError: no path, or a negative size or rate.
        UnavailableError: every path is dead.
    """
    return _improved(bytes_, rates, _placed(bytes_, rates, [None] * len(bytes_)), gain=0.0)


def respread(
    bytes_: Sequence[float], rates: Sequence[float], held: Sequence[int]
) -> tuple[int, ...]:
    """The same for flows under way: ``held[i]`` is where flow ``i`` is.

    Flows on dead paths move; others only where each change pays
    (:data:`WORTH_MOVING`). Raises as :func:`spread`.
    """
    kept = [path if rates[path] > 0 else None for path in held]
    return _improved(bytes_, rates, _placed(bytes_, rates, kept), gain=WORTH_MOVING)


def _placed(
    bytes_: Sequence[float], rates: Sequence[float], held: Sequence[int | None]
) -> list[int]:
    """Every flow without a path, the largest first, where it ends first."""
    if not rates or min((*bytes_, *rates)) < 0:
        raise ConfigError("flows cannot be spread", why="sizes and rates are 0 or more, paths >= 1")
    alive = [path for path, rate in enumerate(rates) if rate > 0]
    if not alive:
        raise UnavailableError(
            "no path is left", why=f"nothing gets through on any of {len(rates)}"
        )
    loads = [0.0] * len(rates)
    found = [-1 if path is None else path for path in held]
    for flow, path in enumerate(found):
        if path >= 0:
            loads[path] += bytes_[flow]
    waiting = [flow for flow, path in enumerate(found) if path < 0]
    for flow in sorted(waiting, key=lambda flow: -bytes_[flow]):
        size = bytes_[flow]
        best = min(alive, key=lambda path: ((loads[path] + size) / rates[path], -rates[path]))
        found[flow] = best
        loads[best] += size
    return found


def _improved(
    bytes_: Sequence[float], rates: Sequence[float], paths: list[int], *, gain: float
) -> tuple[int, ...]:
    """Moves and exchanges of two, the best first, while each brings the end nearer by ``gain``."""
    while True:
        now = finish_seconds(bytes_, rates, paths)
        near = (
            (finish_seconds(bytes_, rates, other), other) for other in _neighbours(rates, paths)
        )
        best, found = min(near, default=(now, paths))
        if best >= now * (1 - gain) * (1 - 1e-9):
            return tuple(paths)
        paths = found


def _neighbours(rates: Sequence[float], paths: Sequence[int]) -> Iterator[list[int]]:
    """All placements with one flow moved or two exchanged."""
    for flow, path in enumerate(paths):
        for other, rate in enumerate(rates):
            if rate > 0 and other != path:
                yield [*paths[:flow], other, *paths[flow + 1 :]]
        for second in range(flow + 1, len(paths)):
            if paths[second] != path:
                swapped = list(paths)
                swapped[flow], swapped[second] = paths[second], path
                yield swapped


def _ends(bytes_: Sequence[float], rates: Sequence[float], paths: Sequence[int]) -> Iterator[float]:
    loads = [0.0] * len(rates)
    for size, path in zip(bytes_, paths, strict=True):
        loads[path] += size
    for load, rate in zip(loads, rates, strict=True):
        yield 0.0 if load == 0 else load / rate if rate > 0 else float("inf")
