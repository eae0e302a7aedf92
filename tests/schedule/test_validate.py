"""The proof over a grid, and that it notices what it should."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holmes.schedule import (
    Action,
    Op,
    Program,
    Schedule,
    generate,
    interleaved,
    one_f_one_b,
    validate,
    zero_bubble,
)
from holmes.schedule.generate import FORMS
from holmes.schedule.validate import ScheduleError
from tests.schedule.programs import grid, program_of


def test_every_schedule_of_the_grid_is_sound() -> None:
    checked = set()
    for schedule in grid(range(1, 5), range(1, 10), range(1, 4)):
        validate(program_of(schedule), schedule)
        checked.add((schedule.name, schedule.virtual_stages))
    assert checked == {
        (form.name, v) for form in FORMS.values() for v in ((2, 3) if form.loops else (1,))
    }


@pytest.mark.parametrize("overlap", [False, True])
def test_and_with_replicas(overlap: bool) -> None:
    for schedule in grid(range(2, 4), range(2, 7), range(1, 3)):
        validate(program_of(schedule, dp=2, overlap=overlap), schedule)


@pytest.mark.parametrize(("p", "m", "v"), [(8, 64, 4), (16, 32, 2)])
def test_large_ones(p: int, m: int, v: int) -> None:
    for name in ("interleaved", "looped-bfs"):
        schedule = generate(name, p, m, v)  # type: ignore[arg-type]
        validate(program_of(schedule), schedule)


def changed(program: Program, rank: int, keep: object) -> Program:
    lists = [list(one) for one in program.ranks]
    lists[rank] = [ins for ins in lists[rank] if keep(ins)]  # type: ignore[operator]
    return Program(tuple(tuple(one) for one in lists))


def test_a_missing_send_is_noticed() -> None:
    program = program_of(one_f_one_b(2, 3))
    first = next(ins for ins in program.ranks[0] if ins.op is Op.SEND)
    with pytest.raises(ScheduleError, match="do not match"):
        validate(changed(program, 0, lambda ins: ins is not first))


def test_a_transfer_of_another_stage_over_the_same_pair_is_noticed() -> None:
    """Both stages of rank 0 send micro-batch 0 down to rank 1."""
    schedule = interleaved(2, 2, 2)
    program = program_of(schedule)
    swapped = []
    for ins in program.ranks[0]:
        if ins.op is Op.SEND and ins.lane == "comm:pipeline.0-1.down":
            ins = replace(ins, stage=2 - ins.stage)
        swapped.append(ins)
    with pytest.raises(ScheduleError, match="do not match"):
        validate(Program((tuple(swapped), program.ranks[1])), schedule)


def test_receives_that_come_too_late_deadlock() -> None:
    """The last rank sends while the first still runs its first loop."""
    schedule = generate("looped-bfs", 2, 8, 2)
    validate(program_of(schedule), schedule)
    with pytest.raises(ScheduleError, match="deadlock"):
        validate(program_of(replace(schedule, ahead=0)))


def test_the_bound_on_activations_is_exact() -> None:
    for schedule in grid(range(1, 5), range(1, 9), range(1, 3)):
        tighter = replace(schedule, in_flight=tuple(n - 1 for n in schedule.in_flight))
        with pytest.raises(ScheduleError, match="more than its bound"):
            validate(program_of(schedule), tighter)


def reordered(schedule: Schedule, rank: int, order: list[Action]) -> Schedule:
    actions = list(schedule.actions)
    actions[rank] = tuple(order)
    return replace(schedule, actions=tuple(actions))


def test_weights_before_inputs_and_another_order_of_sums_are_noticed() -> None:
    schedule = zero_bubble(2, 3)
    order = list(schedule.actions[1])
    early = next(i for i, a in enumerate(order) if a.op is Op.WEIGHT_GRADIENT)
    with pytest.raises(ScheduleError, match="comes before its input_gradient"):
        validate(
            program_of(schedule),
            reordered(schedule, 1, [order[early], *order[:early], *order[early + 1 :]]),
        )
    backwards = [a for a in order if a.op is not Op.WEIGHT_GRADIENT]
    backwards += [Action(Op.WEIGHT_GRADIENT, 1, m) for m in (2, 1, 0)]
    with pytest.raises(ScheduleError, match="adds up gradients"):
        validate(program_of(schedule), reordered(schedule, 1, backwards))
