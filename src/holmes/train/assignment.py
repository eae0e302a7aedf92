"""Assignment: what one rank is told to run; JSON-able, so it can be sent to any process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from holmes.data.prepare import TokenFiles
from holmes.hardware.topology import Topology, relative_speed
from holmes.job.job import Job
from holmes.lab.faults import Fault, parse_faults
from holmes.launch.context import RankContext
from holmes.launch.environment import from_environ, logical_rank
from holmes.plan.codec import plan_from_dict, plan_to_dict
from holmes.plan.plan import Plan


@dataclass(frozen=True)
class Assignment:
    """A plan to run, with everything a rank cannot find out by itself.

    Attributes:
        run_folder: where metrics, trace and checkpoints go, absolute.
        seats_are_devices: launch rank i runs device i of the site (a session);
            otherwise the node's name or rank decides.
        interface_override: one interface for all groups, where hosts share loopback.
        tokens: token files, where somebody has prepared them already.
        resume_from: a committed checkpoint, or None to start at step 0.
        steps: the step to stop before.
        save: write checkpoints.
        cores: share of a core that a rank on the fastest device computes with, slower
            devices in proportion; None: all it gets.
        inject: faults, as on the command line.
        generation: which start of the run this is; None: launch rank 0 knows.
        secret: of the run, which ranks show each other; empty where there is none.
    """

    job: Job
    plan: Plan
    run_folder: Path
    steps: int
    seats_are_devices: bool = False
    interface_override: str | None = None
    backend: Literal["gloo", "nccl"] = "gloo"
    tokens: TokenFiles | None = None
    resume_from: str | None = None
    save: bool = True
    cores: float | None = None
    inject: tuple[str, ...] = ()
    generation: int | None = 0
    secret: str = field(default="", repr=False)

    def to_json(self) -> dict[str, Any]:
        """JSON values; :meth:`from_json` reads them."""
        return {
            "job": self.job.model_dump(mode="json", by_alias=True),
            "plan": plan_to_dict(self.plan),
            "run_folder": str(self.run_folder),
            "steps": self.steps,
            "seats_are_devices": self.seats_are_devices,
            "interface_override": self.interface_override,
            "backend": self.backend,
            "tokens": self.tokens.to_json() if self.tokens else None,
            "resume_from": self.resume_from,
            "save": self.save,
            "cores": self.cores,
            "inject": list(self.inject),
            "generation": self.generation,
            "secret": self.secret,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Assignment:
        """The inverse of :meth:`to_json`.

        Raises:
            HolmesError: when job or plan are not valid.
        """
        tokens = data["tokens"]
        return cls(
            **{
                **data,
                "job": Job.model_validate(data["job"]),
                "plan": plan_from_dict(data["plan"], where="assignment"),
                "run_folder": Path(data["run_folder"]),
                "tokens": TokenFiles.from_json(tokens) if tokens else None,
                "inject": tuple(data["inject"]),
            }
        )

    @property
    def virtual(self) -> bool:
        """Whether ranks sleep instead of computing."""
        return self.job.rehearsal.devices == "virtual"

    @cached_property
    def topology(self) -> Topology:
        return Topology(self.plan.site)

    def faults(self) -> list[tuple[Fault, Path]]:
        """The faults to inject, and for each the file that tells when it happened."""
        parsed = parse_faults(self.inject, self.topology, self.steps)
        return [(f, self.run_folder / f".injected-{i}") for i, f in enumerate(parsed)]

    def compute_cores(self, rank: int) -> float | None:
        """Share of a core that a logical rank computes with, by the speed of its device."""
        if self.cores is None:
            return None
        return self.cores * relative_speed(self.topology, self.plan.rank_map[rank])

    def logical_rank(self, context: RankContext) -> int:
        """The plan's rank of the process with this context.

        Raises:
            ConfigError: the process sits on no device of the plan.
        """
        if self.seats_are_devices:
            return self.plan.rank_map.index(context.rank)
        return logical_rank(self.plan, from_environ(os.environ))
