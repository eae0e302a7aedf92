"""Why a run became slow: a rank that computes slower, or a card or link that all slow messages
have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import mean, median

from holmes.diagnose.change import SLOWER, Change, Windows, change_of, windows
from holmes.diagnose.edges import Edge, Sample, delays
from holmes.diagnose.losses import why_lossy
from holmes.diagnose.records import Places, Records
from holmes.diagnose.suspects import suspects
from holmes.diagnose.verdict import Verdict, VerdictClass
from holmes.schedule.instruction import COMPUTE_OPS

LEAST_COMPUTE = 0.0005
LEAST_WIRE = 0.0005
STALLS = 0.02
"""From this share of stalled messages on, an edge loses packets."""
LEAST_FIT = 0.75
LONGER_STEP = 1.08
"""Under this a step is as long as it was."""
SURE = 0.95


def why_slow(records: Records) -> Verdict:
    """The verdict on a run that went on; class ``none`` where nothing stands out."""
    compared = windows(records.complete)
    if compared is None:
        few = f"only {len(records.complete)} complete steps, too few to compare"
        return Verdict("none", confidence=0.3, evidence=(few,))
    lossy = why_lossy(records, compared)
    if lossy is not None:  # what is lost makes messages slow as well, not the other way round
        return lossy
    computing = compute_changes(records, compared)
    moving = {
        edge: change
        for edge, samples in delays(records).items()
        if (change := change_of(samples, compared, LEAST_WIRE)) is not None
    }
    by_compute = _slow_rank(computing, records.places)
    by_wire = _slow_network(moving, records.places, step_ratios(records, compared))
    if by_compute and by_wire:
        rank = by_compute.rank
        assert rank is not None
        worst = max(change.ratio for change in moving.values())
        same = by_wire.host == by_compute.host or computing[rank].ratio >= worst
        return by_compute if same else by_wire
    found = by_compute or by_wire
    return found or Verdict("none", confidence=0.8, evidence=(_steady(computing, moving),))


def step_ratios(records: Records, compared: Windows) -> tuple[float, float]:
    """Late over early steps, by median and by mean (where a tail shows).

    Messages that lengthen no step are no alarm.
    """
    lengths = {}
    for step in (*compared.before, *compared.after):
        spans = [span for found in records.steps.values() for span in found[step].spans.values()]
        arrived = [
            part.at
            for found in records.steps.values()
            for parts in found[step].arrivals.values()
            for part in parts
        ]
        starts, stops = [start for start, _ in spans], [stop for _, stop in spans]
        lengths[step] = max((*stops, *arrived)) - min(starts)
    early, late = ([lengths[step] for step in part] for part in (compared.before, compared.after))
    return median(late) / median(early), mean(late) / mean(early)


def compute_changes(records: Records, compared: Windows) -> dict[int, Change]:
    """How the computations of each rank changed."""
    found = {}
    for rank, steps in records.steps.items():
        samples = [
            Sample((id_,), step.step, (stop - start) / 1e9)
            for step in steps.values()
            for id_, (start, stop) in step.spans.items()
            if records.order.instructions[id_].op in COMPUTE_OPS
        ]
        change = change_of(samples, compared, LEAST_COMPUTE)
        if change is not None:
            found[rank] = change
    return found


def _slow_rank(computing: Mapping[int, Change], places: Places) -> Verdict | None:
    """The rank whose computation became slower than that of the others: what slows all ranks
    alike (an evaluation, a neighbour on shared cores) is nobody's fault."""
    if not computing:
        return None
    rank = max(computing, key=lambda one: computing[one].ratio)
    mine = computing[rank]
    others = [change.ratio for other, change in computing.items() if other != rank]
    usual = max(1.0, median(others)) if others else 1.0
    excess = mine.ratio / usual
    if not mine.slower or excess < SLOWER:
        return None
    seen = (
        f"rank {rank} computes {mine.ratio:.2f} times as long as at the start of the run "
        f"(median of {mine.count} instructions; early noise {mine.noise:.1%})",
        f"the other ranks: {', '.join(f'{ratio:.2f}' for ratio in others) or 'none'}",
    )
    sure = SURE * min(1.0, (excess - 1.0) / (2 * (SLOWER - 1.0)) + 0.3)
    return Verdict("slow-compute", rank, places.host(rank), confidence=sure, evidence=seen)


def _slow_network(
    moving: Mapping[Edge, Change], places: Places, longer: tuple[float, float]
) -> Verdict | None:
    slow = {edge for edge, change in moving.items() if change.slower}
    lossy = {edge for edge, change in moving.items() if change.stalls > STALLS}
    lost = not (slow and longer[0] > LONGER_STEP)
    worse = lossy if lost else slow
    if not worse or (lost and longer[1] <= LONGER_STEP):
        return None
    fits = [
        (_fit(suspect.edges, worse), suspect)
        for suspect in suspects(moving.keys(), places)
        if suspect.edges & worse and (suspect.cls == "slow-link" or suspect.edges <= worse)
    ]
    best = max((fit for fit, _ in fits), default=0.0)
    if best < LEAST_FIT:
        return None  # some slow messages, but no place that would explain them
    equal = [suspect for fit, suspect in fits if fit > best - 1e-9]
    whole = [one for one in equal if one.cls == "slow-link"] or equal
    chosen = whole[0]
    excess = median(moving[edge].ratio for edge in chosen.edges) / max(
        1.0, median([c.ratio for e, c in moving.items() if e not in chosen.edges] or [1.0])
    )
    if excess < SLOWER and not lost:
        return None
    cls: VerdictClass = "lossy-link" if lost else chosen.cls
    seen = tuple(_matrix_lines(moving, worse, places))
    sure = SURE * best / len(whole)
    if len(whole) == 1:
        return Verdict(cls, None, chosen.host, chosen.nic, chosen.link, sure, seen)
    hosts = sorted({places.host(rank) for edge in worse for rank in edge[:2]})
    note = f"{len(whole)} places explain it equally well, since too few edges cross them"
    return Verdict(
        cls, None, None, chosen.nic, "-".join(hosts), confidence=sure, evidence=(*seen, note)
    )


def _fit(edges: frozenset[Edge], worse: set[Edge]) -> float:
    """F1 of "exactly these edges are slow"."""
    return 2 * len(edges & worse) / (len(edges) + len(worse))


def _matrix_lines(moving: Mapping[Edge, Change], worse: set[Edge], places: Places) -> Iterator[str]:
    for edge in sorted(worse, key=lambda one: -moving[one].ratio)[:6]:
        change = moving[edge]
        stalls = f", {change.stalls:.0%} stalled" if change.stalls else ""
        yield (
            f"{edge.fabric} from rank {edge.source} ({places.host(edge.source)}) to rank "
            f"{edge.target} ({places.host(edge.target)}): {change.ratio:.2f} times as long "
            f"({change.count} messages, early noise {change.noise:.1%}{stalls})"
        )
    fine = [change.ratio for edge, change in moving.items() if edge not in worse]
    if fine:
        yield f"{len(fine)} other edges: {median(fine):.2f} times as long"


def _steady(computing: Mapping[int, Change], moving: Mapping[Edge, Change]) -> str:
    words = []
    for name, changes in (("computation", computing.values()), ("messages", moving.values())):
        ratios = [change.ratio for change in changes]
        if ratios:
            words.append(f"{name} {min(ratios):.2f} to {max(ratios):.2f} times as long")
    return "late steps against early ones: " + ("; ".join(words) or "nothing to compare")
