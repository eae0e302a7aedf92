"""Every schedule over a grid of counts, and the program of each with data groups and ties."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from holmes.errors import ConfigError
from holmes.schedule import SCHEDULES, Program, Schedule, generate, lower
from holmes.schedule.instruction import Bucket, StageShape
from holmes.schedule.transfers import Division, Parts, parts_of, transfers

EXTRAS = (0, 1, 2)


def grid(stages: range, microbatches: range, virtual: range) -> Iterator[Schedule]:
    """All schedules that exist for these counts."""
    counts = itertools.product(SCHEDULES, stages, microbatches, virtual, EXTRAS)
    for name, p, m, v, extra in counts:
        try:
            yield generate(name, p, m, v, extra)
        except ConfigError:
            continue


def program_of(schedule: Schedule, *, dp: int = 1, overlap: bool = False) -> Program:
    """Two blocks and two buckets a stage; the first and last stage share a weight."""
    p = schedule.stages
    count = p * schedule.virtual_stages
    ranks = [tuple(range(r * dp, (r + 1) * dp)) for r in range(p)]
    shapes = []
    for stage in range(count):
        mine, start = ranks[stage % p], 2 * stage
        ends = stage in (0, count - 1) and p > 1
        first = 2 * (stage // p)
        buckets = tuple(
            Bucket(
                first + i, (start + i, start + i + 1), 10, ends and start + i in (0, 2 * count - 1)
            )
            for i in range(2)
        )
        above, below = ranks[(stage - 1) % p], ranks[(stage + 1) % p]
        shapes.append(
            StageShape(
                stage,
                (start, start + 2),
                mine,
                buckets,
                data_group=f"data.s{stage % p}" if dp > 1 else None,
                inputs=_pairs(above, mine)[1] if stage else (),
                outputs=_pairs(mine, below)[0] if stage < count - 1 else (),
                tied_group=tuple(f"tied.{d}" for d in range(dp)) if ends else (),
            )
        )
    return lower(schedule, tuple(shapes), overlap=overlap, norm_tensors=4)


def _pairs(above: tuple[int, ...], below: tuple[int, ...]) -> tuple[Parts, Parts]:
    division = Division((1,) * len(above))
    return parts_of(transfers(division, division, 64), above, below)
