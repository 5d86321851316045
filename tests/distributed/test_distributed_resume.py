"""Promise: nothing that can happen to a run loses it. A run that was stopped or killed continues bit for bit."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.runs import ROOT, curve, finish, run, start, weights, write_config

from neox.checkpoint import layout

FAULTS = {"PYTHONPATH": f"{ROOT}/tests/faults"}
SIX_STEPS = {"train_iters": 6, "checkpoint_factor": 2, "num_gpus": 2, "eval_interval": 100, "hidden_dropout": 0.1}
MODES = {
    "fp32-zero0": {},
    "bf16-zero0": {"precision": "bf16"},
    "bf16-zero1": {"precision": "bf16", "zero_optimization": {"stage": 1}},
    "bf16-tensor": {"precision": "bf16", "model_parallel_size": 2, "attention_dropout": 0.1},
    "zero2": {"zero_optimization": {"stage": 2}},
    "zero3": {"zero_optimization": {"stage": 3}},
    "pipeline": {"pipe_parallel_size": 2, "zero_optimization": {"stage": 1}, "gradient_accumulation_steps": 2},
}


def same_run(folder: Path, straight: Path) -> bool:
    """Whether losses, norms and final weights equal those of the uninterrupted run to the bit."""
    metrics = ("train/lm_loss", "train/grad_norm", "train/learning_rate", "train/consumed_tokens")
    if curve(folder, *metrics) != curve(straight, *metrics):
        return False
    final, expected = weights(folder, 6), weights(straight, 6)
    return final.keys() == expected.keys() and all(torch.equal(final[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, char_data: Path):
    """The uninterrupted run of a mode, made when first asked for."""
    made = {}

    def of(mode: str) -> Path:
        if mode not in made:
            made[mode] = tmp_path_factory.mktemp(mode)
            run("train.py", write_config(made[mode], char_data, **SIX_STEPS, **MODES[mode]))
        return made[mode]

    return of


@pytest.mark.parametrize("mode", MODES)
def test_stopping_and_starting_again_changes_nothing(mode, straight, char_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, char_data, **SIX_STEPS, **MODES[mode])
    run("train.py", config, "--set", "exit_interval=3")
    assert layout.steps(tmp_path / "checkpoints") == [3, 2]
    output = run("train.py", config)
    assert "at iteration 3" in output
    assert same_run(tmp_path, straight(mode))


def test_a_killed_run_continues_bit_for_bit(straight, char_data: Path, tmp_path: Path) -> None:
    """FAULTS 1, through the launcher; test_distributed_kills.py has every other instant."""
    config = write_config(tmp_path, char_data, **SIX_STEPS)
    output = run("train.py", config, expect=1, **FAULTS, NEOX_FAULT="step:kill9:4")
    assert "SIGKILL" in output
    run("train.py", config)
    assert same_run(tmp_path, straight("fp32-zero0"))
    assert not [entry.name for entry in (tmp_path / "checkpoints").iterdir() if entry.name.startswith(".")]


def test_a_restore_that_forgets_the_moments_is_seen(straight, char_data: Path, tmp_path: Path) -> None:
    """FAULTS 33: the comparison can fail: with the first moments of Adam set to zero, the continued run differs."""
    config = write_config(tmp_path, char_data, **SIX_STEPS)
    run("train.py", config, "--set", "exit_interval=3")
    folder = tmp_path / "checkpoints" / "global_step3"
    for path in folder.glob("state_*"):
        tensors = load_file(path)
        save_file({name: value * (not name.startswith("exp_avg/")) for name, value in tensors.items()}, path)
    sign_again(folder)
    run("train.py", config)
    assert not same_run(tmp_path, straight("fp32-zero0"))


def sign_again(folder: Path) -> None:
    """Make the manifest fit files that a test has changed."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        entry = layout.file_entry(folder / name)
        manifest["files"][name] = [entry.size_bytes, entry.sha256]
    (folder / "manifest.json").write_bytes(layout.encode_manifest(manifest))


def test_a_damaged_checkpoint_is_passed_over_aloud(straight, char_data: Path, tmp_path: Path) -> None:
    """FAULTS 6 and 7."""
    config = write_config(tmp_path, char_data, **SIX_STEPS)
    run("train.py", config, "--set", "exit_interval=4")
    path = next((tmp_path / "checkpoints" / "global_step4").glob("state_*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    output = run("train.py", config)
    assert "global_step4 is damaged" in output and path.name in output and "at iteration 2" in output
    assert same_run(tmp_path, straight("fp32-zero0"))


def test_checkpoints_of_which_none_is_good_are_never_a_silent_restart(char_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, char_data, **{**SIX_STEPS, "num_gpus": 1, "train_iters": 2})
    run("train.py", config)
    for path in (tmp_path / "checkpoints").glob("*/state_*"):
        os.truncate(path, 10)
    output = run("train.py", config, expect=1)
    assert "none that can be loaded" in output and "state_00000.safetensors" in output
    assert len(curve(tmp_path, "train/lm_loss")) == 2


def test_memory_that_runs_out_is_told_beside_the_plan(char_data: Path, tmp_path: Path) -> None:
    """FAULTS 35."""
    config = write_config(tmp_path, char_data, num_gpus=1)
    output = run("train.py", config, expect=1, **FAULTS, NEOX_FAULT="step:memory")
    assert "error: out of memory (" in output and "you tried to allocate" in output and "Traceback" not in output
    assert re.search(
        r"the plan of this run has [\d.]+ GiB for each process; less: checkpoint_activations: true \(", output
    )


def test_a_save_that_fails_behind_trainings_back_ends_the_run(char_data: Path, tmp_path: Path) -> None:
    """FAULTS 9: both tries of the second save fail, on the rank that publishes; the others hear of it."""
    config = write_config(tmp_path, char_data, **SIX_STEPS, checkpoint_asynchronous=True)
    output = run("train.py", config, expect=1, **FAULTS, NEOX_FAULT="before_manifest:full:2,3")
    what = f"{tmp_path}/checkpoints: step 4 cannot be saved: rank 0: [Errno 28] No space left on device"
    assert f"error: save: {what}" in output and "Traceback" not in output
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["global_step2", "latest"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_75(number, char_data: Path, tmp_path: Path) -> None:
    """FAULTS 11. A Ctrl-C ends `| tee` too: nobody reads what is printed from then on."""
    config = write_config(tmp_path, char_data, **{**SIX_STEPS, "checkpoint_factor": 100})
    # the run has many steps while it is asked to stop, and its own number of them afterwards
    process = start("train.py", config, "--set", "train_iters=100000", "lr_decay_iters=6")
    wait_for_steps(tmp_path, 2)
    if number == signal.SIGINT:
        process.stdout.close()
    process.send_signal(number)
    finish(process, expect=75)
    saved = layout.steps(tmp_path / "checkpoints")[0]
    assert saved >= 2
    longer = [f"train_iters={saved + 2}", "lr_decay_iters=6", "allow_data_change=true"]  # fewer epochs: another order
    output = run("train.py", config, "--set", *longer)
    assert f"at iteration {saved}" in output
    assert len(curve(tmp_path, "train/lm_loss")) == saved + 2


def test_ctrl_c_before_a_run_hears_it_is_no_traceback(char_data: Path, tmp_path: Path) -> None:
    process = start("train.py", write_config(tmp_path, char_data, **SIX_STEPS), fresh=True)
    process.stdout.readline()  # of the plan, after which the processes start and import
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    output = finish(process, expect=1)
    assert "was ended by SIGINT before it had saved" in output
    assert "Traceback" not in output and "KeyboardInterrupt" not in output


def wait_for_steps(folder: Path, steps: int) -> None:
    path = folder / "logs" / "metrics.jsonl"
    for _ in range(1200):
        if path.exists() and path.read_text().count("\n") >= steps:
            return
        time.sleep(0.1)
    raise AssertionError(f"no {steps} steps in two minutes")


def test_weights_move_to_any_layout_for_finetuning(char_data: Path, tmp_path: Path) -> None:
    """`finetune: true` takes the weights alone, here from two pipeline stages to two tensor ranks under ZeRO 3's neighbour."""
    source = write_config(tmp_path / "source", char_data, **{**SIX_STEPS, **MODES["pipeline"], "train_iters": 2})
    run("train.py", source)
    keys = {"model_parallel_size": 2, "load": str(tmp_path / "source" / "checkpoints"), "finetune": True}
    target = write_config(tmp_path, char_data, **{**SIX_STEPS, **keys, "train_iters": 1, "extra_save_iters": [0]})
    output = run("train.py", target)
    assert "loaded the weights of" in output
    moved, original = weights(tmp_path, 0), weights(tmp_path / "source", 2)
    assert all(torch.equal(moved[name], original[name]) for name in original)


def test_a_checkpoint_of_another_model_is_refused_by_name(char_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, char_data, **{**SIX_STEPS, "num_gpus": 1, "train_iters": 2})
    run("train.py", config)
    output = run("train.py", config, "--set", "ffn_hidden_size=96", expect=1)
    assert "another model" in output and "layers.1.mlp." in output


def test_other_data_are_refused_before_the_first_step_with_what_changed(char_data: Path, tmp_path: Path) -> None:
    """FAULTS 20."""
    config = write_config(tmp_path, char_data, **{**SIX_STEPS, "num_gpus": 1, "train_iters": 2})
    run("train.py", config)
    other = ["seed=7", "split=80,20,0", "train_iters=3"]
    output = run("train.py", config, "--set", *other, expect=2)
    assert "allow_data_change: true" in output and "Traceback" not in output
    changed = ["- seed: 1234", "+ seed: 7", "- split: 90,10,0", "+ split: 80,20,0"]
    assert [line for line in output.splitlines() if line.startswith(("- ", "+ "))] == changed
    assert len(curve(tmp_path, "train/lm_loss")) == 2
    output = run("train.py", config, "--set", "train_iters=1000", expect=2)
    assert "- order of the samples (train_iters x train_batch_size): harbour_text_document, 1 epoch, " in output
    assert "+ order of the samples (train_iters x train_batch_size): harbour_text_document, 7 epochs, " in output
    output = run("train.py", config, "--set", *other, "allow_data_change=true")
    assert "not those of the checkpoint" in output and "at iteration 2" in output
    assert len(curve(tmp_path, "train/lm_loss")) == 3


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(char_data: Path, tmp_path: Path) -> None:
    """FAULTS 18."""
    config = write_config(tmp_path, char_data, **{**SIX_STEPS, "num_gpus": 1, "checkpoint_factor": 1, "warmup": 0.0})
    output = run("train.py", config, "--set", "optimizer.params.lr=1.0e+18", "gradient_clipping=0", expect=1)
    assert "step 2: loss" in output and "is kept" in output
    assert layout.steps(tmp_path / "checkpoints") == [1]
