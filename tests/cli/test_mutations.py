"""Mutated site and job files through the whole command: an answer or one clear error.

The valid pair is changed in one to three places: values of any kind, keys that go, are
misspelt or move, entries twice. Whatever comes out, `holmes plan --json` prints exactly
one JSON object, ends with a code of its contract, and leaves no half-written plan.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.cli.inside import run
from tests.job.test_bad_input import ANYTHING, JOB, SITE, Path_, at, places

SMALL = {key: value for key, value in JOB.items() if key != "site"}
DOCUMENTS: dict[str, dict[str, Any]] = {"site": SITE, "job": SMALL}
PLACES = [
    (name, path)
    for name, document in DOCUMENTS.items()
    for path in sorted(places(document), key=str)
]
KINDS = ("replace", "remove", "misspell", "twice", "move")


@st.composite
def mutation(draw: st.DrawFn) -> tuple[str, str, Path_, Any, Path_]:
    """(kind, document, place, value, another place of the document)."""
    name, path = draw(st.sampled_from(PLACES))
    _, other = draw(st.sampled_from([place for place in PLACES if place[0] == name]))
    return draw(st.sampled_from(KINDS)), name, path, draw(st.sampled_from(ANYTHING)), other


def mutate(documents: dict[str, Any], change: tuple[str, str, Path_, Any, Path_]) -> None:
    """Apply one change; places that an earlier change took away are left alone."""
    kind, name, path, value, other = change
    try:
        parent, last = at(documents[name], path[:-1]), path[-1]
        if kind == "replace":
            parent[last] = copy.deepcopy(value)
        elif kind == "remove":
            del parent[last]
        elif kind == "misspell" and isinstance(last, str):
            parent[last[:-1] + "x"] = parent.pop(last)
        elif kind == "twice" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[last]))  # type: ignore[index]
        elif kind == "move":
            parent[last] = copy.deepcopy(at(documents[name], other))
    except (KeyError, IndexError, TypeError):
        return


def plan(folder: Path, documents: dict[str, Any]) -> tuple[int, str, str]:
    """`holmes plan` on the two documents as files; the plan goes to ``plan.json``."""
    for name, document in documents.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    job, site, made = (str(folder / name) for name in ("job.yaml", "site.yaml", "plan.json"))
    return run("plan", job, "--site", site, "--json", "--output", made)


def test_the_unchanged_pair_is_planned(tmp_path: Path) -> None:
    code, out, err = plan(tmp_path, copy.deepcopy(DOCUMENTS))
    assert code == 0, err
    assert_written(json.loads(out), tmp_path / "plan.json")


def assert_written(answer: dict[str, Any], path: Path) -> None:
    """The file holds the plan, and the answer holds that and what else was found."""
    written = json.loads(path.read_text())
    assert {key: answer[key] for key in written} == written
    assert {"top", "pareto", "unrestricted", "missing"} == set(answer) - set(written)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=st.lists(mutation(), min_size=1, max_size=3))
def test_mutated_files_end_in_one_clear_message(tmp_path: Path, changes: list[Any]) -> None:
    (tmp_path / "plan.json").unlink(missing_ok=True)
    documents = copy.deepcopy(DOCUMENTS)
    for change in changes:
        mutate(documents, change)
    code, out, err = plan(tmp_path, documents)
    answer = json.loads(out)
    assert out.count("\n") == 1
    if code == 0:
        assert_written(answer, tmp_path / "plan.json")
        return
    assert code in (65, 78), err
    error = answer["error"]
    assert error["exit_code"] == code
    assert error["what"] and error["where"]
    assert error["why"] or error["next"], err
    assert "Traceback" not in err and len(err) < 2500
    assert not (tmp_path / "plan.json").exists()
