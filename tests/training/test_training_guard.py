"""Bad steps: judged before the update, by all ranks alike, and the run goes on as if the data had never been there."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from support.runs import ROOT, curve, run_rows, weights

from neox.checkpoint import layout
from neox.config.sections import OptimizerConfig
from neox.parallel.topology import alone
from neox.training.guard import MOST_ROLLBACKS, MOST_SKIPS, Guard, NonFiniteLoss

# the fault is in the fourth step of each row, on one rank: of the two replicas, of the two shares of each layer, or on the stage
# that computes the loss. FAULTY are the calls of that rank for a micro-batch, counted over all rows.
KEYS = {"num_gpus": 2, "num_layers": 2, "train_iters": 6, "eval_iters": 0}
SKIP = {"on_nonfinite": "skip", "checkpoint_factor": 3}
ROLLBACK = {"on_nonfinite": "rollback", "checkpoint_factor": 2}
ROWS = {
    "skip-zero0": SKIP,
    "skip-zero1": {**SKIP, "zero_optimization": {"stage": 1}},
    "skip-zero3": {**SKIP, "zero_optimization": {"stage": 3}},
    "rollback-tp2": {**ROLLBACK, "model_parallel_size": 2},
    "rollback-pp2": {**ROLLBACK, "pipe_parallel_size": 2, "gradient_accumulation_steps": 2},
}
FAULTY = "4,10,16,22,33"
SAMPLES, TOKENS = 8, 8 * 32  # of a step


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, char_data: Path) -> Path:
    """Runs with a fault, and `expected-<row>`: runs without, that start where the remedy leaves off."""
    root = tmp_path_factory.mktemp("guard")

    def run(rows: dict[str, dict], **environment: str) -> str:
        return run_rows(root, char_data, {name: KEYS | keys for name, keys in rows.items()}, **environment)

    faults = {"PYTHONPATH": f"{ROOT}/tests/faults", "NEOX_FAULT": f"batch:nan:{FAULTY}", "NEOX_FAULT_RANK": "1"}
    said = run(ROWS, **faults)
    assert said.count("(skip)") == 3 and said.count("went back to") == 2
    for name in ROWS:
        if name.startswith("skip"):
            begin_at(root, name, 3, iteration=4, consumed_samples=4 * SAMPLES, consumed_tokens=4 * TOKENS)
        else:
            begin_at(root, name, 2, consumed_samples=4 * SAMPLES)
    run({f"expected-{name}": keys for name, keys in ROWS.items()})
    return root


def begin_at(root: Path, name: str, step: int, **progress: int) -> None:
    """Give the run without a fault the checkpoint of a step, with another place in the schedule and the data."""
    save = root / f"expected-{name}" / "checkpoints"
    folder = save / layout.step_name(progress.get("iteration", step))
    shutil.copytree(root / name / "checkpoints" / layout.step_name(step), folder)
    facts = json.loads((folder / "progress.json").read_text())
    (folder / "progress.json").write_text(json.dumps(facts | progress))
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = layout.file_entry(folder / "progress.json")
    manifest["files"][entry.name] = [entry.size_bytes, entry.sha256]
    (folder / "manifest.json").write_bytes(layout.encode_manifest(manifest))
    (save / "latest").write_text(f"{folder.name}\n")


@pytest.mark.parametrize("name", ROWS)
def test_a_remedy_leaves_no_trace_of_the_bad_data(name: str, root: Path) -> None:
    metrics = ("train/lm_loss", "train/grad_norm", "train/learning_rate", "train/consumed_tokens")
    expected = curve(root / f"expected-{name}", *metrics)
    assert len(expected) == (2 if name.startswith("skip") else 4)
    assert curve(root / name, *metrics)[-len(expected) :] == expected
    ended, wanted = weights(root / name, 6), weights(root / f"expected-{name}", 6)
    assert all(torch.equal(ended[weight], wanted[weight]) for weight in wanted)


@pytest.mark.parametrize("name", ROWS)
def test_what_was_done_is_counted(name: str, root: Path) -> None:
    counts = curve(root / name, "train/skipped_steps", "train/rollbacks")[-1]
    assert counts == ((1, 0) if name.startswith("skip") else (0, 1))


def guard(**keys) -> Guard:
    return Guard(OptimizerConfig(**keys), alone(), usual_loss=None)


def test_a_spike_is_measured_against_the_recent_good_steps() -> None:
    watched = guard(loss_spike_factor=2.0)
    for loss in (8.0, 9.0, 7.5):
        assert watched.admits(loss, 1.0) and watched.remedy(1, None) is None
    usual = watched.usual_loss
    assert not watched.admits(2.01 * usual, 1.0) and watched.remedy(4, None) == "skip"
    assert watched.usual_loss == usual, "a spike does not become usual"
    assert watched.admits(1.99 * usual, 1.0)


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (2.0, math.inf)])
def test_what_is_not_finite_is_never_admitted(loss: float, norm: float) -> None:
    watched = guard(on_nonfinite="skip")
    assert not watched.admits(loss, norm)
    assert watched.remedy(1, None) == "skip"
    with pytest.raises(NonFiniteLoss, match=r"step 7: .*(nan|inf)"):
        stopping = guard(on_nonfinite="stop")
        stopping.admits(loss, norm)
        stopping.remedy(7, "checkpoints")


def test_an_overflow_of_fp16_is_no_fault() -> None:
    assert guard(on_nonfinite="stop").admits(2.0, None)


def test_a_remedy_that_does_not_help_ends() -> None:
    skipping, returning = guard(on_nonfinite="skip"), guard(on_nonfinite="rollback")
    for _ in range(MOST_SKIPS):
        skipping.admits(math.nan, 1.0), skipping.remedy(1, None)
    for _ in range(MOST_ROLLBACKS):
        returning.admits(math.nan, 1.0), returning.remedy(1, None)
        returning.admits(2.0, 1.0), returning.remedy(1, None)
    for watched, words in ((skipping, "skipped steps in a row"), (returning, "without a new checkpoint")):
        watched.admits(math.nan, 1.0)
        with pytest.raises(NonFiniteLoss, match=words):
            watched.remedy(2, None)
    returning.saved()
    returning.admits(math.nan, 1.0)
    assert returning.remedy(3, None) == "rollback"
