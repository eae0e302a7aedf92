"""A tokenizer: byte-level BPE trained on the corpus and kept in the cache, or one from a file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from holmes.data.cache import write_atomic
from holmes.data.documents import Corpus
from holmes.errors import ConfigError, DataError

FILE = "tokenizer.json"
END_OF_TEXT = "<|endoftext|>"
ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<|im_end|>", "<eos>")
"""Tokens that usually close a document."""
SMALLEST = 257
"""All bytes and the end-of-text mark."""
LARGEST = 1_000_000


@dataclass(frozen=True)
class TextTokenizer:
    """Text to ids and back.

    ``digest`` names it, ``content`` is its tokenizer.json, ``end`` the token that closes a
    document.
    """

    inner: Tokenizer
    digest: str
    content: bytes
    end: str = END_OF_TEXT

    @property
    def vocabulary(self) -> int:
        """Every id is below it; smaller than asked for when the text is short."""
        return 1 + max(self.inner.get_vocab().values())

    @property
    def end_of_text(self) -> int:
        """The id that closes a document."""
        mark = self.inner.token_to_id(self.end)
        assert mark is not None
        return int(mark)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without the closing mark."""
        return list(self.inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """The text of ids, byte for byte where they came from :meth:`encode`."""
        return str(self.inner.decode(ids, skip_special_tokens=True))


def from_file(path: Path) -> TextTokenizer:
    """The tokenizer of a tokenizer.json, or of a folder that holds one.

    A document is closed with the end-of-text token that tokenizer_config.json beside it
    names, else with a usual one of those it has.

    Raises:
        DataError: there is none, or it cannot be read.
        ConfigError: no token of it closes a document.
    """
    file = path / FILE if path.is_dir() else path
    try:
        data = file.read_bytes()
        inner = Tokenizer.from_str(data.decode())
    except OSError as error:
        raise DataError(
            f"cannot read the tokenizer: {error.strerror}",
            where=str(file),
            next_step="set data.tokenizer to a tokenizer.json, or leave it out to train one",
        ) from None
    except Exception as error:  # the library raises the base class itself
        raise DataError(
            "not a tokenizer.json", where=str(file), why=str(error).splitlines()[0][:200]
        ) from None
    inner.no_truncation()
    inner.no_padding()
    inner.encode_special_tokens = True
    named = _named_end(file.with_name("tokenizer_config.json"))
    end = next((t for t in (named, *ENDS) if t and inner.token_to_id(t) is not None), None)
    if end is None:
        raise ConfigError(
            "no token of this tokenizer closes a document",
            where=str(file),
            why=f"it has none of {', '.join(ENDS)}, and tokenizer_config.json names none",
            next_step="add eos_token to a tokenizer_config.json beside it",
        )
    digest = hashlib.sha256(data + end.encode()).hexdigest()[:16]
    return TextTokenizer(inner, digest, data, end)


def _named_end(path: Path) -> str | None:
    """The end-of-text token of a tokenizer_config.json, a word or an object with its content."""
    try:
        named = json.loads(path.read_bytes()).get("eos_token")
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(named, dict):
        named = named.get("content")
    return named if isinstance(named, str) else None


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
    content = inner.to_str().encode()
    inner.encode_special_tokens = True
    return TextTokenizer(inner, digest, content)


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
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
