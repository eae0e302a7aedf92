"""Any tokenizer.json: what it says of a document's end, round trips, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from holmes.data.tokenizer import from_file
from holmes.errors import ConfigError, DataError
from holmes.job.job import Job
from holmes.models.registry import describe
from holmes.train.parts import check_vocabulary, prepare_data

TEXT = "a naïve line, 東京, and the mark </s> spelled out\n"


def write(folder: Path, *special: str, config: Any = None) -> Path:
    """A byte-level tokenizer that cuts, pads and adds a mark, as those of models do."""
    folder.mkdir(exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("special", "config", "end"),
    [
        (("<|endoftext|>",), None, "<|endoftext|>"),
        (("<s>", "</s>"), {"eos_token": "</s>"}, "</s>"),
        (("<end>", "</s>"), {"eos_token": {"content": "<end>"}}, "<end>"),
        (("</s>",), {"eos_token": "<gone>"}, "</s>"),
    ],
)
def test_a_text_goes_round_and_a_document_is_closed(
    tmp_path: Path, special: tuple[str, ...], config: Any, end: str
) -> None:
    found = from_file(write(tmp_path / "t", *special, config=config))
    ids = found.encode(TEXT)
    assert found.decode(ids) == TEXT
    assert found.end == end and found.end_of_text not in ids
    assert max(ids) < found.vocabulary
    assert found.digest == from_file(tmp_path / "t" / "tokenizer.json").digest


def test_what_is_no_tokenizer_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the tokenizer"):
        from_file(tmp_path)
    for content in (b"", b'{"model": ', b'{"version": "1.0"}', b"\xff\xfe"):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(DataError, match=r"not a tokenizer\.json"):
            from_file(tmp_path)
    with pytest.raises(ConfigError, match="closes a document"):
        from_file(write(tmp_path / "t", "<pad>"))


def test_the_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 20)
    write(tmp_path / "t", "</s>")
    job = Job.model_validate(
        {
            "site": "demo",
            "model": {"preset": "llama-1m", "vocabulary": 128},
            "batch": {"global": 8},
            "data": {
                "source": str(tmp_path / "text.txt"),
                "tokenizer": str(tmp_path / "t"),
                "cache": str(tmp_path / "cache"),
            },
        }
    )
    prepared = prepare_data(job)
    config = describe("llama").config_from(job.model)
    with pytest.raises(ConfigError, match="tokenizer is of another model") as caught:
        check_vocabulary(job, prepared.vocabulary, config)
    assert caught.value.exit_code == 78 and str(prepared.vocabulary) in caught.value.what
    kept = Path(prepared.files.tokenizer).read_bytes()
    assert kept == (tmp_path / "t" / "tokenizer.json").read_bytes()
