"""A model that `transformers` wrote, trained on with other text here, and given back."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import pytest
import torch
from tests.train.test_runs import ok
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from holmes import api
from holmes.data.batches import HeldOut
from holmes.data.prepare import TextPart, TextSettings, prepare_parts
from holmes.data.sources import read_corpus
from holmes.data.tokenizer import load_or_train
from holmes.errors import WriteError
from holmes.models.common.chain import loss as loss_of
from holmes.runtime.checkpoint.folders import latest_committed
from holmes.runtime.checkpoint.read import read_checkpoint

SEQUENCE, VOCABULARY = 32, 400
LAYOUTS = {"one": (1, "{tensor: 1}"), "square": (4, "{tensor: 2, pipeline: 2}")}
"""Devices of one node, and the layout over them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama that has seen some steps of one text, with the tokenizer of that text."""
    place = tmp_path_factory.mktemp("begun")
    (place / "plays.txt").write_text(
        "\n".join(f"line {n}: to be or not to be {n * 7 % 13}, that is it" for n in range(600))
    )
    model_folder = place / "model"
    corpus = read_corpus(place / "plays.txt")
    tokenizer = load_or_train(corpus, VOCABULARY, place)
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=VOCABULARY + 3,
        max_position_embeddings=SEQUENCE,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    ids = torch.tensor(tokenizer.encode(next(iter(corpus.documents)).text))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(15):
        rows = ids[step * 256 : step * 256 + 256].view(8, 32)
        optimizer.zero_grad()
        model(rows, labels=rows).loss.backward()
        optimizer.step()
    model.save_pretrained(model_folder)
    (model_folder / "tokenizer.json").write_bytes(tokenizer.content)
    return model_folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text of another package: the sources of two of the standard library."""
    place = tmp_path_factory.mktemp("text")
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted([*library.glob("json/*.py"), *library.glob("email/mime/*.py")]):
        (place / f"{path.parent.name}-{path.stem}.txt").write_text(path.read_text())
    return place


def job(layout: str, folder: Path, source: Path, output: Path) -> list[str]:
    count, parallel = LAYOUTS[layout]
    cluster = f"{{name: c, nodes: 1, device: {{kind: cpu-core, count: {count}}}, "
    return [
        f"site={{name: one, clusters: [{cluster}nics: [{{kind: ethernet, gbit_s: 10}}]}}]}}",
        f"parallel={parallel}",
        f"model={{from: {folder}}}",
        f"data={{source: {source}, validation_fraction: 0.2, packing: documents, "
        f"cache: {output / 'cache'}}}",
        "batch={global: 16, micro: 4}",
        "optimizer={lr: 1e-2, min_lr: 1e-3}",
        "train={steps: 12, evaluate_batches: 8, precision: fp32}",
        f"output={output}",
        f"name={layout}",
    ]


@torch.no_grad()
def held_out_loss(folder: Path, source: Path, cache: Path) -> float:
    """What `transformers` computes for the held-out text, document by document of a window."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    settings = TextSettings(VOCABULARY, 0.2, tokenizer=folder)
    prepared = prepare_parts([TextPart(str(source))], settings, cache)
    _, held = prepared.files.open()
    assert held is not None
    batches = HeldOut(held, SEQUENCE, apart=True)
    found = []
    for index in range(batches.rounds(4, 8)):
        batch = batches.samples(4 * index, 4 * index + 4)
        assert batch.documents is not None
        documents = torch.from_numpy(batch.documents)
        logits = torch.empty(4, SEQUENCE, model.config.vocab_size)
        for row in range(4):
            for number in documents[row].unique():
                own = documents[row] == number
                ids = torch.from_numpy(batch.tokens)[row][own]
                logits[row, own] = model(ids[None]).logits[0]
        value = loss_of(logits, torch.from_numpy(batch.targets)) * batch.weight
        found.append(value.item())
    return sum(found) / len(found)


@pytest.mark.parallel
def test_continuing_lowers_the_held_out_loss_alike_on_one_rank_and_on_four(
    folder: Path, source: Path, tmp_path: Path
) -> None:
    before = held_out_loss(folder, source, tmp_path / "cache")
    after = {
        layout: ok("train", *job(layout, folder, source, tmp_path), "--json")["loss"]["validation"]
        for layout in LAYOUTS
    }
    assert after["one"] < before - 0.3
    assert after["square"] == pytest.approx(after["one"], rel=1e-4)

    run, exported = tmp_path / "square", tmp_path / "given-back"
    said = api.export(run, exported)
    assert said["step"] == 12 and not list(tmp_path.glob("*.partial"))
    checkpoint = latest_committed(run)
    assert checkpoint is not None
    stored = read_checkpoint(checkpoint).tensors
    model = AutoModelForCausalLM.from_pretrained(exported)
    theirs = model.state_dict()
    up = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(theirs[up], stored["parameters/blocks.2.mlp.up.weight"])
    assert torch.equal(model.lm_head.weight, stored["parameters/blocks.0.token.weight"])
    assert held_out_loss(exported, source, tmp_path / "cache") == pytest.approx(
        after["square"], rel=1e-5
    )
    words = AutoTokenizer.from_pretrained(exported)
    text = "to be or not, naïve café\n"
    assert words.decode(words.encode(text)) == text
    assert words.eos_token == "<|endoftext|>"
    said_of = json.loads((exported / "config.json").read_text())
    assert (said_of["dtype"], said_of["eos_token_id"]) == ("float32", words.eos_token_id)

    with pytest.raises(WriteError, match="the folder exists"):
        api.export(run, exported)
