"""Masked language modelling in every layout: the same losses, which fall, and a run that goes on where it was."""

from pathlib import Path

import numpy
import pytest
import tokenizers
import torch
from support.runs import assert_same_curve, curve, run_rows

from neox.data.store import StoreWriter

METRICS = ("train/lm_loss", "train/grad_norm")
LAYOUTS = {
    "dp2": {"zero_optimization": {"stage": 2}},
    "pp2": {"pipe_parallel_size": 2},
    "tp2": {"model_parallel_size": 2, "sequence_parallel": True, "checkpoint_activations": True},
}
# a document repeats one word: its others tell the hidden ones
WORDS = [f"w{number}" for number in range(30)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("masked")
    engine = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: index for index, word in enumerate(WORDS)}, "w0"))
    engine.add_special_tokens(["<|endoftext|>", "<mask>"])
    engine.save(str(root / "tokenizer.json"))
    with StoreWriter(root / "words", numpy.uint16) as store:
        for number in range(60):
            tokens = numpy.append([number % len(WORDS)] * 40, len(WORDS)).astype(numpy.uint16)
            store.add(tokens, numpy.array([tokens.size]))
        store.finish()
    keys = {
        "train_impl": "mlm",
        "mlm_mask_token": "<mask>",
        "tokenizer_type": "HFTokenizer",
        "vocab_file": str(root / "tokenizer.json"),
        "reset_attention_mask": True,
        "no_weight_tying": False,
        "train_iters": 14,
        "optimizer": {"type": "Adam", "params": {"lr": 1.0e-2}},
        "eval_interval": 14,
        "num_gpus": 2,
    }
    runs = {name: {**keys, **layout} for name, layout in LAYOUTS.items()}
    runs["dp2-begun"] = {**runs["dp2"], "exit_interval": 12, "save": str(root / "dp2-begun" / "checkpoints")}
    runs["tp2-on"] = {**runs["tp2"], "load": str(root / "dp2-begun" / "checkpoints")}
    run_rows(root, root / "words", {name: {"save": None, **row} for name, row in runs.items()})
    return root


def test_layout_changes_nothing_and_the_loss_falls(root: Path) -> None:
    straight = curve(root / "dp2", *METRICS)
    losses = torch.tensor(straight)[:, 0]
    assert losses[-3:].mean() < losses[:3].mean() - 0.3
    for name in ("pp2", "tp2"):
        assert_same_curve(curve(root / name, *METRICS)[:10], straight[:10], tolerance=1e-4)
    validation = [curve(root / name, "validation/lm_loss") for name in LAYOUTS]
    assert_same_curve(validation, validation[:1] * 3, tolerance=1e-2)


def test_training_goes_on_from_another_layout(root: Path) -> None:
    went_on, straight = curve(root / "tp2-on", *METRICS), curve(root / "dp2", *METRICS)
    assert len(went_on) == 2
    assert_same_curve(went_on, straight[12:], tolerance=1e-3)
