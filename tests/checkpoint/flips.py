"""Flip bits of a run's checkpoint files and see whether they are found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from holmes.runtime.checkpoint.check import read_manifest, run_damages
from holmes.runtime.checkpoint.folders import committed


@dataclass
class Seen:
    """How many flips were tried, found, and found under the right name.

    ``in_tensors`` are those in a tensor's bytes or in its part of a header.
    """

    tried: int = 0
    caught: int = 0
    file_named: int = 0
    in_tensors: int = 0
    tensor_named: int = 0

    def flip(self, run: Path, path: Path, position: int, bit: int) -> None:
        """Flip one bit, look, and put it back."""
        owner = owner_of(path, position)
        good = path.read_bytes()
        data = bytearray(good)
        data[position] ^= 1 << bit
        path.write_bytes(data)
        found = list(run_damages(run))
        path.write_bytes(good)
        self.tried += 1
        self.caught += bool(found)
        self.file_named += any(damage.file == path for damage in found)
        self.in_tensors += owner is not None
        self.tensor_named += owner is not None and any(d.tensor == owner for d in found)


def owner_of(path: Path, position: int) -> str | None:
    """The tensor that a byte of a payload file belongs to, found the slow way."""
    if not path.name.startswith("rank"):
        return None
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    pieces = read_manifest(path.parent).by_file[path.name]
    if position >= start:
        return [name for name, piece in pieces if piece.offset <= position - start][-1]
    marks = [(data.index(f'"{name}":'.encode()), name) for name, _ in pieces]
    before = [name for mark, name in sorted(marks) if mark <= position]
    return before[-1] if before else None


def files_of(run: Path) -> list[Path]:
    """Every file of every checkpoint of a run, and the pointer."""
    inside = (path for folder in committed(run) for path in sorted(folder.iterdir()))
    return [*inside, run / "checkpoints" / "latest"]


def positions(run: Path, every: int) -> Iterator[tuple[Path, int]]:
    """Each n-th byte of each file."""
    for path in files_of(run):
        for position in range(0, path.stat().st_size, every):
            yield path, position


def flip_everywhere(run: Path, every: int) -> Seen:
    """One bit of every n-th byte."""
    seen = Seen()
    for count, (path, position) in enumerate(positions(run, every)):
        seen.flip(run, path, position, count % 8)
    return seen
