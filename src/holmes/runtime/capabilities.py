"""What this runtime can do, published without torch so that a planner can stay within it."""

from __future__ import annotations

from typing import get_args

from holmes.errors import ConfigError
from holmes.plan.capabilities import Capabilities, refusals
from holmes.plan.layout import Sharding
from holmes.plan.plan import Plan
from holmes.schedule.generate import SCHEDULES

MOST_VIRTUAL_STAGES = 64
"""Each costs a pair of connections per cut; beyond this nobody gains."""

CAPABILITIES = Capabilities(
    axes=frozenset({"tensor", "pipeline", "data", "context"}),
    schedules=frozenset(SCHEDULES),
    shardings=frozenset(get_args(Sharding)),
    recompute=frozenset({"none", "selective", "full"}),
    virtual_stages=MOST_VIRTUAL_STAGES,
    unequal_stages=True,
    context_algorithms=frozenset({"rsa", "ring", "ulysses"}),
)


def check(plan: Plan, capabilities: Capabilities = CAPABILITIES) -> None:
    """Refuse a plan that this runtime cannot run.

    Raises:
        ConfigError: naming everything in the plan that lies beyond the capabilities.
    """
    beyond = refusals(plan, capabilities)
    if beyond:
        raise ConfigError(
            f"the runtime cannot run this plan: it needs {', '.join(beyond)}",
            where=f"plan {plan.name}",
            why="the plan was made without the runtime's limits, or edited",
            next_step="leave these keys of `parallel` to the planner, then plan again",
        )


__all__ = ["CAPABILITIES", "check", "refusals"]
