"""Golden timelines, closed forms of bubble and activations, and what is refused."""

from __future__ import annotations

import pytest

from holmes.errors import ConfigError
from holmes.schedule import SCHEDULES, Op, Schedule, generate, gpipe, looped_bfs, one_f_one_b
from holmes.schedule.bubble import bubble_time, predicted_bubble_fraction
from holmes.schedule.generate import FORMS
from holmes.schedule.timeline import (
    Durations,
    activation_peaks,
    bubble_fraction,
    makespan,
    timeline,
)
from holmes.simulate import simulate, step_seconds, summarize
from tests.schedule.programs import grid
from tests.simulate.plans import Case, make

EQUAL = Durations(1, 2, 1)
SHAPES = [EQUAL, Durations(2, 5, 2), Durations(3, 4, 1), Durations(2, 5, 3), Durations(1, 9, 4)]
LETTERS = {
    Op.FORWARD: "F",
    Op.BACKWARD: "B",
    Op.INPUT_GRADIENT: "I",
    Op.WEIGHT_GRADIENT: "W",
}


def drawn(schedule: Schedule, durations: Durations = EQUAL) -> list[str]:
    """One line a rank, two characters a time unit: letter and micro-batch; later stages of
    a rank in lower case; a dot when idle."""
    slots = timeline(schedule, durations)
    width = int(makespan(slots))
    rows = [["."] * width for _ in range(schedule.stages)]
    for slot in slots:
        letter = LETTERS[slot.action.op]
        if slot.action.stage >= schedule.stages:
            letter = letter.lower()
        for unit in range(int(slot.start), int(slot.stop)):
            rows[slot.rank][unit] = f"{letter}{slot.action.microbatch}"
    return [" ".join(f"{cell:2}" for cell in row).rstrip() for row in rows]


GOLDEN = {
    "gpipe": (
        (3, 3, 1),
        """\
F0 F1 F2 .  .  .  .  .  .  B2 B2 B1 B1 B0 B0
.  F0 F1 F2 .  .  .  B2 B2 B1 B1 B0 B0 .  .
.  .  F0 F1 F2 B2 B2 B1 B1 B0 B0 .  .  .  .""",
    ),
    "1f1b": (
        (3, 4, 1),
        """\
F0 F1 F2 .  .  .  .  B0 B0 F3 B1 B1 .  B2 B2 .  B3 B3
.  F0 F1 .  .  B0 B0 F2 B1 B1 F3 B2 B2 .  B3 B3 .  .
.  .  F0 B0 B0 F1 B1 B1 F2 B2 B2 F3 B3 B3 .  .  .  .""",
    ),
    "interleaved": (
        (2, 4, 2),
        """\
F0 F1 f0 f1 F2 .  b0 b0 F3 b1 b1 f2 B0 B0 f3 B1 B1 .  b2 b2 .  b3 b3 B2 B2 B3 B3
.  F0 F1 f0 b0 b0 f1 b1 b1 F2 B0 B0 F3 B1 B1 f2 b2 b2 f3 b3 b3 B2 B2 B3 B3 .  .""",
    ),
    "zero-bubble": (
        (3, 4, 1),
        """\
F0 F1 F2 .  .  I0 W0 F3 I1 W1 I2 W2 I3 W3
.  F0 F1 .  I0 F2 I1 W0 F3 I2 W1 I3 W2 W3
.  .  F0 I0 F1 I1 F2 I2 W0 F3 I3 W1 W2 W3""",
    ),
    "looped-bfs": (
        (2, 3, 2),
        """\
F0 F1 F2 f0 f1 f2 .  .  .  b2 b2 b1 b1 b0 b0 B2 B2 B1 B1 B0 B0
.  F0 F1 F2 f0 f1 f2 b2 b2 b1 b1 b0 b0 B2 B2 B1 B1 B0 B0 .  .""",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_timeline(name: str) -> None:
    (p, m, v), text = GOLDEN[name]
    assert "\n".join(drawn(generate(name, p, m, v))) == text  # type: ignore[arg-type]


@pytest.mark.parametrize("durations", SHAPES, ids=str)
def test_bubble_is_the_closed_form_exactly(durations: Durations) -> None:
    seen = set()
    for schedule in grid(range(1, 6), range(1, 11), range(1, 4)):
        if schedule.name == "zero-bubble" and any(schedule.extra_warmup):
            assert predicted_bubble_fraction(schedule, durations) is None
            continue
        slots = timeline(schedule, durations)
        each = schedule.virtual_stages * (durations.forward + durations.backward)
        assert makespan(slots) - schedule.microbatches * each == bubble_time(schedule, durations)
        expected = predicted_bubble_fraction(schedule, durations)
        assert bubble_fraction(slots) == pytest.approx(expected, abs=1e-12)
        seen.add(schedule.name)
    assert seen == set(GOLDEN)


def test_zero_bubble_leaves_a_third_and_extra_warmup_less() -> None:
    full = bubble_time(one_f_one_b(4, 8), EQUAL)
    assert bubble_time(generate("zero-bubble", 4, 8), EQUAL) == full / 3
    slots = timeline(generate("zero-bubble", 4, 8, 1, 1), Durations(2, 5, 2))
    assert bubble_fraction(slots) < bubble_fraction(
        timeline(generate("zero-bubble", 4, 8), Durations(2, 5, 2))
    )


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize(("p", "m"), [(2, 2), (3, 6), (4, 8), (4, 12)])
@pytest.mark.parametrize("durations", SHAPES[:3], ids=str)
def test_the_simulators_say_the_same(name: str, p: int, m: int, durations: Durations) -> None:
    """Event simulator, recurrence and closed form, on the lowered program; no transfer time."""
    for v in (2, 3) if name in ("interleaved", "looped-bfs") else (1,):
        half = Durations(durations.forward, durations.backward, durations.backward / 2)
        case = Case(
            (durations.forward,) * (p * v),
            (durations.backward,) * (p * v),
            m,
            schedule=name,
            virtual=v,
        )
        plan, cost = make(case)
        schedule = generate(name, p, m, v)  # type: ignore[arg-type]
        summary = summarize(simulate(plan, cost))
        ideal = m * v * (half.forward + half.backward)
        seconds = ideal + bubble_time(schedule, half)
        assert summary.step_seconds == pytest.approx(seconds, abs=1e-6)
        assert step_seconds(plan, cost) == pytest.approx(seconds, abs=1e-6)
        expected = predicted_bubble_fraction(schedule, half)
        for rank in range(p):
            assert summary.bubble_fraction[rank] == pytest.approx(expected, abs=1e-7)


def test_activation_peaks_are_what_the_papers_say() -> None:
    """In micro-batches of a whole rank."""
    for p, m in ((2, 8), (4, 8), (4, 16)):
        assert activation_peaks(gpipe(p, m)) == (m,) * p
        assert activation_peaks(looped_bfs(p, m, 2)) == (m,) * p
        assert activation_peaks(one_f_one_b(p, m)) == tuple(p - s for s in range(p))
        assert activation_peaks(generate("zero-bubble", p, m)) == (p,) * p
        for v in (2, 3, 4):
            # Warm-up units and the one under way (Narayanan et al. 2021: 1 + (p-1)/(pv) more).
            units = [min(m * v, (v - 1) * p + 2 * (p - 1 - r) + 1) for r in range(p)]
            found = activation_peaks(generate("interleaved", p, m, v))
            assert found == pytest.approx([n / v for n in units])


def test_peaks_charge_what_waits_for_its_weights_apart() -> None:
    """Stage 0: F0 F1 I0 holds 1 + 3; stage 1: F0 I0 F1 I1 holds two that wait."""
    schedule = generate("zero-bubble", 2, 4)
    assert activation_peaks(schedule, (1, 1), (3, 3)) == (4, 6)


def test_interleaving_hides_a_slow_cut_without_extra_warmup() -> None:
    """A transfer of half a unit's forward and backward: no stall grows with m."""
    for m in (8, 16, 32):
        slow = makespan(timeline(generate("interleaved", 4, m, 2), Durations(2, 4, 2, 1)))
        plain = makespan(timeline(one_f_one_b(4, m), Durations(4, 8, 4, 1)))
        bare = makespan(timeline(generate("interleaved", 4, m, 2), Durations(2, 4, 2)))
        assert slow - bare <= 20
        assert plain - m * 12 - 36 >= m


def test_all_stages_add_up_in_one_order() -> None:
    for schedule in grid(range(1, 4), range(1, 5), range(1, 4)):
        backwards = schedule.name in ("gpipe", "looped-bfs")
        expected = range(schedule.microbatches)
        assert schedule.accumulation_order == tuple(reversed(expected) if backwards else expected)


@pytest.mark.parametrize(
    ("name", "counts", "says"),
    [
        ("interleaved", (4, 6, 2, 0), "6 micro-batches are not a multiple of 4"),
        ("interleaved", (4, 8, 1, 0), "1 virtual stage per rank"),
        ("interleaved", (1, 8, 2, 0), "one pipeline rank"),
        ("interleaved", (4, 8, 2, 1), "extra_warmup has no effect with schedule interleaved"),
        ("looped-bfs", (4, 8, 1, 0), "1 virtual stage per rank"),
        ("gpipe", (4, 8, 1, 1), "extra_warmup has no effect with schedule gpipe"),
        ("1f1b", (4, 8, 2, 0), "schedule 1f1b has one stage per rank, not 2"),
        ("zero-bubble", (4, 8, 1, -1), "must be non-negative"),
        ("1f1b", (0, 8, 1, 0), "at least one stage"),
    ],
)
def test_refusals_say_why(name: str, counts: tuple[int, int, int, int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        generate(name, *counts)  # type: ignore[arg-type]


def test_the_refusal_of_interleaving_names_counts_that_work() -> None:
    with pytest.raises(ConfigError) as caught:
        generate("interleaved", 4, 6, 2)
    assert "use 4 or 8 micro-batches" in caught.value.text()


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_rank_holds_more_once_the_pipeline_is_full(name: str) -> None:
    form = FORMS[name]
    if form.fills_after is None:
        return
    extras = (2, 0, 1) if form.fixed is None else (0, 0, 0)
    virtual = 3 if form.loops else 1
    enough = form.fills_after(4, virtual) + sum(extras)
    short, long = (form.make(4, m, virtual, extras) for m in (enough, 3 * enough))
    assert activation_peaks(short) == activation_peaks(long)
    half = activation_peaks(short, pending=(0.5,) * 4 * virtual)
    assert half == activation_peaks(long, pending=(0.5,) * 4 * virtual)
