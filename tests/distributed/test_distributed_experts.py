"""Mixtures of experts in every layout: the same initial weights and losses, and checkpoints that move between them."""

from pathlib import Path

import pytest
import torch
from support.runs import curve, finish, start, weights, write_config

# the router of a micro-batch counts its tokens, so all layouts have micro-batches of the same samples
MIXTURE = {
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


# name: processes, keys, and the layout that steps 3 and 4 go on from
LAYOUTS = {
    "dp2-zero0": (2, {}, "dp2-ep2-zero0"),
    "dp2-zero1": (2, zero(1), "dp2-ep2-zero1"),
    "dp2-ep2-zero0": (2, EP2, "dp2-zero1"),
    "dp2-ep2-zero1": (2, {**EP2, **zero(1)}, "dp2-ep2-zero2"),
    "dp2-ep2-zero2": (2, {**EP2, **zero(2)}, "dp2-zero0"),
    "dp2-ep2-zero2-offload": (2, {**EP2, **zero(2, offload_optimizer=CPU)}, "tp2"),
    "dp2-ep2-recompute": (2, {**EP2, "checkpoint_activations": True}, "dp2-ep2-zero0"),
    "tp2": (2, TP2, "dp2-ep2-zero1"),
    "tp2-dp2-ep2-zero0": (4, {**TP2, **EP2}, "dp4-ep2-zero1"),
    "tp2-dp2-ep2-zero2": (4, {**TP2, **EP2, **zero(2)}, "dp2-ep2-zero2"),
    "dp4-ep2-zero1": (4, {**EP2, **zero(1)}, "tp2-dp2-ep2-zero0"),
    "dp4-ep4-zero0": (4, {"moe_expert_parallel_size": 4}, "dp4-ep2-zero1"),
    "one": (1, {}, "dp4-ep4-zero0"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, char_data: Path) -> Path:
    """The folder of all runs: `straight` in one process, `<layout>` of its first two steps, and `<layout>-on` of the others."""
    root = tmp_path_factory.mktemp("experts")

    def configs(processes: int) -> list[Path]:
        rows = {name: row for name, row in LAYOUTS.items() if row[0] == processes}
        first = {"exit_interval": 2, "extra_save_iters": [0]}
        starts = {name: {**keys, **first} for name, (_, keys, _) in rows.items()}
        moves = {
            f"{name}-on": {**keys, "load": str(root / old / "checkpoints"), "save": None}
            for name, (_, keys, old) in rows.items()
        }
        straight = {
            1: {"straight": {}},
            2: {"straight-ep2": LAYOUTS["dp2-ep2-zero1"][1], "resumed-ep2": LAYOUTS["dp2-ep2-zero1"][1]},
            4: {},
        }[processes]
        if "resumed-ep2" in straight:
            straight["resumed-ep2"] = {**straight["resumed-ep2"], "load": str(root / "dp2-ep2-zero1" / "checkpoints")}
        return [
            write_config(root / name, char_data, num_gpus=processes, **MIXTURE, **keys)
            for name, keys in {**starts, **moves, **straight}.items()
        ]

    for processes in (2, 4, 1):
        paths = configs(processes)
        finish(start("tests/support/rows.py", paths[0], NEOX_ROWS=":".join(map(str, paths))))
    return root


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_changes_nothing(name: str, root: Path) -> None:
    initial, expected = weights(root / name, 0), weights(root / "one", 0)
    assert initial.keys() == expected.keys()
    for weight in expected:
        assert torch.equal(initial[weight], expected[weight]), f"initial {weight} differs"
    straight = torch.tensor(curve(root / "straight", *METRICS))
    torch.testing.assert_close(torch.tensor(curve(root / name, *METRICS)), straight[:2], rtol=1e-5, atol=1e-5)
    validation = curve(root / name, "validation/lm_loss"), curve(root / "straight", "validation/lm_loss")[:1]
    torch.testing.assert_close(*map(torch.tensor, validation), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "old"), [(name, old) for name, (*_, old) in LAYOUTS.items()])
def test_checkpoint_moves_here(name: str, old: str, root: Path) -> None:
    went_on, straight = curve(root / f"{name}-on", *METRICS), curve(root / "straight", *METRICS)
    assert len(went_on) == 2, f"from {old}"
    torch.testing.assert_close(torch.tensor(went_on), torch.tensor(straight[2:]), rtol=1e-5, atol=1e-5)


def test_resuming_is_exact(root: Path) -> None:
    assert curve(root / "resumed-ep2", *METRICS) == curve(root / "straight-ep2", *METRICS)[2:]
