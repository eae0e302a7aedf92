"""What the runtime lacks for the best plan there is."""

from __future__ import annotations

from holmes.plan.capabilities import Capabilities, refusals
from holmes.plan.explain import layout_text
from holmes.plan.plan import Plan


def missing_for(best: Plan, capabilities: Capabilities, seconds: float) -> tuple[str, ...]:
    """One line per missing ability, the gain first; empty when nothing is missing.

    Args:
        best: the unrestricted best plan.
        seconds: step time of the plan that the runtime can run.
    """
    lacking = refusals(best, capabilities)
    if not lacking:
        return ()
    gain = seconds / best.predicted.step_seconds
    return (f"{layout_text(best)} would be {gain:.2f} times faster", *lacking)
