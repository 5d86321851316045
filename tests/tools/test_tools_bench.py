"""The benchmark compares like with like, and prints what it says it prints. No test here looks at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.models import topology_of

from neox.config.sizes import flops_per_token, padded_vocab_size, parameter_counts
from neox.model.gpt import GPT
from neox.model.loss import cross_entropy
from tools.benchmarks.plain import PlainGPT, PlainShape, PlainTrainer, loss_of, random_batches
from tools.benchmarks.run_plain import plain_shape
from tools.benchmarks.shapes import PRECISIONS, SHAPES, bench_config, layer_products, product_flops

ROOT = Path(__file__).resolve().parents[2]
VOCAB = 200  # not a multiple of 128: padding is part of the comparison


def plain_weights(gpt: GPT) -> dict[str, torch.Tensor]:
    """Our weights under the plain model's names; its queries, keys and values are not interleaved by head."""
    heads, depth = gpt.config.num_attention_heads, gpt.config.num_layers

    def by_kind(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)

    ours = gpt.state_dict()
    plain = {
        "embedding.weight": ours["layers.0.word_embeddings.weight"],
        "norm.weight": ours[f"layers.{depth + 1}.norm.weight"],
        "norm.bias": ours[f"layers.{depth + 1}.norm.bias"],
        "head.weight": ours[f"layers.{depth + 2}.final_linear.weight"],
    }
    for block in range(depth):
        theirs, here = f"blocks.{block}.", f"layers.{block + 1}."
        for kind in ("weight", "bias"):
            plain[f"{theirs}attention.qkv.{kind}"] = by_kind(ours[f"{here}attention.query_key_value.{kind}"])
            plain[f"{theirs}attention.out.{kind}"] = ours[f"{here}attention.dense.{kind}"]
            plain[f"{theirs}norm_1.{kind}"] = ours[f"{here}input_layernorm.{kind}"]
            plain[f"{theirs}norm_2.{kind}"] = ours[f"{here}post_attention_layernorm.{kind}"]
            plain[f"{theirs}widen.{kind}"] = ours[f"{here}mlp.dense_h_to_4h.{kind}"]
            plain[f"{theirs}narrow.{kind}"] = ours[f"{here}mlp.dense_4h_to_h.{kind}"]
    return plain


@pytest.fixture(scope="module")
def pair() -> tuple[GPT, PlainGPT]:
    """The quickstart's model and the plain one with the same weights, biases and norms among them."""
    model = bench_config("quickstart", precision="fp32", device="cpu", seq_length=24).model
    gpt = GPT(model, vocab_size=VOCAB, topology=topology_of(), seed=3)
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.dim() == 1:
                parameter += torch.linspace(-0.2, 0.2, len(parameter))
    plain = PlainGPT(plain_shape(model, VOCAB))
    plain.load_state_dict(plain_weights(gpt))
    return gpt, plain


def test_both_models_compute_the_same(pair: tuple[GPT, PlainGPT]) -> None:
    gpt, plain = pair
    tokens, _ = next(random_batches(VOCAB, 2, 24))
    torch.testing.assert_close(gpt(tokens).transpose(0, 1), plain(tokens), rtol=0, atol=1e-5)


def test_both_losses_are_the_same(pair: tuple[GPT, PlainGPT]) -> None:
    gpt, plain = pair
    # over the padded vocabulary, since the plain loop does not leave the padding out
    padded = padded_vocab_size(gpt.config, VOCAB)
    tokens, labels = next(random_batches(padded, 2, 24))
    weights = torch.full(labels.shape, 1 / labels.numel())
    ours = cross_entropy(gpt(tokens), labels, weights, vocab_size=padded, topology=topology_of())
    torch.testing.assert_close(ours, loss_of(plain, tokens, labels), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", SHAPES)
def test_the_plain_model_has_as_many_parameters(name: str) -> None:
    model = bench_config(name, precision="bf16", device="cpu").model
    with torch.device("meta"):
        plain = PlainGPT(plain_shape(model, SHAPES[name].vocab_size))
    counted = sum(parameter.numel() for parameter in plain.parameters())
    assert counted == parameter_counts(model, SHAPES[name].vocab_size).total


def test_products_and_attention_make_up_the_flops() -> None:
    config = bench_config("125M", precision="fp32", device="cpu", seq_length=1024)
    model, tokens = config.model, 1024
    matrices = sum(inputs * outputs * count for inputs, outputs, count in layer_products(model, 50_257))
    assert product_flops(model, 50_257, tokens) == 6 * matrices * tokens
    attention = flops_per_token(model, 50_257) - 6 * matrices
    # queries with keys, and probabilities with values: 2 products of 2 operations, three times with the backward pass
    assert attention == pytest.approx(12 * model.num_layers * model.hidden_size * (1024 + 1) / 2, rel=1e-6)


@pytest.mark.parametrize("precision", [mode for modes in PRECISIONS.values() for mode in modes])
def test_the_plain_loop_learns(precision: str) -> None:
    torch.manual_seed(0)
    shape = PlainShape(num_layers=2, hidden_size=32, num_heads=4, seq_length=16, vocab_size=64)
    trainer = PlainTrainer(PlainGPT(shape), precision=precision, device=torch.device("cpu"), learning_rate=1e-2)
    batch = next(random_batches(64, 4, 16))
    losses = [float(trainer.step(*batch)) for _ in range(12)]
    assert losses[-1] < losses[0] - 1


@pytest.mark.long
def test_json_has_every_contestant() -> None:
    command = "tools/bench.py train --json --device cpu --shape quickstart --precision bf16 --steps 1 --local"
    done = subprocess.run(
        [sys.executable, *command.split(), "--seq", "32", "--micro-batch", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["benchmark"] == "train" and result["machine"]["device"] == "cpu"
    (row,) = result["rows"]
    names = [entry["name"] for entry in row["contestants"]]
    assert names == ["neox", "neox, local", "plain autocast", "plain masters"] and row["product"] == "neox"
    assert row["local_ratio"] == pytest.approx(
        row["contestants"][1]["tokens_per_sec"] / row["contestants"][0]["tokens_per_sec"]
    )
    assert row["matrix_product_flops_per_sec"] > 0
    assert {"shape", "precision", "parameters", "cpu_seconds_ratio"} <= row.keys()
    peer = next(entry for entry in row["contestants"] if entry["name"] == row["peer"])
    ours = row["contestants"][0]
    assert row["speed_ratio"] == pytest.approx(ours["tokens_per_sec"] / peer["tokens_per_sec"])
    assert row["memory_ratio"] == ours["peak_bytes"] / peer["peak_bytes"]
    for entry in row["contestants"]:
        assert entry["tokens_per_sec"] == pytest.approx(2 * 32 / entry["seconds"])
        assert entry["loss"] == pytest.approx(6.2, abs=0.3), "ln 512, the loss of a model that knows nothing"
        assert 0 < entry["import_bytes"] < entry["peak_bytes"]


def test_a_missing_gpu_is_said_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "tools/bench.py", "train", "--device", "cuda"],
        cwd=ROOT,
        env={"PATH": "", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2 and "no CUDA device" in done.stdout
