"""Promise 2: a checkpoint moves between layouts, optimizer and place in the data included, and training goes on as if it had not."""

from pathlib import Path

import pytest
from support.runs import assert_same_curve, curve, run_rows

from neox.checkpoint.newest import named
from neox.checkpoint.rewrite import rewrite
from neox.checkpoint.tensors import StateReader

LAYOUTS = {  # name: processes, and keys
    "one": (1, {}),
    "dp2-zero0": (2, {"zero_optimization": {"stage": 0}}),
    "dp2-zero1": (2, {"zero_optimization": {"stage": 1}}),
    "dp2-zero2": (2, {"zero_optimization": {"stage": 2}}),
    "dp2-zero3": (2, {"zero_optimization": {"stage": 3}}),
    "tp2": (2, {"model_parallel_size": 2}),
    "pp2": (2, {"pipe_parallel_size": 2, "gradient_accumulation_steps": 4}),
}
# muP gives the optimizer groups with rates of their own; with as many norms as rmsnorm has, ZeRO cuts a weight in two
GROUPS = {"use_mup": True, "mup_base_hidden_size": 32, "mup_base_num_attention_heads": 4, "norm": "rmsnorm"}
# each layout is left and entered; make test-long runs the other pairs too
ALWAYS = {
    ("one", "dp2-zero3"),
    ("one", "tp2"),
    ("one", "pp2"),
    ("dp2-zero0", "one"),
    ("dp2-zero1", "tp2"),
    ("dp2-zero2", "dp2-zero1"),
    ("dp2-zero3", "dp2-zero2"),
    ("tp2", "pp2"),
    ("pp2", "dp2-zero0"),
    ("pp2", "one"),
}
MOVES = [
    pytest.param(old, new, marks=[] if (old, new) in ALWAYS else pytest.mark.long)
    for old in LAYOUTS
    for new in LAYOUTS
    if (old, new) != ("one", "one")
]


@pytest.fixture(scope="module")
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, char_data: Path) -> Path:
    """The folder of all runs: `straight` of four steps, `<layout>` of the first two, `<old>-<new>` that went on from there."""
    root = tmp_path_factory.mktemp("moves")
    asked = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    pairs = [(spec.params["old"], spec.params["new"]) for spec in asked if spec]

    def keys(name: str, **more) -> dict:
        processes, layout = LAYOUTS[name]
        return {"num_gpus": processes, **layout, **GROUPS, **more}

    def moves(processes: int) -> dict[str, dict]:
        return {
            f"{old}-{new}": keys(new, load=str(root / old / "checkpoints"), save=None)
            for old, new in pairs
            if LAYOUTS[new][0] == processes
        }

    # the first two of the same four steps: the schedule is that of the whole run
    starts = {name: keys(name, exit_interval=2) for name in LAYOUTS}
    run_rows(root, char_data, {"straight": keys("one"), "one": starts.pop("one")})
    run_rows(root, char_data, {**starts, **moves(2)})
    rewrite(named(root / "dp2-zero1" / "checkpoints")[0], root / "rewritten", tensor_size=4)
    run_rows(root, char_data, {**moves(1), "rewritten-one": keys("one", load=str(root / "rewritten"), save=None)})
    halves = StateReader(root / "dp2-zero1" / "checkpoints" / "global_step2").weights.values()
    assert any(piece.start for weight in halves for piece in weight.pieces), "a weight is cut in two"
    return root


@pytest.mark.parametrize(("old", "new"), MOVES)
def test_training_goes_on_in_another_layout(old: str, new: str, root: Path) -> None:
    """FAULTS 19."""
    assert_went_on(root / f"{old}-{new}", root)


def test_training_goes_on_from_what_is_cut_anew_without_a_run(root: Path) -> None:
    assert_went_on(root / "rewritten-one", root)


def assert_went_on(folder: Path, root: Path) -> None:
    """Fail unless the last two of four steps were those of the straight run."""
    metrics = ("train/lm_loss", "train/grad_norm", "train/learning_rate", "train/consumed_tokens")
    went_on, straight = curve(folder, *metrics), curve(root / "straight", *metrics)
    assert len(went_on) == 2
    assert_same_curve(went_on, straight[2:])
