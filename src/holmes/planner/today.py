"""A plan beside what the user runs today, in one sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from holmes.errors import ConfigError, suggestion
from holmes.plan.diff import diff
from holmes.plan.layout import BUNDLES, Wishes
from holmes.plan.plan import Plan
from holmes.planner.request import PlanRequest
from holmes.planner.search import make_plan

DEGREES = {
    "tp": "tensor",
    "pp": "pipeline",
    "dp": "data",
    "cp": "context",
    "ep": "expert",
    "v": "virtual_stages",
}
WORDS = ("order", "schedule", "recompute", "sharding", "transport", "partition")
MOST_REASONS = 3


def compared(plan: Plan, request: PlanRequest, today: str) -> dict[str, Any]:
    """The plan against today's layout.

    Args:
        today: ``tp=8,pp=2,dp=6,order=launch``; what is left out is as Megatron-LM runs
            by default: launch order, one network for all, equal stages, no overlap.

    Returns:
        ``{sentence, speedup, today: {step_seconds, layout}, reasons}``.

    Raises:
        ConfigError: a word that is unknown, or a layout that cannot be.
    """
    other = make_plan(replace(todays(request, today), name="today"))
    mine = replace(plan, name="the plan", placement_name="the plan")
    headline, *reasons = diff(mine, other)
    told = [reason for reason in reasons if not reason.startswith("data.")][:MOST_REASONS]
    sentence = headline + (" " + "; ".join(told) if told else "")
    return {
        "sentence": sentence,
        "speedup": other.predicted.step_seconds / plan.predicted.step_seconds,
        "today": {"step_seconds": other.predicted.step_seconds, "given": today},
        "reasons": reasons,
    }


def todays(request: PlanRequest, text: str) -> PlanRequest:
    """The request of a layout given in words.

    Raises:
        ConfigError: naming the word that is wrong.
    """
    given: dict[str, Any] = dict(BUNDLES["megatron"])
    micro = request.micro_batch
    for word in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = word.partition("=")
        if not equals:
            raise _wrong(word, "it is key=value, for example tp=8")
        if key in DEGREES or key == "micro":
            if not value.isdigit() or int(value) < 1:
                raise _wrong(word, "the value is a whole number of at least 1")
            if key == "micro":
                micro = int(value)
            else:
                given[DEGREES[key]] = int(value)
        elif key == "ranks":
            given["rank_map"] = _ranks(value)
        elif key == "overlap":
            given["overlap"] = value == "true"
        elif key in WORDS:
            given[key] = value
        else:
            known = (*DEGREES, "micro", "ranks", "overlap", *WORDS)
            near = suggestion(key, known)
            raise _wrong(word, "known: " + ", ".join(known), near)
    if given.get("schedule", "1f1b") != "1f1b":
        given.pop("extra_warmup")
    elif "schedule" not in given:
        given["schedule"] = "interleaved" if given.get("virtual_stages", 1) > 1 else "1f1b"
    wishes = Wishes(**given)
    return replace(
        request, wishes=wishes, micro_batch=micro, capabilities=None, placement_name="today"
    )


def _ranks(value: str) -> tuple[int, ...]:
    """``0:2:3:1``; colons, since commas part the words."""
    parts = value.split(":")
    if not all(part.isdigit() for part in parts):
        raise _wrong(f"ranks={value}", "device indices joined by colons, for example 0:2:3:1")
    return tuple(int(part) for part in parts)


def _wrong(word: str, why: str, near: str | None = None) -> ConfigError:
    return ConfigError(
        f"{word[:80]!r} does not say what runs today",
        where="--compare",
        why=why,
        next_step=f"did you mean {near!r}?" if near else None,
    )
