"""Verdict: what is wrong with a run, in one value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

VerdictClass = Literal[
    "none",
    "dead",
    "frozen",
    "slow-compute",
    "slow-sender",
    "slow-receiver",
    "slow-link",
    "lossy-link",
    "cut-link",
    "deadlock",
    "software",
]

ADVICE: dict[VerdictClass, str] = {
    "none": "nothing to do",
    "dead": "see what ended it (memory, a signal, the machine); then resume from the last "
    "checkpoint, without its host if it happens again",
    "frozen": "look at the stacks in the logs; end the rank and resume from the last checkpoint",
    "slow-compute": "look for another process, a power or heat limit on the host; plan again "
    "with the device as slow as it is, or without it",
    "slow-sender": "check the card's transmit side (rate, cable, queue settings) on the host",
    "slow-receiver": "check the card's receive side (rate, interrupts, buffers) on the host",
    "slow-link": "check the rate that card, cable and switch port agreed on; plan again with the "
    "rate as it is: `holmes simulate --what-if` shows what it costs",
    "lossy-link": "check cable, optics and switch port for errors",
    "cut-link": "check cable and switch port, or plan without the card (another transport); then "
    "resume from the last checkpoint",
    "deadlock": "ranks wait for each other in a circle: report the plan and the run folder",
    "software": "read the error and the log of the rank",
}


@dataclass(frozen=True)
class Verdict:
    """What is wrong, and where as far as it is known.

    Attributes:
        rank: logical rank.
        host: node name.
        nic: kind of the card.
        link: ``<a>-<b>``: two clusters, or two hosts where nothing tells which end it is.
        confidence: 0 to 1, a score made from the evidence (how well it fits, how many
            other places would explain it as well), not a measured frequency.
        evidence: what was seen, one sentence each.
    """

    cls: VerdictClass
    rank: int | None = None
    host: str | None = None
    nic: str | None = None
    link: str | None = None
    confidence: float = 1.0
    evidence: tuple[str, ...] = ()

    @property
    def advice(self) -> str:
        return ADVICE[self.cls]

    def text(self) -> str:
        """The verdict in a few words."""
        where = [
            f"rank {self.rank}" if self.rank is not None else "",
            f"host {self.host}" if self.host else "",
            f"{self.nic} card" if self.nic and self.host else self.nic or "",
            f"link {self.link}" if self.link else "",
        ]
        place = ", ".join(word for word in where if word)
        return f"{self.cls}: {place}" if place else self.cls

    def to_dict(self) -> dict[str, Any]:
        """The contract of ``diagnosis.json``."""
        found = asdict(self)
        evidence = found.pop("evidence")
        verdict = {"class": found.pop("cls"), **found}
        verdict["confidence"] = round(self.confidence, 3)
        return {"verdict": verdict, "evidence": list(evidence), "advice": self.advice}
