"""Why nothing moves: who waits for whom, from the boards of all ranks at one moment.

A rank that is inside a communication waits for the members that have not begun theirs.
Who waits for nobody is where it hangs: a rank that computes, is between instructions or
is stopped is frozen; a transfer that both ends have begun hangs on the network; where
everybody waits for somebody, it is a deadlock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from holmes.diagnose.records import Places
from holmes.diagnose.sockets import Connection
from holmes.diagnose.verdict import Verdict
from holmes.events.join import COMPUTE_LANE
from holmes.events.order import Order
from holmes.runtime.monitor.board import Phase, Reading, Slot


@dataclass(frozen=True)
class Scene:
    """All that is known at the moment a run hangs; everything by logical rank or host.

    Attributes:
        states: the kernel's word for each process (``stopped``, ``waiting``...).
        addresses: IP address -> (host, NIC kind).
        connections: as seen on each host.
        no_carrier: (host, NIC kind) of cards whose carrier is gone.
    """

    boards: Mapping[int, Reading]
    states: Mapping[int, str] = field(default_factory=dict)
    addresses: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    connections: Mapping[str, tuple[Connection, ...]] = field(default_factory=dict)
    no_carrier: tuple[tuple[str, str], ...] = ()


def why_stopped(scene: Scene, order: Order, places: Places) -> Verdict:
    """The verdict on a run in which no rank gets anywhere."""
    stopped = [rank for rank, state in scene.states.items() if state.startswith("stopped")]
    if stopped:
        rank = min(stopped)
        seen = [
            f"the kernel says that rank {rank} is {scene.states[rank]}",
            doing(scene, rank, order),
        ]
        seen += [f"rank {other} is {scene.states[other]} too" for other in sorted(stopped)[1:]]
        return Verdict("frozen", rank, places.host(rank), confidence=0.99, evidence=tuple(seen))
    waiting = waits(scene.boards, order)
    under_way = sorted(r for r, board in scene.boards.items() if board.phase is not Phase.OUTSIDE)
    roots = [rank for rank in under_way if not waiting[rank]]
    busy = {rank: _busy(scene.boards[rank]) for rank in roots}
    stuck = [
        rank
        for rank in roots
        if scene.boards[rank].inside
        and (not busy[rank] or any(slot.lane == COMPUTE_LANE for slot in busy[rank]))
    ]
    graph = [f"rank {rank} waits for {_listed(found)}" for rank, found in waiting.items() if found]
    if stuck:
        rank = max(stuck, key=lambda one: sum(one in found for found in waiting.values()))
        why = (doing(scene, rank, order), *graph)
        return Verdict("frozen", rank, places.host(rank), confidence=0.8, evidence=why)
    if not roots:
        if not graph and scene.no_carrier:
            return _network(scene, ())
        if not graph:
            return Verdict("software", confidence=0.3, evidence=("no rank is inside a step",))
        return Verdict("deadlock", confidence=0.8, evidence=tuple(graph))
    ends = [doing(scene, rank, order) + ", and all partners are there" for rank in roots]
    return _network(scene, (*ends, *graph))


def waits(boards: Mapping[int, Reading], order: Order) -> dict[int, set[int]]:
    """For each rank, the ranks that have not begun the counterpart of what it is doing."""
    position = _positions(order)
    found: dict[int, set[int]] = {rank: set() for rank in boards}
    for rank, board in boards.items():
        if board.phase in (Phase.BEFORE, Phase.AFTER):
            place = board.step, board.phase
            found[rank] |= {o for o, b in boards.items() if (b.step, b.phase) < place}
            continue
        for slot in _busy(board):
            for partner in order.partners.get(slot.instruction, ()):
                other = order.rank_of[partner]
                if other in boards and not _begun(boards[other], slot.step, partner, position):
                    found[rank].add(other)
        found[rank].discard(rank)
    return found


def _positions(order: Order) -> dict[int, tuple[str, int]]:
    """Instruction -> its lane, and its place in its rank's list."""
    return {id_: (ins.lane, place) for place, (id_, ins) in enumerate(order.instructions.items())}


def _begun(
    board: Reading, step: int, instruction: int, position: Mapping[int, tuple[str, int]]
) -> bool:
    if board.step != step:
        return board.step > step
    if not board.inside:
        return board.phase is not Phase.BEFORE
    lane, place = position[instruction]
    slot = next((slot for slot in board.slots if slot.lane == lane), None)
    if slot is None or slot.count == 0 or slot.step != step:
        return False
    return position[slot.instruction][1] >= place


def _busy(board: Reading) -> list[Slot]:
    return [slot for slot in board.slots if slot.busy]


def doing(scene: Scene, rank: int, order: Order) -> str:
    """What a rank's board says of it, in words."""
    board = scene.boards.get(rank)
    if board is None:
        return f"rank {rank} has not begun a step"
    if not board.inside:
        where = {Phase.BEFORE: "in the barrier before", Phase.AFTER: "in the barrier after"}
        return f"rank {rank} is {where.get(board.phase, 'outside')} step {board.step}"
    names = []
    for slot in _busy(board):
        ins = order.instructions.get(slot.instruction)
        what = f"{ins.op.value}, " if ins is not None else ""
        names.append(f"{what}instruction {slot.instruction} on {slot.lane}")
    return f"rank {rank} is in step {board.step}, {', '.join(names) or 'between two instructions'}"


def _network(scene: Scene, seen: tuple[str, ...]) -> Verdict:
    """Which card the connections that do not get through have in common."""
    pairs: set[frozenset[tuple[str, str]]] = set()
    for listed in scene.connections.values():
        for one in listed:
            ends = scene.addresses.get(one.local), scene.addresses.get(one.remote)
            if one.retransmits and one.unsent and ends[0] and ends[1] and ends[0] != ends[1]:
                pairs.add(frozenset((ends[0], ends[1])))
    shown = [
        f"unacknowledged bytes are sent again between {' and '.join(sorted(h for h, _ in pair))}"
        for pair in sorted(pairs, key=sorted)
    ]
    involved = {end for pair in pairs for end in pair}
    without = [card for card in scene.no_carrier if card in involved or not pairs]
    if without:
        host, nic = without[0]
        shown.append(f"the {nic} card of {host} has no carrier")
        return Verdict("cut-link", None, host, nic, confidence=0.99, evidence=(*seen, *shown))
    if not pairs:
        note = "no connection is sending again, so the network seems to work"
        return Verdict("software", confidence=0.4, evidence=(*seen, note))
    votes = {end: sum(end in pair for pair in pairs) for end in involved}
    best = sorted(end for end in votes if votes[end] == max(votes.values()))
    fit = votes[best[0]] / len(pairs)
    if len(best) == 1:
        host, nic = best[0]
        return Verdict("cut-link", None, host, nic, confidence=0.9 * fit, evidence=(*seen, *shown))
    link = "-".join(sorted({host for host, _ in best}))
    return Verdict(
        "cut-link",
        nic=best[0][1],
        link=link,
        confidence=0.9 * fit / len(best),
        evidence=(*seen, *shown),
    )


def _listed(ranks: set[int]) -> str:
    words = ", ".join(str(rank) for rank in sorted(ranks))
    return f"rank{'s' if len(ranks) > 1 else ''} {words}"
