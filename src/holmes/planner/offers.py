"""What a search offers besides its winner: the next best, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from holmes.plan.explain import seconds_text
from holmes.planner.breakdown import breakdown
from holmes.planner.draft import Draft
from holmes.planner.field import Field, Row
from holmes.planner.search import Scored, Search

MOST_FRONT = 12


@dataclass(frozen=True)
class Offer:
    """One candidate as it is shown.

    Attributes:
        step_seconds: predicted; ``source`` says by what (priced, or only scored).
        memory_bytes: of the fullest rank.
        devices: how many it uses.
        reason: what it loses against the best, or empty.
    """

    layout: dict[str, int]
    micro_batch: int
    schedule: str
    virtual_stages: int
    recompute: str
    sequence_parallel: bool
    sharding: str
    clusters: str
    blocks: tuple[int, ...]
    step_seconds: float
    memory_bytes: int
    devices: int
    source: str
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @property
    def name(self) -> str:
        """The candidate in a few words."""
        degrees = " x ".join(f"{k} {v}" for k, v in self.layout.items() if v > 1 or k == "tp")
        text = f"{degrees}, micro {self.micro_batch}, {self.schedule}"
        text += f" x {self.virtual_stages}" if self.virtual_stages > 1 else ""
        text += f", recompute {self.recompute}" if self.recompute != "none" else ""
        text += ", sequence parallel" if self.sequence_parallel else ""
        return text + (f", sharding {self.sharding}" if self.sharding != "optimizer" else "")


def top(search: Search, best: Scored, count: int, *, reasons: bool = True) -> list[Offer]:
    """The best ``count`` candidates, the winner first, each with what it loses."""
    found = [_offer(best, best, "")]
    for scored in sorted(search.losers, key=lambda one: one.seconds)[: max(0, count - 1)]:
        found.append(_offer(scored, best, _loses(scored, best, reasons)))
    # The search prices only what may win: the rest of the list stands by its score.
    drafts = [best.draft, *(scored.draft for scored in search.losers)]
    known = {(draft.shape, draft.rank_map, draft.choice) for draft in drafts}
    for row in search.field.ordered():
        if len(found) >= count:
            break
        if (row.shape, row.ground.rank_map, row.choice) not in known:
            ratio = row.seconds / best.seconds
            found.append(replace(_of_row(row), reason=f"{ratio:.3f} times the best, by its score"))
    return found


def front(field: Field) -> list[Offer]:
    """Candidates of which none is beaten in both step time and memory, fastest first.

    From scores; of a long front :data:`MOST_FRONT` evenly spaced ones.
    """
    seconds, bytes_, places = field.flat()
    order = np.lexsort((bytes_, seconds))
    least = np.minimum.accumulate(bytes_[order])
    keep = order[np.flatnonzero(np.diff(least, prepend=np.inf) < -1e-3 * least)]
    if len(keep) > MOST_FRONT:
        keep = keep[np.linspace(0, len(keep) - 1, MOST_FRONT).round().astype(int)]
    return [_of_row(field.row(places[index])) for index in keep]


def _loses(scored: Scored, best: Scored, reasons: bool) -> str:
    """What costs a candidate its time, in the two largest differences."""
    ratio = scored.seconds / best.seconds
    if not reasons:
        return f"{ratio:.3f} times the best"
    mine = breakdown(scored.draft, scored.seconds).parts()
    theirs = breakdown(best.draft, best.seconds).parts()
    worse = sorted(((mine[k] - theirs[k], k) for k in mine), reverse=True)[:2]
    told = [f"{name} +{seconds_text(more)}" for more, name in worse if more > 1e-3 * best.seconds]
    return f"{ratio:.3f} times the best" + (f": {', '.join(told)}" if told else "")


def _offer(scored: Scored, best: Scored, reason: str) -> Offer:
    draft = scored.draft
    blocks = tuple(stop - start for start, stop in draft.borders)
    memory = max(draft.memory)
    return _offered(draft, blocks, scored.seconds, memory, "priced", reason)


def _of_row(row: Row) -> Offer:
    return _offered(row, (), row.seconds, round(row.bytes_), "scored", "")


def _offered(
    one: Draft | Row,
    blocks: Sequence[int],
    seconds: float,
    memory: int,
    source: str,
    reason: str,
) -> Offer:
    choice, layout = one.choice, one.shape.layout
    ground = one.estimates.ground if isinstance(one, Draft) else one.ground
    clusters = [slot.node.cluster for slots in ground.slots for slot in slots]
    return Offer(
        layout={axis: n for axis, n in asdict(layout).items() if isinstance(n, int)},
        micro_batch=one.shape.batch.micro,
        schedule=choice.schedule,
        virtual_stages=choice.virtual_stages,
        recompute=choice.recompute,
        sequence_parallel=choice.sequence,
        sharding=choice.sharding,
        clusters=" > ".join(dict.fromkeys(clusters)),
        blocks=tuple(blocks),
        step_seconds=seconds,
        memory_bytes=memory,
        devices=layout.devices,
        source=source,
        reason=reason,
    )
