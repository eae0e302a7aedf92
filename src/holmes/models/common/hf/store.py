"""Tensors of a Hugging Face folder, read slice by slice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from holmes.errors import ConfigError, DataError
from holmes.models.common.hf.names import FolderLayout, Source

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FLOATS = ("F64", "F32", "F16", "BF16")
Box = tuple[tuple[int, int], ...]


class FolderWeights:
    """The parameters of one model in a folder.

    A file is open only while a tensor of it is read, so the pages that reading mapped are
    given back; the most in memory is what was asked for last.

    Raises:
        DataError: a file or tensor is missing, damaged, unknown or of another type.
        ConfigError: the weights are pickles, which may hold code.
    """

    def __init__(self, folder: Path, layout: FolderLayout) -> None:
        self.folder, self._layout = folder, layout
        self._files: dict[str, Path] = {}
        types: Counter[str] = Counter()
        for path in _files(folder):
            for name, kind in _header(path):
                if name in self._files:
                    raise _bad(f"tensor {name} comes twice", path, str(self._files[name]))
                self._files[name] = path
                types[kind] += not name.endswith(layout.passed_over)
        self._check_types(types)
        wanted = {s.name for s in layout.sources.values() if s.name != layout.head}
        self._prefixed = not wanted & self._files.keys()
        self._check_names()

    def __contains__(self, name: str) -> bool:
        return name in self._layout.sources

    def read(self, name: str, shape: tuple[int, ...], box: Box | None = None) -> Tensor:
        """A parameter, or the half-open interval of every dim of it.

        Args:
            name: global, canonical where it is tied.
            shape: of the whole parameter.

        Raises:
            DataError: naming file and tensor, when it has another shape or is damaged.
        """
        source = self._layout.sources[name]
        stored = self._stored(source)
        path = self._files[stored]
        wanted = source.stored_box(box or tuple((0, size) for size in shape))
        try:
            with safe_open(path, framework="pt") as file:
                view = file.get_slice(stored)
                self._check_shape(source, shape, tuple(view.get_shape()), path)
                part: Tensor = view[tuple(slice(low, high) for low, high in wanted)]
                return (part.T if source.transposed and part.dim() > 1 else part).clone()
        except (SafetensorError, OSError) as error:
            raise _bad("a tensor cannot be read", path, f"{stored}: {error}") from None

    def _stored(self, source: Source) -> str:
        return self._layout.stored_name(source, prefixed=self._prefixed)

    def _check_types(self, types: Counter[str]) -> None:
        odd = [kind for kind in types if types[kind] and kind not in FLOATS]
        if odd:
            raise DataError(
                f"tensors of type {odd[0]} cannot be trained",
                where=str(self.folder),
                why="supported: " + ", ".join(FLOATS),
                next_step="write the model with `save_pretrained` in one floating type",
            )
        kinds = [f"{count} {kind}" for kind, count in types.items() if count]
        if len(kinds) > 1:
            raise DataError(
                "the model's tensors are of several types",
                where=str(self.folder),
                why=", ".join(kinds),
                next_step="write it again in one type: `model.to(torch.bfloat16).save_pretrained`",
            )

    def _check_names(self) -> None:
        """Refuse a folder that lacks a tensor, or has one that the model does not.

        A tied head may be written out beside the table it equals.
        """
        wanted = {self._stored(source) for source in self._layout.sources.values()}
        found = {n for n in self._files if not n.endswith(self._layout.passed_over)}
        missing, more = sorted(wanted - found), sorted(found - wanted - {self._layout.head})
        if missing:
            raise _bad(
                f"{len(missing)} tensors are missing",
                self.folder,
                f"{missing[0]} is in none of its files; config.json or the files are of "
                "another model",
            )
        if more:
            raise _bad(
                f"{len(more)} tensors are not of the model that config.json describes",
                self._files[more[0]],
                f"the first is {more[0]}",
            )

    def _check_shape(
        self, source: Source, shape: tuple[int, ...], found: tuple[int, ...], path: Path
    ) -> None:
        expected = source.stored_shape(shape)
        fits = found == expected or (
            source.longer and found[0] >= expected[0] and found[1:] == expected[1:]
        )
        if not fits:
            raise _bad(
                f"tensor {self._stored(source)} has another shape than config.json says",
                path,
                f"it is {list(found)}, the model's is {list(expected)}",
            )


def _files(folder: Path) -> list[Path]:
    """The files that hold tensors: those of the index, else the only one."""
    index = folder / INDEX
    if not index.exists():
        if (folder / SINGLE).exists():
            return [folder / SINGLE]
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        if pickles:
            raise ConfigError(
                "the weights are a pickle, which may hold code and is never loaded",
                where=str(folder / pickles[0]),
                next_step="convert it where you trust it: `AutoModelForCausalLM.from_pretrained"
                "(DIR).save_pretrained(NEW)` writes safetensors",
            )
        raise _bad("the folder holds no weights", folder, f"neither {SINGLE} nor {INDEX} is there")
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _bad("the index of the weights cannot be read", index, repr(error)[:200]) from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise _bad(f"the index names {name!r}, which is not in the folder", index, "")
    return [folder / name for name in names]


def _header(path: Path) -> Iterator[tuple[str, str]]:
    """(name, type) of every tensor; the whole file is checked to be there."""
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                yield name, str(file.get_slice(name).get_dtype())
    except (SafetensorError, OSError) as error:
        raise _bad("not a whole safetensors file", path, str(error)[:200]) from None


def _bad(what: str, where: Path, why: str) -> DataError:
    return DataError(
        f"a model folder is bad: {what}",
        where=str(where),
        why=why or None,
        next_step="copy or download the folder again",
    )
