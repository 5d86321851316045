"""A run that breaks starts again by itself, and one that hangs breaks."""

from pathlib import Path

from support.runs import ROOT, curve, run, write_config

FAULTS = {"PYTHONPATH": f"{ROOT}/tests/faults"}
KEYS = {"train_iters": 6, "checkpoint_factor": 2, "num_gpus": 2, "eval_interval": 100}
METRICS = ("train/lm_loss", "train/grad_norm", "train/consumed_tokens")


def test_a_run_restarts_from_its_newest_checkpoint(char_data: Path, tmp_path: Path) -> None:
    """FAULTS 1 and 16: rank 0 dies in its fourth step of every life: at step 4, and, going on from 2, at step 6."""
    config = write_config(tmp_path / "faulty", char_data, **KEYS, max_restarts=2)
    output = run("train.py", config, **FAULTS, NEOX_FAULT="step:kill9:4")
    assert "restart 2 of 2" in output
    assert "at iteration 4" in output
    run("train.py", write_config(tmp_path / "straight", char_data, **KEYS))
    assert curve(tmp_path / "faulty", *METRICS) == curve(tmp_path / "straight", *METRICS)


def test_a_rank_that_hangs_is_told_with_the_stacks_of_the_others_and_starts_again(
    char_data: Path, tmp_path: Path
) -> None:
    """FAULTS 14 and 16: rank 1 stands still in the third step of its first life; the second life has two steps left."""
    keys = {**KEYS, "train_iters": 4, "hang_timeout_seconds": 10, "max_restarts": 1}
    config = write_config(tmp_path, char_data, **keys)
    output = run("train.py", config, **FAULTS, NEOX_FAULT="step:stop:3", NEOX_FAULT_RANK="1")
    assert "Timeout (0:00:10)!" in output
    assert 'loop.py", line' in output, "a stack shows where it hangs"
    assert "rank 0 failed with exit code 1" in output
    assert "restart 1 of 1" in output and "at iteration 2" in output
    assert len(curve(tmp_path, "train/lm_loss")) == 4
