"""Write a checkpoint: every rank its shards, then one rename that makes it count.

Order: room for all; shards, whose checksums are taken in memory first, forced to disk;
every rank says so; rank 0 merges what they say into the manifest, then the marker, then
renames the folder, then moves ``latest``, then prunes. A process killed at any moment
leaves the previous checkpoint untouched. One whose generation was replaced commits nothing.
"""

from __future__ import annotations

import errno
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holmes.errors import HolmesError, RankDiedError, WriteError
from holmes.runtime.checkpoint.agreement import Conversation
from holmes.runtime.checkpoint.check import marker_of
from holmes.runtime.checkpoint.fence import overtaken
from holmes.runtime.checkpoint.folders import (
    MANIFEST,
    MARKER,
    PARTIAL,
    REPLACED,
    Keep,
    checkpoint_folder,
    flush_folder,
    point_latest,
    prune,
    remove,
    sweep,
    write_durably,
)
from holmes.runtime.checkpoint.manifest import Manifest, Piece, merge
from holmes.runtime.checkpoint.payload import (
    Item,
    checksum,
    in_file_order,
    make_header,
    write_payload,
)
from holmes.runtime.checkpoint.shard import Shard, bytes_of, dtype_name

HEADER_ROOM = 1 << 20
"""Bytes asked for beyond the tensors of a rank: header, manifest, the file system's own."""
PHASES = ("copy", "prepare", "write", "fsync", "manifest", "marker", "rename", "latest", "prune")
"""The moments that a save announces, each before the act it is named after (``write`` in
the middle of it)."""
TOPICS = ("need", "go", "wrote")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OnPhase = Callable[[str], None]


def no_phase(_: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Save:
    """One save of one rank.

    Attributes:
        run: the run folder, on a file system that all ranks share.
        step: the step that comes next.
        shards: this rank's part of each named tensor, in host memory, not empty. The parts
            of all ranks must cover each tensor; parts that overlap must be equal.
        meta: JSON-ready; rank 0's is stored.
        keep: which older checkpoints stay.
        copy_seconds: how long training stood still for the snapshot.
        generation: of the ranks that save; the fence of the run must not be beyond it.
    """

    run: Path
    step: int
    shards: Mapping[str, Shard]
    meta: Mapping[str, Any] = field(default_factory=dict)
    keep: Keep = field(default_factory=Keep)
    copy_seconds: float = 0.0
    generation: int = 0

    @property
    def folder(self) -> Path:
        return checkpoint_folder(self.run, self.step)

    @property
    def partial(self) -> Path:
        """Of this generation alone: two of them never write into one folder."""
        whose = f".g{self.generation}" if self.generation else ""
        return self.folder.with_name(self.folder.name + whose + PARTIAL)

    @property
    def bytes_(self) -> int:
        return sum(s.tensor.numel() * s.tensor.element_size() for s in self.shards.values())


@dataclass(frozen=True)
class Committed:
    """A checkpoint that counts; seconds are the longest over the ranks."""

    folder: Path
    bytes_: int
    copy_seconds: float
    write_seconds: float


def write_checkpoint(save: Save, talk: Conversation, on_phase: OnPhase = no_phase) -> Committed:
    """Write one checkpoint; all ranks call this, each with its own shards.

    Every rank says how it went, also when its own writing fails, so that no one waits for
    it; then all of them raise.

    Raises:
        WriteError: disk full, no permission, or another rank failed. Nothing of the
            new checkpoint is left; older ones are as they were.
        RankDiedError: a rank was not heard of, by this one or by the first.
    """
    talk.tell("need", {"bytes": save.bytes_})
    if talk.rank == 0:
        _first(lambda: _prepare(save, talk, on_phase), save, talk, "go")
    go = talk.hear("go", 0)
    _raise_told(go, save)
    talk.allow(go["bytes"])
    try:
        wrote = _attempt(lambda: _write_rank(save, go["id"], talk.rank, on_phase), save.partial)
    except HolmesError as error:
        talk.tell("wrote", _problem(error, talk.rank))
        if talk.rank == 0:
            _first(lambda: _commit(save, talk, go["id"], on_phase), save, talk, "done", error)
        raise
    talk.tell("wrote", wrote)
    if talk.rank == 0:
        _first(lambda: _commit(save, talk, go["id"], on_phase), save, talk, "done")
        talk.forget(TOPICS)
    done = talk.hear("done", 0)
    _raise_told(done, save)
    return Committed(save.folder, done["bytes"], done["copy_seconds"], done["write_seconds"])


def _first(
    act: Callable[[], dict[str, Any]],
    save: Save,
    talk: Conversation,
    topic: str,
    own: HolmesError | None = None,
) -> None:
    """Act for all and say how it went; if not well, remove what is there and raise."""
    try:
        said = _attempt(act, save.partial)
    except HolmesError as error:
        shutil.rmtree(save.partial, ignore_errors=True)
        talk.tell(topic, _problem(own or error, 0 if own or topic == "go" else None))
        raise (own or error) from None
    talk.tell(topic, said)


def _attempt(action: Callable[[], dict[str, Any]], where: Path) -> dict[str, Any]:
    """Run ``action``; whatever goes wrong becomes one message that can be told."""
    try:
        return action()
    except HolmesError:
        raise
    except OSError as error:
        raise WriteError(
            f"cannot write the checkpoint: {error.strerror or error}",
            where=str(error.filename or where),
            next_step="free some space, or keep fewer checkpoints; older ones are untouched"
            if error.errno in FULL
            else "older checkpoints are untouched",
        ) from None
    except Exception as error:
        raise HolmesError(f"{type(error).__name__}: {error}", where=str(where)) from error


def _problem(error: HolmesError, rank: int | None) -> dict[str, Any]:
    by = "" if rank is None else f"rank {rank}: "
    said = {"what": error.what, "where": error.where, "why": error.why, "next": error.next_step}
    return {"problem": {**said, "by": by, "unheard": isinstance(error, RankDiedError)}}


def _raise_told(said: dict[str, Any], save: Save) -> None:
    problem = said.get("problem")
    if problem is not None:
        told = RankDiedError if problem["unheard"] else WriteError
        raise told(
            f"{problem['by']}{problem['what']}",
            where=problem["where"] or str(save.folder),
            why=problem["why"],
            next_step=problem["next"],
        )


def _prepare(save: Save, talk: Conversation, on_phase: OnPhase) -> dict[str, Any]:
    """An empty folder with room for everybody's shards, and the id of this save."""
    on_phase("prepare")
    _refuse_overtaken(save)
    needed = sum(said["bytes"] for said in talk.hear_all("need")) + talk.world * HEADER_ROOM
    sweep(save.run)
    save.folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(save.folder.parent).free
    if free < needed:
        raise WriteError(
            "not enough space for the checkpoint",
            where=str(save.folder.parent),
            why=f"it needs {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free",
            next_step="free some space, or keep fewer checkpoints; older ones are untouched",
        )
    save.partial.mkdir()
    return {"id": secrets.token_hex(8), "bytes": needed}


def _write_rank(save: Save, id_: str, rank: int, on_phase: OnPhase) -> dict[str, Any]:
    start = time.monotonic()
    file = f"rank-{rank}.safetensors"
    data = {name: bytes_of(shard.tensor) for name, shard in save.shards.items()}
    items = in_file_order(
        [Item(n, dtype_name(s.tensor.dtype), s.tensor.numel()) for n, s in save.shards.items()]
    )
    tensors: dict[str, Any] = {}
    offset = 0
    for item in items:
        shard = save.shards[item.name]
        crc = checksum(data[item.name])
        piece = Piece(file, offset, shard.start, shard.stop, crc, shard.box)
        tensors[item.name] = {
            "shape": list(shard.global_shape),
            "dtype": item.dtype,
            "piece": vars(piece),
        }
        offset += item.bytes_
    files = {}
    if items:
        payload = [data[item.name] for item in items]
        files[file] = write_payload(save.partial / file, make_header(items, id_), payload, on_phase)
    seconds = {"copy_seconds": save.copy_seconds, "write_seconds": time.monotonic() - start}
    return {"files": files, "tensors": tensors, **seconds}


def _commit(save: Save, talk: Conversation, id_: str, on_phase: OnPhase) -> dict[str, Any]:
    """Manifest, marker, rename, pointer, pruning; what to tell the others."""
    said = talk.hear_all("wrote")
    for one in said:
        _raise_told(one, save)
    files, tensors = merge(said)
    _check_present(save, files)
    seconds = {name: max(one[name] for one in said) for name in ("copy_seconds", "write_seconds")}
    meta = {**save.meta, "save": seconds}
    on_phase("manifest")
    data = Manifest(id_, save.step, talk.world, meta, files, tensors).to_json()
    write_durably(save.partial / MANIFEST, data)
    on_phase("marker")
    write_durably(save.partial / MARKER, marker_of(data))
    flush_folder(save.partial)
    on_phase("rename")
    _refuse_overtaken(save)
    _rename(save)
    on_phase("latest")
    if overtaken(save.run, save.generation) is None:  # else both are the successor's to do
        point_latest(save.folder)
        on_phase("prune")
        prune(save.run, save.keep)
    return {"bytes": sum(files.values()), **seconds}


def _refuse_overtaken(save: Save) -> None:
    why = overtaken(save.run, save.generation)
    if why is not None:
        raise WriteError(
            "this process was replaced and cannot commit a checkpoint",
            where=str(save.folder),
            why=why,
            next_step="nothing to do: the run goes on without it",
        )


def _check_present(save: Save, files: Mapping[str, int]) -> None:
    """Rank 0 must see what all ranks wrote, or they do not share the file system."""
    for file, size in files.items():
        path = save.partial / file
        if not path.is_file() or path.stat().st_size != size:
            raise WriteError(
                f"the checkpoint was not written: {file} is not there",
                where=str(save.partial),
                why="the rank that wrote it does not share this file system",
                next_step="let all hosts write to one shared folder (`output=FOLDER`)",
            )


def _rename(save: Save) -> None:
    """The moment from which on the checkpoint counts."""
    replaced = save.folder.with_name(save.folder.name + REPLACED)
    if not save.partial.is_dir():  # swept by a successor: its checkpoint stays where it is
        raise FileNotFoundError(errno.ENOENT, "the folder is gone", str(save.partial))
    if save.folder.exists():
        save.folder.rename(replaced)
    try:
        save.partial.rename(save.folder)
    except OSError:
        if replaced.exists():
            replaced.rename(save.folder)
        raise
    flush_folder(save.folder.parent)
    if replaced.exists():
        remove(replaced)
