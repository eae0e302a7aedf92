"""`key.sub=value` words and shorthand options, applied to the job or to its site."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holmes.errors import ConfigError, suggestion
from holmes.hardware.site import Site
from holmes.hardware.validation import known_keys
from holmes.hardware.yaml_reader import parse_yaml, shown
from holmes.job.draft import Draft, Origin
from holmes.job.job import Job

SHORTHAND: dict[str, tuple[str, ...]] = {
    "site": ("site",),
    "model": ("model",),
    "global_batch": ("batch", "global"),
    "micro_batch": ("batch", "micro"),
    "seq": ("model", "sequence"),
    "placement": ("placement",),
    "rank_map": ("parallel", "rank_map"),
    "steps": ("train", "steps"),
    "name": ("name",),
}
"""Options of commands that stand for job keys."""

SITE_ONLY = frozenset(known_keys(Site)) - frozenset(known_keys(Job))
SITE_REHEARSAL = frozenset(known_keys(Site, ("rehearsal",)))
_KEY = re.compile(r"[^\s=.]+(\.[^\s=.]+)*")


@dataclass(frozen=True)
class Override:
    """One assignment: the words of its key, its value, and where it was given."""

    parts: tuple[str, ...]
    value: Any
    origin: Origin

    @property
    def for_site(self) -> bool:
        """Whether the key belongs to the site file rather than to the job file."""
        first, *rest = self.parts
        if first == "site":
            return bool(rest)
        return first in SITE_ONLY or (
            first == "rehearsal" and bool(rest) and rest[0] in SITE_REHEARSAL
        )

    def apply(self, draft: Draft) -> None:
        """Set the value in the draft of the job or of the site.

        Raises:
            ConfigError: when the key leads nowhere.
        """
        within_site = self.for_site and self.parts[0] == "site"
        draft.assign(list(self.parts[1:] if within_site else self.parts), self.value, self.origin)


def parse_override(word: str) -> Override:
    """One ``key.sub=value`` word; the value is read as YAML.

    Raises:
        ConfigError: no ``=``, an empty key, a value that is no YAML, or a first
            word that is neither a job key nor a site key.
    """
    key, equals, text = word.partition("=")
    where = f"override {shown(word)}"
    if not equals or not _KEY.fullmatch(key):
        raise ConfigError(
            f"{shown(word)!r} is not an override",
            where=where,
            why="an override is key.sub=value, for example train.steps=50",
        )
    parts = tuple(key.split("."))
    known = {*known_keys(Job), *known_keys(Site)}
    if parts[0] not in known:
        near = suggestion(parts[0][:80], sorted(known))
        raise ConfigError(
            f"there is no key `{shown(parts[0])}`",
            where=where,
            why=f"known: {', '.join(known_keys(Job))}; and of the site: "
            + ", ".join(sorted(SITE_ONLY)),
            next_step=f"did you mean `{near}`?" if near else None,
        )
    try:
        value = parse_yaml(text.encode("utf-8", "surrogateescape"), where).data
    except ConfigError as error:
        raise ConfigError(
            f"the value of `{shown(key)}` is not plain YAML",
            where=where,
            why=error.why or error.what,
        ) from None
    return Override(parts, value, Origin("override", where))


def from_shorthand(given: Mapping[str, Any]) -> list[Override]:
    """Overrides for options such as ``--global-batch``; None means not given."""
    found = []
    for option, value in given.items():
        if value is not None:
            label = f"--{option.replace('_', '-')}"
            found.append(Override(SHORTHAND[option], value, Origin(label, f"option {label}")))
    return found
