"""Mixtures of experts in every layout: the same initial weights and losses, and checkpoints that move between them."""

import math
from pathlib import Path

import pytest
import torch
from support.runs import assert_same_curve, curve, run_rows, weights

# the balance of a micro-batch, and who finds an expert full, depend on its tokens: all layouts have the same micro-batches
MIXTURE = {
    "num_layers": 2,
    "moe_num_experts": 4,
    "moe_top_k": 2,
    "moe_expert_interval": 2,
    "moe_train_capacity_factor": 1.0,
    "moe_loss_coeff": 0.1,
    "train_micro_batch_size_per_gpu": 2,
}
EP2 = {"moe_expert_parallel_size": 2}
TP2 = {"model_parallel_size": 2}
CPU = {"device": "cpu"}
METRICS = ("train/lm_loss", "train/moe_auxiliary_loss", "train/grad_norm")


def zero(stage: int, **keys) -> dict:
    return {"zero_optimization": {"stage": stage, **keys}}


# name: processes, keys, and the layout whose steps 1 and 2 its steps 3 and 4 go on from
LAYOUTS = {
    "dp2-zero1": (2, zero(1), "dp2-ep2-zero0"),
    "dp2-ep2-zero0": (2, {**EP2, "checkpoint_activations": True}, "dp2-zero1"),
    "dp2-ep2-zero1": (2, {**EP2, **zero(1)}, "dp2-ep2-zero1"),
    "tp2": (2, TP2, "dp2-ep2-zero1"),
    "tp2-dp2-ep2-zero0": (4, {**TP2, **EP2}, "dp4-ep2-zero1"),
    "tp2-dp2-ep2-zero2": (4, {**TP2, **EP2, **zero(2)}, "tp2-dp2-ep2-zero0"),
    "dp4-ep2-zero1": (4, {**EP2, **zero(1)}, "dp2-zero1"),
    "one": (1, {}, "tp2-dp2-ep2-zero2"),
}
# make test-long runs these too
FURTHER = {
    "dp2-zero0": (2, {}, "dp2-ep2-zero1"),
    "dp2-ep2-zero2": (2, {**EP2, **zero(2)}, "tp2"),
    "dp2-ep2-zero2-offload": (2, {**EP2, **zero(2, offload_optimizer=CPU)}, "dp2-ep2-zero0"),
    "tp2-dp2-ep2-zero1": (4, {**TP2, **EP2, **zero(1)}, "dp4-ep2-zero1"),
    "dp4-ep2-zero0": (4, EP2, "dp2-ep2-zero0"),
    "dp4-ep4-zero2": (4, {"moe_expert_parallel_size": 4, **zero(2)}, "tp2"),
}
ROWS = [*LAYOUTS, *(pytest.param(name, marks=pytest.mark.long) for name in FURTHER)]


@pytest.fixture(scope="module")
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, char_data: Path) -> Path:
    """The folder of all runs: `straight` of four steps, `<layout>` of the first two, `<layout>-on` of the others."""
    root = tmp_path_factory.mktemp("experts")
    further = any(item.get_closest_marker("long") for item in request.session.items if item.path == request.path)
    layouts = {**LAYOUTS, **(FURTHER if further else {})}
    for processes in (2, 4, 1):
        rows = {name: row for name, row in layouts.items() if row[0] == processes}
        runs = {name: {**keys, "exit_interval": 2, "extra_save_iters": [0]} for name, (_, keys, _) in rows.items()}
        for name, (_, keys, old) in rows.items():
            runs[f"{name}-on"] = {**keys, "load": str(root / old / "checkpoints"), "save": None}
        if processes < 4:
            runs[f"straight-{processes}"] = layouts[{1: "one", 2: "dp2-ep2-zero1"}[processes]][1]
        run_rows(root, char_data, {name: {"num_gpus": processes, **MIXTURE, **keys} for name, keys in runs.items()})
    return root


@pytest.mark.parametrize("name", ROWS)
def test_layout_changes_nothing(name: str, root: Path) -> None:
    initial, expected = weights(root / name, 0), weights(root / "one", 0)
    assert initial.keys() == expected.keys()
    for weight in expected:
        assert torch.equal(initial[weight], expected[weight]), f"initial {weight} differs"
    for metrics in (METRICS, ("validation/lm_loss",)):
        measured, straight = curve(root / name, *metrics), curve(root / "straight-1", *metrics)
        assert_same_curve(measured, straight[: len(measured)])


@pytest.mark.parametrize("name", ROWS)
def test_training_goes_on_from_another_layout(name: str, root: Path) -> None:
    went_on, straight = curve(root / f"{name}-on", *METRICS), curve(root / "straight-1", *METRICS)
    assert len(went_on) == 2
    assert_same_curve(went_on, straight[2:])


def test_resuming_is_exact(root: Path) -> None:
    assert curve(root / "dp2-ep2-zero1-on", *METRICS) == curve(root / "straight-2", *METRICS)[2:]


def test_the_auxiliary_loss_is_no_part_of_the_reported_loss(root: Path) -> None:
    """At the start every token is about as unlikely as any other, and the experts are chosen evenly."""
    ((loss, auxiliary, _), *_) = curve(root / "straight-1", *METRICS)
    assert loss == pytest.approx(math.log(512), abs=0.1)  # of as many characters
    assert auxiliary == pytest.approx(1, abs=0.05)
