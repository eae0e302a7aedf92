"""What must be the same on all ranks of a run: code, configuration, torch."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

import holmes
from holmes.train.assignment import Assignment

SHOWN = 12


def identity_of(given: Assignment) -> dict[str, str]:
    """Digests by what they are of; compared when ranks meet."""
    return {
        "version of torch": str(torch.__version__),
        "code of holmes": code_digest(),
        "job": _digest(given.job.model_dump(mode="json", by_alias=True, exclude={"output"})),
        "plan": _digest(_decided(given)),
        "start": _digest([given.resume_from, given.steps]),
    }


@cache
def code_digest() -> str:
    """Of all Python files of the package, by relative name."""
    root = Path(holmes.__file__).parent
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:SHOWN]


def _decided(given: Assignment) -> list[Any]:
    """What a plan decides; how long the search took differs from rank to rank."""
    plan = given.plan
    stages = [(stage.stage, stage.blocks, stage.ranks) for stage in plan.stages]
    groups = [(group.name, group.ranks, group.transport.name) for group in plan.groups]
    return [plan.schedule.digest, plan.rank_map, stages, groups, plan.batch.micro]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:SHOWN]
