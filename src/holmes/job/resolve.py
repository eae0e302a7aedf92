"""From a job file, overrides and options to one resolved job with the origin of each value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from holmes.errors import ConfigError
from holmes.hardware.read import site_document, site_from
from holmes.hardware.site import Site
from holmes.hardware.validation import validated
from holmes.hardware.yaml_reader import (
    KeyPath,
    dotted,
    item_name,
    part_of,
    read_yaml,
    scalar,
)
from holmes.job.draft import DEFAULT, Draft, Origin
from holmes.job.job import Job
from holmes.job.overrides import from_shorthand, parse_override

BUILT_IN = "shakespeare"
NEEDED = {
    "site": "give --site FILE, or a `site:` key in a job file",
    "model": "give --model PRESET, or a `model:` key in a job file",
    "batch": "give --global-batch N, or `batch: {global: N}` in a job file",
}


@dataclass(frozen=True)
class ResolvedJob:
    """A job and its site, checked, with where every value came from.

    ``origins`` maps dotted keys (those of the site start with ``site.``) to
    ``default``, ``file:line``, ``override`` or the name of an option.
    """

    job: Job
    site: Site
    origins: dict[str, str]

    def rows(self) -> tuple[tuple[str, Any, str], ...]:
        """(key, value, origin) of every value, for ``--print-config``."""
        leaves = [*_leaves(_job_values(self.job)), *_leaves({"site": _site_values(self.site)})]
        named = ((label, value) for _, label, value in leaves)
        return tuple((key, value, self.origins[key]) for key, value in named)

    def document(self) -> dict[str, Any]:
        """A self-contained job document: site included, defaults written out."""
        values = _job_values(self.job)
        fixed = {key: value for key, value in values["parallel"].items() if value is not None}
        values["parallel"] = fixed or "auto"
        values["site"] = _site_values(self.site)
        if values["placement"] is None:
            del values["placement"]
        return values

    def yaml_text(self) -> str:
        """:meth:`document` as YAML that reads back to an equal job."""
        text: str = yaml.dump(self.document(), Dumper=_Dumper, sort_keys=False, width=100)
        return text


def resolve_job(
    job_path: Path | None, overrides: Sequence[str] = (), shorthand: Mapping[str, Any] | None = None
) -> ResolvedJob:
    """Resolve a job: defaults, then the file, then options, then overrides.

    Args:
        job_path: a job file, or None when options and overrides say everything.
        overrides: ``key.sub=value`` words, for job keys and for site keys.
        shorthand: option name to value, see ``overrides.SHORTHAND``.

    Raises:
        ConfigError: missing or bad file, key or value; names the place.
    """
    changes = [*from_shorthand(shorthand or {}), *(parse_override(word) for word in overrides)]
    draft = _job_draft(job_path)
    for change in changes:
        if not change.for_site:
            change.apply(draft)
    _check_needed(draft)
    draft.data.setdefault("name", _default_name(job_path))
    job = validated(Job, draft.data, what="job", where=draft.where)
    site_draft = _site_draft(job, draft, job_path)
    for change in changes:
        if change.for_site:
            change.apply(site_draft)
    site = site_from(site_draft.data, site_draft.where)
    return ResolvedJob(
        _with_places(job, draft, job_path), site, _origins(job, site, draft, site_draft)
    )


def _job_draft(job_path: Path | None) -> Draft:
    if job_path is None:
        return Draft("command line", {})
    try:
        document = read_yaml(job_path)
    except ConfigError as error:
        if error.what.startswith("cannot read"):
            raise ConfigError(
                error.what.replace("the file", "the job file", 1),
                where=error.where,
                next_step="give the path of a job file, or none with --site, --model and "
                "--global-batch",
            ) from None
        raise
    draft = Draft.of(document)
    if not isinstance(draft.data, dict):
        raise ConfigError(
            "bad job: keys and values are needed",
            where=draft.where(),
            why="the file is empty" if draft.data is None else "it holds something else",
            next_step="a job file starts with lines such as `site: demo`",
        )
    return draft


def _check_needed(draft: Draft) -> None:
    for key, hint in NEEDED.items():
        if key not in draft.data:
            raise ConfigError(
                f"the job does not say its {key}", where=draft.where(), next_step=hint
            )


def _default_name(job_path: Path | None) -> str:
    """The job file's stem, in the letters a name may have."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", job_path.stem)[:64] if job_path else ""
    return stem.lstrip("._-") or "run"


def _site_draft(job: Job, draft: Draft, job_path: Path | None) -> Draft:
    if isinstance(job.site, dict):
        return draft.below(("site",), deepcopy(draft.data["site"]))
    origin = draft.origins.get(("site",))
    in_file = origin is not None and origin.line_known and job_path is not None
    try:
        document = site_document(job.site, beside=job_path.parent if in_file and job_path else None)
    except ConfigError as error:
        if not error.what.startswith("there is no site"):
            raise
        raise ConfigError(
            error.what, where=draft.where(("site",)), why=error.why, next_step=error.next_step
        ) from None
    return Draft.of(document)


def _with_places(job: Job, draft: Draft, job_path: Path | None) -> Job:
    """The paths of text and model made absolute; one in a job file starts at its folder."""

    def place(given: str, key: KeyPath) -> str:
        try:
            path = Path(given).expanduser()
        except RuntimeError:  # ~somebody who has no home here
            path = Path(given)
        origin = draft.origin(key)
        if not path.is_absolute() and job_path is not None and origin and origin.line_known:
            path = job_path.parent / path
        return str(path.absolute())

    changes: dict[str, Any] = {}
    folder = job.model.get("from")
    if isinstance(folder, str):
        changes["model"] = {**job.model, "from": place(folder, ("model", "from"))}
    data: dict[str, Any] = {}
    source = job.data.source
    if isinstance(source, tuple):
        parts = [
            part.model_copy(update={"source": place(part.source, ("data", "source", i, "source"))})
            if part.source != BUILT_IN
            else part
            for i, part in enumerate(source)
        ]
        data["source"] = tuple(parts)
    elif source != BUILT_IN:
        data["source"] = place(source, ("data", "source"))
    if job.data.tokenizer is not None:
        data["tokenizer"] = place(job.data.tokenizer, ("data", "tokenizer"))
    changes["data"] = job.data.model_copy(update=data)
    return job.model_copy(update=changes)


def _origins(job: Job, site: Site, draft: Draft, site_draft: Draft) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, label, _ in _leaves(_job_values(job)):
        found[label] = _given(draft, key).label
    for key, label, _ in _leaves({"site": _site_values(site)}):
        found[label] = _given(site_draft, key[1:]).label
    return found


def _given(draft: Draft, key: KeyPath) -> Origin:
    """The origin of a value that somebody wrote, else the default."""
    here = draft.data
    for part in key:
        if isinstance(here, dict) and part not in here:
            return DEFAULT
        here = part_of(here, part)
    return draft.origin(key) or DEFAULT


def _job_values(job: Job) -> dict[str, Any]:
    values = job.model_dump(mode="json", by_alias=True)
    if isinstance(values["site"], dict):
        del values["site"]
    return values


def _site_values(site: Site) -> dict[str, Any]:
    values: dict[str, Any] = _filled(site.model_dump(mode="json", exclude_none=True))
    return values


def _filled(values: Any) -> Any:
    """Without the keys that hold an empty list or section."""
    if isinstance(values, dict):
        kept = {key: _filled(value) for key, value in values.items()}
        return {key: value for key, value in kept.items() if value not in ([], {})}
    return [_filled(value) for value in values] if isinstance(values, list) else values


def _leaves(
    values: Any, key: KeyPath = (), names: tuple[str, ...] = ()
) -> Iterator[tuple[KeyPath, str, Any]]:
    """(key path, dotted name, value) of every leaf; a list of plain values is one leaf."""
    if isinstance(values, Mapping) and values:
        for part, below in values.items():
            yield from _leaves(below, (*key, part), (*names, part))
    elif isinstance(values, list) and any(isinstance(item, Mapping) for item in values):
        for index, item in enumerate(values):
            yield from _leaves(item, (*key, index), (*names, item_name(item, index)))
    else:
        yield key, dotted(names), values


class _Dumper(yaml.SafeDumper):
    """Quotes the words that the reader would take for numbers."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(scalar(text), str) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
