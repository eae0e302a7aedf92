"""Hostile files and processes: mutated configurations, broken data, zombies that want to commit.

Configurations go through `holmes plan` in this process, a fixed seed drawing one to three changes
of values and keys, or a change of the bytes of the file. Every kind of broken data goes through
`holmes train` in a process of its own, which has seconds to say what is wrong. A zombie is a
process that stops (SIGSTOP) inside a save, is continued when its successor has taken over, and
then goes on with its save.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from tests.checkpoint.ranks import model_tensors, shards_of
from tests.cli.inside import run as command
from tests.cli.test_mutations import DOCUMENTS, KINDS, PLACES, mutate
from tests.job.test_bad_input import ANYTHING

import record
import shares
from holmes.errors import HolmesError
from holmes.runtime.checkpoint.agreement import Conversation, Members
from holmes.runtime.checkpoint.check import latest_good, verify_checkpoint
from holmes.runtime.checkpoint.fence import advance
from holmes.runtime.checkpoint.shard import on_host
from holmes.runtime.checkpoint.write import PHASES, Save, no_phase, write_checkpoint

CONFIGURATIONS = 500
RAW_EVERY = 5
"""One configuration of so many is changed in its bytes, not in its values."""
CODES = (0, 65, 78)
PATIENCE = 60.0
MEMORY = 16 << 30
"""Bytes of addresses that a reader of broken data may take: torch's libraries, and little else."""
REFUSED = 65
BEFORE_COMMIT = PHASES[1:7]

RAW: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "byte": lambda text, draw: _with(text, draw, bytes([draw.randrange(256)])),
    "nul": lambda text, draw: _with(text, draw, b"\0"),
    "tab": lambda text, draw: _with(text, draw, b"\t"),
    "cut": lambda text, draw: text[: draw.randrange(len(text))],
    "deep": lambda text, draw: text + b"deep: " + b"[" * 5000,
    "bomb": lambda text, draw: (
        text + b"a0: &a0 [x]\n" + b"".join(_doubled(n) for n in range(1, 40))
    ),
    "twice": lambda text, draw: text + text,
    "no text": lambda text, draw: draw.randbytes(len(text)),
}


def _with(text: bytes, draw: random.Random, more: bytes) -> bytes:
    at = draw.randrange(len(text))
    return text[:at] + more + text[at:]


def _doubled(number: int) -> bytes:
    return f"a{number}: &a{number} [*a{number - 1}, *a{number - 1}]\n".encode()


def configuration(draw: random.Random, folder: Path, *, raw: bool) -> dict[str, Any]:
    """One changed pair of site and job, and what `holmes plan` made of it."""
    documents = copy.deepcopy(DOCUMENTS)
    change: Any = draw.choice(list(RAW)) if raw else []
    for _ in range(0 if raw else draw.randint(1, 3)):
        name, path = draw.choice(PLACES)
        _, other = draw.choice([place for place in PLACES if place[0] == name])
        change.append((draw.choice(KINDS), name, path, draw.choice(ANYTHING), other))
        mutate(documents, change[-1])
    texts = {name: yaml.safe_dump(d, sort_keys=False).encode() for name, d in documents.items()}
    if raw:
        name = draw.choice(list(texts))
        texts[name] = RAW[change](texts[name], draw)
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_bytes(text)
    before = time.monotonic()
    job, site = (str(folder / f"{name}.yaml") for name in ("job", "site"))
    code, out, err = command("plan", job, "--site", site, "--json")
    error = _error(out)
    return {
        "change": str(change)[:200],
        "code": code,
        "traceback": "Traceback" in err,
        "right_code": code in CODES and (error or {}).get("exit_code", 0) == code,
        "hint": code == 0 or bool(error and (error.get("why") or error.get("next"))),
        "seconds": time.monotonic() - before,
    }


def _error(out: str) -> dict[str, Any] | None:
    """The error that a command printed as JSON; None: it printed none."""
    try:
        return json.loads(out).get("error")  # type: ignore[no-any-return]
    except (ValueError, AttributeError):
        return None


def _write(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.txt")
    return folder / "pipe.txt"


def _link(to: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "link.txt").symlink_to(to)
        return folder / "link.txt"

    return make


def _sparse(folder: Path) -> Path:
    with (folder / "sparse.txt").open("wb") as file:
        file.truncate(10 << 30)
    return folder / "sparse.txt"


def _long_line(folder: Path) -> Path:
    with (folder / "long.jsonl").open("wb") as file:
        file.write(b'{"text": "')
        file.truncate(1 << 30)
    return folder / "long.jsonl"


LINE = b'{"text": "to be or not to be, that is the question"}\n'
BROKEN: dict[str, Callable[[Path], Path]] = {
    "truncated": _write("x.jsonl", LINE * 9 + LINE[:20]),
    "empty": _write("x.txt", b""),
    "zero-filled": _write("x.jsonl", bytes(4096)),
    "binary": _write("x.txt", random.Random(1).randbytes(4096)),
    "bad UTF-8": _write("x.txt", b"good \xff\xfe bad"),
    "line of 1 GB": _long_line,
    "sparse file of 10 GB": _sparse,
    "FIFO": _pipe,
    "symlink loop": _link("link.txt"),
    "/dev/zero": _link("/dev/zero"),
    "empty folder": lambda folder: folder,
    "missing": lambda folder: folder / "nowhere.txt",
    "no field": _write("x.jsonl", b'{"txt": "a"}\n' * 9),
    "damaged table": _write("x.parquet", b"PAR1" + bytes(512) + b"PAR1"),
}


def broken(kind: str) -> dict[str, Any]:
    """A job with data of this kind, and what `holmes train` said within :data:`PATIENCE`."""
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        (base / "data").mkdir()
        source = BROKEN[kind](base / "data")
        words = ["site=demo", "model=gpt-1m", "batch={global: 4, micro: 1}", "train.steps=1"]
        words += [f"data={{source: '{source}', vocabulary: 300, cache: '{base / 'cache'}'}}"]
        line = [sys.executable, "-m", "holmes", "train", *words, f"output={base / 'runs'}"]
        before = time.monotonic()
        try:
            done = subprocess.run(
                [*line, "--json"],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
            )
        except subprocess.TimeoutExpired:
            return {"kind": kind, "hung": True, "right_code": False}
        error = _error(done.stdout) or {}
        return {
            "kind": kind,
            "hung": False,
            "code": done.returncode,
            "said": error.get("what", done.stderr[-500:]),
            "traceback": "Traceback" in done.stderr,
            "right_code": done.returncode == REFUSED,
            "hint": bool(error.get("where") and (error.get("why") or error.get("next"))),
            "seconds": time.monotonic() - before,
        }


def save(run: Path, step: int, generation: int, stop_at: str | None = None) -> None:
    """A save that may stop its own process at a phase."""

    def on_phase(reached: str) -> None:
        if reached == stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)

    state = on_host(shards_of(model_tensors(), 0, 1))
    given = Save(run, step, state, generation=generation)
    write_checkpoint(given, Conversation(Members(), "t"), on_phase if stop_at else no_phase)


def zombie(phase: str, *, successor_saves: bool) -> dict[str, Any]:
    """A process stopped inside its save, and what it did when it was continued."""
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary)
        first = advance(run)
        save(run, 2, first)
        child = os.fork()
        if child == 0:
            try:
                save(run, 4, first, phase)
                os._exit(0)
            except HolmesError:
                os._exit(74)
            finally:
                os._exit(70)
        _, status = os.waitpid(child, os.WUNTRACED)
        stopped = os.WIFSTOPPED(status)
        second = advance(run)
        if successor_saves:
            save(run, 4, second)
        os.kill(child, signal.SIGCONT)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        newest = latest_good(run, lambda line: None)
        expected = "step-4" if successor_saves else "step-2"
        if newest is not None:
            verify_checkpoint(newest)
        committed = code == 0 or newest is None or newest.name != expected
        return {
            "phase": phase,
            "successor_saves": successor_saves,
            "stopped": stopped,
            "code": code,
            "committed": committed,
        }


def figures(count: int) -> dict[str, Any]:
    """The record's body."""
    draw = random.Random(5)
    with tempfile.TemporaryDirectory() as temporary:
        found = [
            configuration(draw, Path(temporary), raw=number % RAW_EVERY == 0)
            for number in range(count)
        ]
    data = []
    for kind in BROKEN:
        data.append(broken(kind))
        print(data[-1], flush=True)
    zombies = [zombie(p, successor_saves=saves) for p in BEFORE_COMMIT for saves in (False, True)]
    good = [one["right_code"] and one["hint"] and not one["traceback"] for one in found]
    fine = [o["right_code"] and o.get("hint", False) and not o["hung"] for o in data]
    return {
        "headline": record.headline(
            "mutated configurations with the right exit code, a hint and no traceback",
            "none",
            {"median": sum(good) / len(good), **shares.share(good)},
        ),
        "configurations": shares.share(good),
        "accepted": sum(one["code"] == 0 for one in found),
        "slowest_seconds": max(one["seconds"] for one in found),
        "data": shares.share(fine),
        "hangs": sum(one["hung"] for one in data),
        "zombies_that_commit": shares.share(one["committed"] for one in zombies if one["stopped"]),
        "wrong": [one for one, right in zip(found, good, strict=True) if not right],
        "each_data": data,
        "each_zombie": zombies,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configurations", type=int, default=CONFIGURATIONS)
    body = figures(parser.parse_args().configurations)
    for name in ("configurations", "data", "zombies_that_commit"):
        print(f"{name}: {shares.text(body[name])}")
    print(f"hangs: {body['hangs']}; wrong: {body['wrong']}")
    record.write("hostile", body)


if __name__ == "__main__":
    main()
