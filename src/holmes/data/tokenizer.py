"""Byte-level BPE, trained on the corpus itself and kept in the cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from holmes.data.cache import write_atomic
from holmes.data.sources import Corpus
from holmes.errors import ConfigError

END_OF_TEXT = "<|endoftext|>"
SMALLEST = 257
"""All bytes and the end-of-text mark."""
LARGEST = 1_000_000


@dataclass(frozen=True)
class TextTokenizer:
    """Text to ids and back. ``digest`` names the trained vocabulary."""

    inner: Tokenizer
    digest: str

    @property
    def vocabulary(self) -> int:
        """Number of ids; smaller than asked for when the text is short."""
        return int(self.inner.get_vocab_size())

    @property
    def end_of_text(self) -> int:
        """The id that closes a document."""
        mark = self.inner.token_to_id(END_OF_TEXT)
        assert mark is not None
        return int(mark)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without the closing mark."""
        return list(self.inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """The text of ids, byte for byte where they came from :meth:`encode`."""
        return str(self.inner.decode(ids, skip_special_tokens=True))


def load_or_train(corpus: Corpus, vocabulary: int, cache: Path) -> TextTokenizer:
    """The tokenizer of a corpus: from the cache, or trained and put there.

    Call it with the cache locked.

    Raises:
        ConfigError: for a vocabulary that cannot hold all bytes.
        WriteError: when the cache cannot be written.
    """
    if not SMALLEST <= vocabulary <= LARGEST:
        raise ConfigError(
            f"a byte-level vocabulary of {vocabulary} is impossible",
            where="data.vocabulary",
            why=f"it must lie between {SMALLEST} (256 bytes and end-of-text) and {LARGEST}",
        )
    key = f"{corpus.digest}/{vocabulary}/{tokenizers.__version__}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = cache / f"bpe-{digest}.json"
    inner = _load(path)
    if inner is None:
        inner = _train(corpus, vocabulary)
        data = inner.to_str().encode()
        head = hashlib.sha256(data).hexdigest().encode()
        write_atomic(path, lambda handle: handle.writelines((head, b"\n", data)))
    # A text that happens to spell the mark is text: only we may close a document.
    inner.encode_special_tokens = True
    return TextTokenizer(inner, digest)


def _load(path: Path) -> Tokenizer | None:
    """A cached tokenizer, or None when there is none or it does not match its hash line."""
    try:
        head, _, data = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if head != hashlib.sha256(data).hexdigest().encode():
        return None
    return Tokenizer.from_str(data.decode())


def _train(corpus: Corpus, vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (document.text for document in corpus.documents)
    tokenizer.train_from_iterator(texts, trainer, length=len(corpus.documents))
    return tokenizer
