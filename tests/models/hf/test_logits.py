"""Logits of models read from folders, against those of `transformers`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from holmes.job.job import Job
from holmes.launch.pool import Pool
from holmes.models.registry import describe, family_of, model_module
from holmes.train.parts import folder_weights
from tests.models.hf.folders import CONFIGS, make_model, write_folder
from tests.models.hf.ranks import FolderSpec

BOUND = 1e-5
"""Largest difference of logits in fp32."""


def read_model(folder: Path, **changes: Any) -> tuple[Any, list[torch.nn.Module]]:
    """(configuration, blocks) of a folder."""
    job = Job.model_validate(
        {"site": "laptop", "model": {"from": str(folder), **changes}, "batch": {"global": 1}}
    )
    family = family_of(job.model)
    module, config = model_module(family), describe(family).config_from(job.model)
    weights = folder_weights(job, config)
    assert weights is not None
    blocks = module.build_blocks(config, 0, config.blocks)
    with torch.no_grad():
        for name, parameter in module.named_parameters(blocks, 0):
            parameter.copy_(weights.read(name, tuple(parameter.shape)))
    return config, blocks


def tokens(vocabulary: int, samples: int, length: int) -> torch.Tensor:
    return torch.randint(
        vocabulary, (samples, length), generator=torch.Generator().manual_seed(length)
    )


def logits_of(
    blocks: list[torch.nn.Module], ids: torch.Tensor, documents: torch.Tensor | None = None
) -> torch.Tensor:
    x = ids
    for block in blocks:
        x = block(x, documents)
    return x


def documents_of(samples: int, length: int) -> torch.Tensor:
    """Numbers of packed documents; other borders in every sample."""
    drawn = torch.rand(samples, length, generator=torch.Generator().manual_seed(1))
    return (drawn < 0.2).long().cumsum(1)


def apart(theirs: Any, ids: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """The obvious way: the model sees one document at a time."""
    found = torch.empty(*ids.shape, theirs.config.vocab_size)
    for row, numbers in enumerate(documents):
        for number in numbers.unique():
            own = numbers == number
            found[row, own] = theirs(ids[row][own][None]).logits[0]
    return found


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_logits_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    theirs = write_folder(name, tmp_path, shard="30KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    config, blocks = read_model(tmp_path)
    for length in (1, 7, config.sequence):
        ids = tokens(config.vocabulary, 3, length)
        expected = theirs(ids).logits
        assert expected.std() > 0.1
        assert (logits_of(blocks, ids) - expected).abs().max() <= BOUND


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@torch.no_grad()
def test_a_shorter_sequence_keeps_the_first_positions(name: str, tmp_path: Path) -> None:
    theirs = write_folder(name, tmp_path)
    config, blocks = read_model(tmp_path, sequence=10)
    ids = tokens(config.vocabulary, 2, 10)
    assert (logits_of(blocks, ids) - theirs(ids).logits).abs().max() <= BOUND


@torch.no_grad()
def test_a_folder_of_the_bare_model_reads_too(tmp_path: Path) -> None:
    """Its tensors lack the prefix, and it has no head of its own."""
    theirs = make_model("gpt2")
    theirs.transformer.save_pretrained(tmp_path)
    config, blocks = read_model(tmp_path)
    ids = tokens(config.vocabulary, 2, 9)
    assert (logits_of(blocks, ids) - theirs(ids).logits).abs().max() <= BOUND


@torch.no_grad()
def test_half_precision_is_widened_exactly(tmp_path: Path) -> None:
    theirs = make_model("llama").to(torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    _, blocks = read_model(tmp_path)
    widened = theirs.model.layers[1].mlp.up_proj.weight.float()
    assert torch.equal(blocks[2].mlp.up.weight, widened)  # type: ignore[union-attr]


def test_unfused_attention_of_a_window_equals_the_fused(tmp_path: Path) -> None:
    write_folder("mistral", tmp_path)
    _, fused = read_model(tmp_path)
    config, unfused = read_model(tmp_path, attention="unfused")
    ids = tokens(config.vocabulary, 2, config.sequence)
    assert (logits_of(fused, ids) - logits_of(unfused, ids)).abs().max() <= BOUND


@pytest.mark.parallel
@pytest.mark.parametrize("name", ["gpt2", "llama-llama3", "mistral", "qwen2-mixed", "qwen3-tied"])
@torch.no_grad()
def test_logits_under_tensor_and_pipeline_ranks(ranks: Pool, name: str, tmp_path: Path) -> None:
    theirs = write_folder(name, tmp_path, shard="30KB")
    family = family_of({"from": str(tmp_path)})
    tied = bool(theirs.config.tie_word_embeddings)
    spec = FolderSpec(tp=2, pp=2, layers=3, family=family, tied=tied, micro=3, folder=str(tmp_path))
    config = spec.config
    ids = tokens(config.vocabulary, 3, config.sequence)
    given = {"tokens": ids, "targets": ids.clone()}
    expected = theirs(ids).logits
    if name == "gpt2":
        given["documents"] = documents_of(3, config.sequence)
        expected = apart(theirs, ids, given["documents"])
    save_file(given, tmp_path / "tokens.ids")
    found = ranks.run(
        "tests.models.hf.ranks:logits", {"spec": asdict(spec)}, deadline_seconds=60, ranks=4
    )
    parts = [
        load_file(tmp_path / f"logits-{rank}.part")["logits"]
        for rank, said in enumerate(found)
        if said["head"]
    ]
    assert len(parts) == 2
    whole = torch.cat(parts, dim=2)[..., : config.vocabulary]
    assert (whole - expected).abs().max() <= BOUND


@pytest.mark.parametrize("attention", ["fused", "unfused"])
@pytest.mark.parametrize("name", ["gpt2", "mistral", "qwen3", "llama-llama3"])
@torch.no_grad()
def test_packed_documents_do_not_see_each_other(name: str, attention: str, tmp_path: Path) -> None:
    theirs = write_folder(name, tmp_path)
    config, blocks = read_model(tmp_path, attention=attention)
    ids = tokens(config.vocabulary, 3, config.sequence)
    documents = documents_of(3, config.sequence)
    assert 2 < len(documents[0].unique()) < config.sequence
    found = logits_of(blocks, ids, documents)
    assert (found - apart(theirs, ids, documents)).abs().max() <= BOUND
