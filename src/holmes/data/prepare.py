"""From a text source to token files: read, tokenise, split, keep in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from holmes.data.cache import default_cache, locked
from holmes.data.sources import Corpus, read_corpus
from holmes.data.tokenizer import TextTokenizer, load_or_train
from holmes.data.tokens import Tokens, open_tokens, write_tokens
from holmes.errors import ConfigError, DataError

Encoded = tuple[str, Sequence[int]]


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs of its text.

    ``validation`` is empty when no text is held out.
    """

    train: Tokens
    validation: Tokens
    tokenizer: TextTokenizer
    paths: tuple[Path, Path]
    """Token files of the training and the held-out split."""

    @property
    def vocabulary(self) -> int:
        """Ids in use; the model's vocabulary must be at least this."""
        return self.tokenizer.vocabulary

    @property
    def digest(self) -> str:
        """Names the training and held-out tokens; a resumed run must find the same."""
        both = self.train.digest + self.validation.digest
        return hashlib.sha256(both.encode()).hexdigest()[:16]


def prepare(
    source: str | Path,
    vocabulary: int,
    validation_fraction: float = 0.05,
    cache: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Prepared:
    """Token files of a source, made once and then taken from the cache.

    Several processes may call it at once: one works, the others wait for it.

    Args:
        source: see :func:`holmes.data.sources.read_corpus`.
        vocabulary: size of the byte-level BPE.
        validation_fraction: share of the tokens to hold out, by whole documents.
        cache: folder to keep results in; :func:`default_cache` if left out.
        progress: told in words what is being done, when it takes a while.

    Raises:
        DataError: bad or missing text.
        ConfigError: an impossible vocabulary or fraction.
        WriteError: a cache that cannot be written.
    """
    if not 0 <= validation_fraction < 1:
        raise ConfigError(
            f"a held-out fraction of {validation_fraction} is impossible",
            where="data.validation_fraction",
            why="it must be at least 0 and below 1",
        )
    say = progress or (lambda line: None)
    corpus = read_corpus(source)
    folder = cache or default_cache()
    with locked(folder):
        say(f"tokenizer: byte-level BPE of {vocabulary} over {len(corpus.documents)} documents")
        tokenizer = load_or_train(corpus, vocabulary, folder)
        key = f"{tokenizer.digest}/{validation_fraction!r}"
        stem = "tokens-" + hashlib.sha256(key.encode()).hexdigest()[:16]
        paths = folder / f"{stem}-train.bin", folder / f"{stem}-validation.bin"
        try:
            train, validation = (open_tokens(path) for path in paths)
        except DataError:
            say("tokens: encoding the text")
            train, validation = _write_both(corpus, tokenizer, validation_fraction, paths)
    say(f"tokens: {len(train)} to train on, {len(validation)} held out")
    return Prepared(train, validation, tokenizer, paths)


def _write_both(
    corpus: Corpus, tokenizer: TextTokenizer, fraction: float, paths: tuple[Path, Path]
) -> tuple[Tokens, Tokens]:
    end = tokenizer.end_of_text
    encoded: list[Encoded] = [(d.name, [*tokenizer.encode(d.text), end]) for d in corpus.documents]
    train, held_out = split(encoded, fraction)
    size = tokenizer.vocabulary
    return write_tokens(paths[0], train, size), write_tokens(paths[1], held_out, size)


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
