"""Generations: an old one can neither commit nor join."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch._C._distributed_c10d import TCPStore

from holmes.errors import ConfigError, DataError, UnavailableError, WriteError
from holmes.launch.process import free_port
from holmes.runtime.checkpoint.agreement import Conversation, Members
from holmes.runtime.checkpoint.check import latest_good, verify_checkpoint
from holmes.runtime.checkpoint.fence import FENCE, advance, generation_of, require_current
from holmes.runtime.checkpoint.folders import committed, leftovers
from holmes.runtime.checkpoint.read import read_checkpoint
from holmes.runtime.checkpoint.shard import on_host
from holmes.runtime.checkpoint.write import PHASES, OnPhase, Save, no_phase, write_checkpoint
from holmes.runtime.rendezvous import Rendezvous, meet, roll_call
from tests.checkpoint.ranks import model_tensors, shards_of

BEFORE_COMMIT = PHASES[1:7]
"""Where a zombie can be stopped and still have to commit: from prepare to rename."""


def save(run: Path, step: int, generation: int, on_phase: OnPhase = no_phase) -> None:
    state = on_host(shards_of(model_tensors(), 0, 1))
    write_checkpoint(
        Save(run, step, state, generation=generation), Conversation(Members(), "t"), on_phase
    )


def test_generations_count_on(tmp_path: Path) -> None:
    assert generation_of(tmp_path) == 0
    assert [advance(tmp_path) for _ in range(3)] == [1, 2, 3]
    require_current(tmp_path, 3, "here")
    with pytest.raises(UnavailableError, match="generation 3 has taken over"):
        require_current(tmp_path, 2, "here")


def test_a_damaged_fence_is_no_licence(tmp_path: Path) -> None:
    for text in ("", "{}", '{"generation": -1}', '{"generation": "1"}', "[]"):
        (tmp_path / FENCE).write_text(text)
        with pytest.raises(DataError):
            save(tmp_path, 1, 1)
    assert committed(tmp_path) == []


@pytest.mark.parametrize("successor_commits", [False, True])
@pytest.mark.parametrize("phase", BEFORE_COMMIT)
def test_a_zombie_commits_nothing(tmp_path: Path, phase: str, successor_commits: bool) -> None:
    """It stops inside a save; another generation takes over, and perhaps saves the same step."""
    first = advance(tmp_path)
    save(tmp_path, 2, first)

    def sleep_at(reached: str) -> None:
        if reached == phase:
            second = advance(tmp_path)
            if successor_commits:
                save(tmp_path, 4, second)

    with pytest.raises(WriteError):
        save(tmp_path, 4, first, sleep_at)
    newest = latest_good(tmp_path, lambda line: pytest.fail(line))
    assert newest is not None
    assert newest.name == ("step-4" if successor_commits else "step-2")
    verify_checkpoint(newest)
    for name, tensor in model_tensors().items():
        assert torch.equal(read_checkpoint(newest).tensors[name], tensor)
    advance(tmp_path)
    assert leftovers(tmp_path) == []


def meeting(**more: object) -> Rendezvous:
    given = {"hosts_store": False, "generation": 2, "secret": "s", **more}
    return Rendezvous("127.0.0.1", 0, **given)  # type: ignore[arg-type]


def together(
    monkeypatch: pytest.MonkeyPatch, ranks: list[Rendezvous], seconds: float = 0.5
) -> list[BaseException | None]:
    """What each rank's roll call raised, all over one store that outlives generations."""
    port = free_port("127.0.0.1")
    patience = timedelta(seconds=seconds)
    host = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, timeout=patience)
    stores = [host.clone() for _ in ranks]
    raised: list[BaseException | None] = [None] * len(ranks)

    def join(rank: int) -> None:
        monkeypatch.setattr(
            "holmes.runtime.rendezvous._open_store", lambda given, *_: stores[given.port]
        )
        try:
            given = Rendezvous(**{**vars(ranks[rank]), "port": rank})
            store, _ = meet(given, len(ranks), seconds)
            roll_call(store, given, rank, ["a"] * len(ranks), None)
        except BaseException as error:
            raised[rank] = error

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(len(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_alike_ranks_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert together(monkeypatch, [meeting(identity={"code": "x"})] * 3, 5.0) == [None] * 3
    learns = meeting(generation=None)
    assert together(monkeypatch, [meeting(), learns], 5.0) == [None, None]


@pytest.mark.parametrize("stranger", [{"generation": 1}, {"secret": "guess"}, {"attempt": 1}])
def test_strangers_do_not_join(
    monkeypatch: pytest.MonkeyPatch, stranger: dict[str, object]
) -> None:
    raised = together(monkeypatch, [meeting(), meeting(**stranger)])
    assert all(isinstance(error, UnavailableError) for error in raised)
    assert "rank 1 on a did not come" in str(raised[0])


def test_a_forged_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who can write to the store, and knows the prefix, but not the secret."""
    monkeypatch.setattr(
        Rendezvous,
        "sign",
        lambda self, *words: "p" * 64 if words == ("prefix",) else f"{self.secret}{words}",
    )
    raised = together(monkeypatch, [meeting(), meeting(secret="guess")])
    assert "does not know the secret" in str(raised[0])


def test_ranks_that_differ_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    same = {"version of torch": "2.13.0", "code of holmes": "abc"}
    other = {**same, "version of torch": "2.12.0"}
    ranks = [meeting(identity=same), meeting(identity=other), meeting(identity=same)]
    raised = together(monkeypatch, ranks, 5.0)
    for error in raised:
        assert isinstance(error, ConfigError)
        assert "rank 1 on a has another version of torch than rank 0" in str(error)
        assert "2.12.0 instead of 2.13.0" in str(error)
