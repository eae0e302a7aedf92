"""From text sources to token files: read, tokenise, split, keep in the cache.

Nothing is held in memory whole: documents stream through the tokenizer into a file, and
the two splits are written from it.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from holmes.data.cache import default_cache, locked, write_atomic
from holmes.data.documents import LONGEST, Corpus, Distinct
from holmes.data.mixture import Mixture
from holmes.data.sources import read_corpus
from holmes.data.tokenizer import TextTokenizer, from_file, load_or_train
from holmes.data.tokens import Tokens, open_tokens, write_tokens
from holmes.errors import ConfigError, DataError, WriteError

Encoded = tuple[str, Sequence[int] | npt.NDArray[Any]]
Say = Callable[[str], None]


@dataclass(frozen=True)
class TextPart:
    """One text of a mixture: where it is, what it weighs, and which field of it is read."""

    source: str
    weight: float = 1.0
    field: str = "text"


@dataclass(frozen=True)
class TokenFiles:
    """The files of a prepared mixture, one of each split per text; JSON-able.

    ``end`` is the token of the tokenizer that closes a document.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    weights: tuple[float, ...]
    tokenizer: str
    end: str

    def to_json(self) -> dict[str, Any]:
        """JSON values; :meth:`from_json` reads them."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TokenFiles:
        """The inverse of :meth:`to_json`."""
        lists = {key: tuple(data[key]) for key in ("train", "validation", "weights")}
        return cls(**lists, tokenizer=data["tokenizer"], end=data["end"])

    def open(self) -> tuple[Mixture, Mixture | None]:
        """The training texts, and those held out; None when nothing is.

        Raises:
            DataError: a file is missing or damaged.
        """
        train = Mixture(tuple(open_tokens(Path(path)) for path in self.train), self.weights)
        held = [open_tokens(Path(path)) for path in self.validation]
        kept = tuple(tokens for tokens in held if len(tokens))
        return train, Mixture(kept, (1.0,) * len(kept)) if kept else None


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs of its text.

    ``train`` and ``validation`` are those of the first text; the latter is empty when none
    of it is held out.
    """

    train: Tokens
    validation: Tokens
    tokenizer: TextTokenizer
    files: TokenFiles

    @property
    def vocabulary(self) -> int:
        """Ids in use; the model's vocabulary must be at least this."""
        return self.tokenizer.vocabulary

    @property
    def digest(self) -> str:
        """Names the training and held-out tokens; a resumed run must find the same."""
        both = self.train.digest + self.validation.digest
        return hashlib.sha256(both.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class TextSettings:
    """How texts become tokens.

    Attributes:
        vocabulary: size of the byte-level BPE that is trained on all texts together.
        validation_fraction: share of the tokens to hold out, by whole documents.
        tokenizer: a tokenizer.json, or a folder with one, to use instead of training one.
        longest: bytes of the longest document.
    """

    vocabulary: int
    validation_fraction: float = 0.05
    tokenizer: Path | None = None
    longest: int = LONGEST


def prepare(
    source: str | Path,
    vocabulary: int,
    validation_fraction: float = 0.05,
    cache: Path | None = None,
    progress: Say | None = None,
) -> Prepared:
    """Token files of one source; see :func:`prepare_parts`."""
    settings = TextSettings(vocabulary, validation_fraction)
    return prepare_parts([TextPart(str(source))], settings, cache, progress)


def prepare_parts(
    parts: Sequence[TextPart],
    settings: TextSettings,
    cache: Path | None = None,
    progress: Say | None = None,
) -> Prepared:
    """Token files of several sources, made once and then taken from the cache.

    Several processes may call it at once: one works, the others wait for it.

    Args:
        cache: folder to keep results in; :func:`default_cache` if left out.
        progress: told in words what is being done, when it takes a while.

    Raises:
        DataError: bad or missing text.
        ConfigError: an impossible vocabulary or fraction.
        WriteError: a cache that cannot be written.
    """
    fraction = settings.validation_fraction
    if not 0 <= fraction < 1:
        raise ConfigError(
            f"a held-out fraction of {fraction} is impossible",
            where="data.validation_fraction",
            why="it must be at least 0 and below 1",
        )
    say = progress or (lambda line: None)
    corpora = [read_corpus(part.source, part.field, settings.longest) for part in parts]
    folder = cache or default_cache()
    with locked(folder):
        tokenizer = _tokenizer(corpora, settings, folder, say)
        own = folder / f"tokenizer-{tokenizer.digest}.json"
        if not own.exists():
            write_atomic(own, lambda handle: handle.writelines([tokenizer.content]))
        splits = [_token_files(corpus, tokenizer, fraction, folder, say) for corpus in corpora]
    train, held = ([pair[i] for pair in splits] for i in (0, 1))
    say(
        f"tokens: {sum(len(t) for t, _ in train)} to train on, "
        f"{sum(len(t) for t, _ in held)} held out"
    )
    files = TokenFiles(
        tuple(path for _, path in train),
        tuple(path for _, path in held),
        tuple(part.weight for part in parts),
        str(own),
        tokenizer.end,
    )
    return Prepared(train[0][0], held[0][0], tokenizer, files)


def _tokenizer(
    corpora: Sequence[Corpus], settings: TextSettings, folder: Path, say: Say
) -> TextTokenizer:
    """The tokenizer given, else one trained on all texts."""
    if settings.tokenizer is not None:
        return from_file(settings.tokenizer)
    whole = corpora[0]
    if len(corpora) > 1:
        every = _Chained(tuple(corpora))
        whole = Corpus("mixture", Distinct(every))
    say(f"tokenizer: byte-level BPE of {settings.vocabulary}")
    return load_or_train(whole, settings.vocabulary, folder)


@dataclass(frozen=True)
class _Chained:
    corpora: tuple[Corpus, ...]

    def __iter__(self) -> Any:
        for corpus in self.corpora:
            yield from corpus.documents


def _token_files(
    corpus: Corpus, tokenizer: TextTokenizer, fraction: float, folder: Path, say: Say
) -> tuple[tuple[Tokens, str], tuple[Tokens, str]]:
    """(tokens, path) of the training and the held-out split."""
    key = f"{corpus.digest}/{tokenizer.digest}/{fraction!r}"
    stem = "tokens-" + hashlib.sha256(key.encode()).hexdigest()[:16]
    paths = folder / f"{stem}-train.bin", folder / f"{stem}-validation.bin"
    try:
        train, held = (open_tokens(path) for path in paths)
    except DataError:
        say("tokens: encoding the text")
        train, held = _write_both(corpus, tokenizer, fraction, paths)
    return (train, str(paths[0])), (held, str(paths[1]))


def _write_both(
    corpus: Corpus, tokenizer: TextTokenizer, fraction: float, paths: tuple[Path, Path]
) -> tuple[Tokens, Tokens]:
    end, size = tokenizer.end_of_text, tokenizer.vocabulary
    names: list[str] = []
    borders = [0]
    try:
        with tempfile.TemporaryFile(dir=paths[0].parent) as spool:
            for document in corpus.documents:
                ids = np.asarray([*tokenizer.encode(document.text), end], dtype=np.uint32)
                spool.write(ids.data)
                names.append(document.name)
                borders.append(borders[-1] + len(ids))
            spool.flush()
            every = np.memmap(spool, dtype=np.uint32, mode="r")
            encoded: list[Encoded] = [
                (name, every[start:stop])
                for name, start, stop in zip(names, borders, borders[1:], strict=False)
            ]
            train, held_out = split(encoded, fraction)
            return (
                write_tokens(paths[0], train, size, end),
                write_tokens(paths[1], held_out, size, end),
            )
    except OSError as error:
        raise WriteError(
            f"cannot write to the cache: {error.strerror}", where=str(paths[0].parent)
        ) from None


def split(documents: list[Encoded], fraction: float) -> tuple[list[Encoded], list[Encoded]]:
    """(train, held out), each in the given order.

    Whole documents are held out, picked in the order of the hash of their names,
    each one only if it brings the held-out share nearer to ``fraction``; at least
    one is, and at least one is not. A single document gives up its tail.
    """
    if fraction == 0:
        return documents, []
    if len(documents) == 1:
        ((name, ids),) = documents
        cut = len(ids) - round(fraction * len(ids))
        return [(name, ids[:cut])], [(name, ids[cut:])]
    target = fraction * sum(len(ids) for _, ids in documents)
    order = sorted(documents, key=lambda d: hashlib.sha256(d[0].encode()).digest())
    chosen: set[str] = set()
    held = 0
    for name, ids in order[:-1]:
        if abs(held + len(ids) - target) < abs(held - target):
            chosen.add(name)
            held += len(ids)
    if not chosen:
        chosen.add(min(order, key=lambda d: len(d[1]))[0])
    return (
        [d for d in documents if d[0] not in chosen],
        [d for d in documents if d[0] in chosen],
    )
