"""Max-min fairness: conservation, the bottleneck certificate, and a slow twin."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holmes.cost.network import Flow
from holmes.simulate.sharing import max_min_rates

NAMES = ("a", "b", "c", "d", "e")


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[Flow], dict[str, float]]:
    capacity = {name: draw(st.floats(0.1, 100.0)) for name in NAMES}
    flows = []
    for _ in range(draw(st.integers(1, 8))):
        path = tuple(draw(st.sets(st.sampled_from(NAMES), min_size=1, max_size=4)))
        cap = draw(st.one_of(st.just(math.inf), st.floats(0.1, 50.0)))
        flows.append(Flow(path, 1.0, draw(st.integers(1, 4)), cap))
    return flows, capacity


def used(flows: list[Flow], rates: list[float], name: str) -> float:
    return sum(rate for flow, rate in zip(flows, rates, strict=True) if name in flow.resources)


def feasible(flows: list[Flow], rates: list[float], capacity: dict[str, float]) -> bool:
    room = all(used(flows, rates, name) <= capacity[name] for name in capacity)
    return room and all(rate <= flow.cap for flow, rate in zip(flows, rates, strict=True))


def slow_twin(flows: list[Flow], capacity: dict[str, float]) -> list[float]:
    """Raise one common level by bisection, freeze whoever cannot rise alone, repeat."""
    frozen: dict[int, float] = {}

    def at(level: float) -> list[float]:
        return [frozen.get(n, level * flow.weight) for n, flow in enumerate(flows)]

    while len(frozen) < len(flows):
        low, high = 0.0, 1000.0
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if feasible(flows, at(middle), capacity) else (low, middle)
        rates = at(low)
        for number in range(len(flows)):
            raised = list(rates)
            raised[number] += 1e-6 * flows[number].weight
            if number not in frozen and not feasible(flows, raised, capacity):
                frozen[number] = rates[number]
    return [frozen[n] for n in range(len(flows))]


@given(networks())
@settings(max_examples=200, deadline=None)
def test_every_flow_has_a_bottleneck_and_nothing_is_overfull(
    network: tuple[list[Flow], dict[str, float]],
) -> None:
    flows, capacity = network
    rates = max_min_rates(flows, capacity)
    for name in NAMES:
        assert used(flows, rates, name) <= capacity[name] * (1 + 1e-9)
    for flow, rate in zip(flows, rates, strict=True):
        assert 0 < rate <= flow.cap * (1 + 1e-9)
        at_cap = rate >= flow.cap * (1 - 1e-9)
        level = rate / flow.weight
        held_back = any(
            used(flows, rates, name) >= capacity[name] * (1 - 1e-9)
            and all(
                other / f.weight <= level * (1 + 1e-9)
                for f, other in zip(flows, rates, strict=True)
                if name in f.resources
            )
            for name in flow.resources
        )
        assert at_cap or held_back


@given(networks())
@settings(max_examples=60, deadline=None)
def test_agrees_with_the_slow_twin(network: tuple[list[Flow], dict[str, float]]) -> None:
    flows, capacity = network
    assert max_min_rates(flows, capacity) == pytest.approx(slow_twin(flows, capacity), rel=1e-4)


def test_the_textbook_line() -> None:
    """One long flow over two links of 1 and 2, one short flow on each."""
    flows = [Flow(("a", "b"), 1.0), Flow(("a",), 1.0), Flow(("b",), 1.0)]
    assert max_min_rates(flows, {"a": 1.0, "b": 2.0}) == pytest.approx([0.5, 0.5, 1.5])


def test_a_bundle_gets_the_share_of_its_connections() -> None:
    flows = [Flow(("a",), 1.0, weight=3), Flow(("a",), 1.0)]
    assert max_min_rates(flows, {"a": 8.0}) == pytest.approx([6.0, 2.0])
