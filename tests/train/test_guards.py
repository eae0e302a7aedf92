"""What `holmes train` and `holmes verify` refuse before anything is lost or ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holmes.errors import ConfigError, UnavailableError, WriteError
from holmes.job.resolve import ResolvedJob, resolve_job
from holmes.planner.search import make_plan
from holmes.runtime.capabilities import CAPABILITIES
from holmes.train import local
from holmes.train.planning import check_wishes, request_of, runnable
from holmes.train.run_folder import LOCK, held, refuse_to_lose
from holmes.train.verification import verify

EXAMPLES = Path(__file__).parents[2] / "examples"
FOUR = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def demo(*words: str, **options: str) -> ResolvedJob:
    return runnable(resolve_job(EXAMPLES / "demo.yaml", words, options), on_gpu=False)


def committed(run: Path) -> Path:
    step = run / "checkpoints" / "step-2"
    step.mkdir(parents=True)
    (step / "COMMITTED").write_text("x")
    (run / "plan.json").write_text("{}")
    return step


def test_a_new_run_does_not_replace_committed_checkpoints(tmp_path: Path) -> None:
    refuse_to_lose(tmp_path)
    step = committed(tmp_path)
    with pytest.raises(ConfigError, match="--resume") as refused:
        refuse_to_lose(tmp_path)
    assert str(step) in str(refused.value)
    assert (step / "COMMITTED").exists()


@pytest.mark.parametrize(("restarts", "resumes"), [("0", False), ("2", True)])
def test_a_restarted_rank_goes_on_with_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: str, resumes: bool
) -> None:
    seen: list[bool] = []

    def one_rank(resolved: ResolvedJob, *, resume: bool, **rest: Any) -> None:
        seen.append(resume)

    monkeypatch.setattr(local, "_one_rank", one_rank)
    for name, value in {**FOUR, **MEETING, "TORCHELASTIC_RESTART_COUNT": restarts}.items():
        monkeypatch.setenv(name, value)
    committed(tmp_path / "demo")
    job = demo(f"output={tmp_path}")
    given: dict[str, Any] = {"plan_file": None, "progress": None}
    if resumes:
        local.train(job, resume=False, overwrite=False, **given)
    else:
        with pytest.raises(ConfigError, match="committed checkpoints"):
            local.train(job, resume=False, overwrite=False, **given)
        local.train(job, resume=False, overwrite=True, **given)
    assert seen == [resumes]


def test_what_the_command_line_asks_of_a_given_plan_is_not_ignored() -> None:
    plan = make_plan(request_of(demo(), capabilities=CAPABILITIES))
    check_wishes(plan, demo("parallel.pipeline=2", "train.steps=3"), where="plan.json")
    for word in ("parallel.pipeline=4", "parallel.schedule=gpipe", "parallel.overlap=false"):
        with pytest.raises(ConfigError, match=word.partition("=")[0]):
            check_wishes(plan, demo(word), where="plan.json")
    with pytest.raises(ConfigError, match="placement"):
        check_wishes(plan, demo(placement="megatron"), where="plan.json")


def test_virtual_devices_are_not_verified() -> None:
    job = resolve_job(EXAMPLES / "paper-shaped.yaml", [], {})
    with pytest.raises(ConfigError, match="virtual devices"):
        verify(job, 2, None)  # type: ignore[arg-type]


def test_a_run_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    for _ in range(2):  # the lock ends with the run
        with held(tmp_path), pytest.raises(UnavailableError, match="is going on"), held(tmp_path):
            pass
    with pytest.raises(WriteError), held(tmp_path / LOCK):
        pass


def test_a_second_train_of_one_name_touches_nothing(tmp_path: Path) -> None:
    job = demo(f"output={tmp_path}", name="one")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "metrics.jsonl").write_text("{}\n")
    given: dict[str, Any] = {"plan_file": None, "progress": None}
    with held(tmp_path / "one"), pytest.raises(UnavailableError, match="is going on"):
        local.train(job, resume=False, overwrite=True, **given)
    assert (tmp_path / "one" / "metrics.jsonl").read_text() == "{}\n"
