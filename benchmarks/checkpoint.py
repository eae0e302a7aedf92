"""Checkpoints: are flipped bits found, what does a save cost, and how often should one save.

Flips: one random bit of a random file of a committed checkpoint, 300 times, spread evenly
over payload, safetensors headers, manifest, marker and pointer; looked for as
`holmes checkpoint verify` does. Baselines: the same number of payload flips loaded by the
safetensors library and by torch.save's reader.

Stall: one process with parameters and both moments of a model of some size. Arms alternate:
waiting for the write, copying only, and nothing but the copy's own bytes moved by memcpy.

Run it as `PYTHONPATH=. python benchmarks/checkpoint.py`, since it shares the tests' writer.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.checkpoint.flips import Seen, files_of
from tests.checkpoint.ranks import write_good

import record
from holmes.runtime.checkpoint.agreement import Members
from holmes.runtime.checkpoint.folders import Keep, checkpoint_folder
from holmes.runtime.checkpoint.interval import DEVICE_MTBF_HOURS, suggest, young
from holmes.runtime.checkpoint.payload import checksum
from holmes.runtime.checkpoint.saver import Saver, SaverOptions
from holmes.runtime.checkpoint.shard import Shard, bytes_of

FLIPS = 300
ELEMENTS = 16 << 20
"""Parameters of the state that is saved; with both moments three times as many."""
PAIRS = 5
MTBF_HOURS = (1.0, 24.0)


def model(elements: int) -> dict[str, Shard]:
    """Parameters and moments in eight tensors each."""
    generator = torch.Generator().manual_seed(0)
    part = elements // 8
    return {
        f"{kind}/{i}": Shard(torch.randn(part, generator=generator), (part,), 0, part)
        for kind in ("parameters", "exp_avg", "exp_avg_sq")
        for i in range(8)
    }


def flips(count: int) -> dict[str, Any]:
    """Flip, look, put back; by the kind of file that was hit."""
    draw = random.Random(0)
    kinds: dict[str, Seen] = {}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        generator = torch.Generator().manual_seed(0)
        tensors = {
            f"parameters/{i}": torch.randn(40 + i, 33, generator=generator) for i in range(20)
        }
        write_good(run, 1, tensors, world=3)
        places = [place for path in files_of(run) for place in regions(path)]
        names = sorted({name for name, _, _, _ in places})
        for number in range(count):
            wanted = names[number % len(names)]
            name, path, start, stop = draw.choice([p for p in places if p[0] == wanted])
            seen = kinds.setdefault(name, Seen())
            seen.flip(run, path, draw.randrange(start, stop), draw.randrange(8))
    return {
        "tried": sum(seen.tried for seen in kinds.values()),
        "caught": sum(seen.caught for seen in kinds.values()),
        "file_named": sum(seen.file_named for seen in kinds.values()),
        "in_tensors": sum(seen.in_tensors for seen in kinds.values()),
        "tensor_named": sum(seen.tensor_named for seen in kinds.values()),
        "by_kind": {name: vars(seen) for name, seen in sorted(kinds.items())},
    }


def regions(path: Path) -> list[tuple[str, Path, int, int]]:
    """(kind, file, first byte, last byte + 1) of what a file consists of."""
    size = path.stat().st_size
    if not path.name.startswith("rank"):
        return [(path.name, path, 0, size)]
    start = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    return [("header", path, 0, start), ("payload", path, start, size)]


def library_flips(count: int) -> dict[str, int]:
    """How many of ``count`` payload flips the formats' own readers notice."""
    draw = random.Random(1)
    tensors = {str(i): torch.ones(1000) for i in range(20)}

    def torch_save(path: Path) -> None:
        torch.save(tensors, path)

    def torch_load(path: Path) -> Any:
        return torch.load(path, weights_only=True)

    pairs: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
        "safetensors": (lambda path: save_file(tensors, path), load_file),
        "torch.save": (torch_save, torch_load),
    }
    caught = dict.fromkeys(pairs, 0)
    with tempfile.TemporaryDirectory() as folder:
        for name, (save, load) in pairs.items():
            path = Path(folder) / name
            save(path)
            good = path.read_bytes()
            for _ in range(count):
                data = bytearray(good)
                data[draw.randrange(len(data) // 20, len(data) * 19 // 20)] ^= 1 << draw.randrange(
                    8
                )
                path.write_bytes(data)
                try:
                    load(path)
                except Exception:  # any error counts as noticed
                    caught[name] += 1
    return caught


def seconds_of(action: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def stalls(elements: int, pairs: int) -> dict[str, Any]:
    """How long training stands still for a save, and for what."""
    shards = model(elements)
    size = sum(shard.tensor.numel() * 4 for shard in shards.values())
    source = torch.cat([shard.tensor for shard in shards.values()])
    target = source.clone()
    arms: dict[str, list[float]] = {
        name: [] for name in ("asynchronous", "waiting", "memcpy", "checksum", "write")
    }
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        run = Path(folder)
        savers = {
            name: Saver(
                run / name,
                Members(),
                lambda *values: values,
                SaverOptions(Keep(1), asynchronous=name == "asynchronous"),
            )
            for name in ("asynchronous", "waiting")
        }
        first: dict[str, float] = {}
        for step in range(pairs + 1):
            for name, saver in savers.items():
                taken = seconds_of(lambda s=saver, n=step: s.begin(n, shards, {}))
                saver.finish()
                if step == 0:
                    first[name] = taken  # new memory is touched, so it stands apart
                    continue
                arms[name].append(taken)
                assert saver.last is not None
                if name == "asynchronous":
                    arms["write"].append(saver.last.write_seconds)
            if step:
                arms["memcpy"].append(seconds_of(lambda: target.copy_(source)))
                arms["checksum"].append(seconds_of(lambda: checksum(bytes_of(source))))
        verified = checkpoint_folder(run / "asynchronous", pairs).is_dir()
    assert verified
    return {
        "bytes": size,
        "pairs": pairs,
        "seconds": {name: record.spread(values) for name, values in arms.items()},
        "first_asynchronous_seconds": first["asynchronous"],
        "copy_bytes_per_second": size / statistics.median(arms["memcpy"]),
        "checksum_bytes_per_second": size / statistics.median(arms["checksum"]),
        "write_bytes_per_second": size / statistics.median(arms["write"]),
        "stall_over_memcpy": record.paired_ratio(arms["asynchronous"], arms["memcpy"]),
        "waiting_over_asynchronous": record.paired_ratio(arms["waiting"], arms["asynchronous"]),
    }


def intervals(measured: dict[str, Any]) -> list[dict[str, float]]:
    """What the measured cost suggests for a few rates of failure."""
    stall, write = (measured["seconds"][n]["median"] for n in ("asynchronous", "write"))
    waiting = measured["seconds"]["waiting"]["median"]
    found = []
    for hours in (*MTBF_HOURS, DEVICE_MTBF_HOURS / 4):
        ours, theirs = (suggest(*cost, hours * 3600) for cost in ((stall, write), (waiting, 0.0)))
        found.append(
            {
                "mtbf_hours": hours,
                "seconds": ours.seconds,
                "young_seconds": young(stall, hours * 3600),
                "lost": ours.lost,
                "lost_when_waiting": theirs.lost,
            }
        )
    return found


def main() -> None:
    """Run all parts; `--quick` only the flips and a small state, without a record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    found = flips(60 if quick else FLIPS)
    assert found["caught"] == found["tried"], found
    if quick:
        stalls(1 << 18, 2)
        print(f"{found['caught']} of {found['tried']} flips found")
        return

    def body() -> dict[str, Any]:
        measured = stalls(ELEMENTS, PAIRS)
        return {"stall": measured, "intervals": intervals(measured)}

    figures = record.with_drift(body)
    record.write(
        "checkpoint", {"flips": found, "library_payload_flips": library_flips(40), **figures}
    )


if __name__ == "__main__":
    main()
