import io
import itertools
import threading
import time

import pytest
from rich.console import Console
from support.limits import files_of_at_most

from neox.config.errors import ConfigError
from neox.config.sections import MonitorConfig
from neox.monitor.console import ProgressLine, describe, time_left
from neox.monitor.jsonl import read_metrics
from neox.monitor.reporters import build_reporters

STEP = {
    "train/lm_loss": 3.21,
    "train/learning_rate": 1e-3,
    "train/consumed_tokens": 1000,
    "train/grad_norm": 0.52,
    "runtime/tokens_per_sec": 12345.4,
    "runtime/iteration_time": 0.1,
}


def reporters(tmp_path=None, is_main=True, **keys):
    monitor = MonitorConfig(log_dir=None if tmp_path is None else str(tmp_path), **keys)
    return build_reporters(monitor, config_dict={}, total_iterations=2000, is_main=is_main, wandb_run_id="kept")


def test_plain_lines_where_standard_output_is_no_terminal(capsys, tmp_path):
    both = reporters(tmp_path)
    both.report(100, STEP)
    both.report(200, STEP | {"validation/lm_loss": 3.0, "validation/lm_loss_ppl": 20.0855})
    both.close()
    assert capsys.readouterr().out.splitlines() == [
        "iteration 100/2000 | loss 3.2100 | lr 1.00e-03 | grad norm 0.520 | 12,345 tokens/s | 0.1 s/it | ETA 0:03:10",
        "iteration 200/2000 | loss 3.2100 | lr 1.00e-03 | grad norm 0.520 | 12,345 tokens/s | 0.1 s/it"
        " | validation loss 3.0000 | perplexity 20.09 | ETA 0:03:00",
    ]
    assert list(read_metrics(tmp_path)) == [100, 200]


def test_progress_line_on_a_terminal():
    screen = io.StringIO()
    line = ProgressLine(2000, Console(file=screen, force_terminal=True, width=140))
    line.report(100, STEP)
    line.report(200, STEP | {"train/lm_loss": 2.5, "validation/lm_loss": 3.0})
    line.close()
    shown = screen.getvalue()
    assert "iteration 200/2000 | validation loss 3.0000" in shown
    last = shown[shown.rindex("loss 2.5") :]
    assert "12,345 tokens/s" in last
    assert "0:03:00" in last
    assert shown.endswith("\x1b[?25h"), "the cursor is given back"


def test_a_process_that_does_not_report_makes_nothing(capsys, tmp_path):
    quiet = reporters(tmp_path / "logs", is_main=False, tensorboard_dir=str(tmp_path / "tb"), use_wandb=True)
    quiet.report(1, STEP)
    quiet.close()
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
    assert quiet.wandb_run_id == "kept"


def test_words_leave_out_what_was_not_measured():
    assert describe({"train/lm_loss": 2.0, "memory/max_allocated": 1e9}) == "loss 2.0000"
    assert time_left(100, {}) == ""
    assert time_left(100_000, {"runtime/iteration_time": 1.5}) == "1 day, 17:40:00"


def test_tensorboard_scalars_read_back(tmp_path):
    event_file_loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    both = reporters(tensorboard_dir=str(tmp_path))
    for iteration in (10, 20, 30):
        both.report(iteration, {"train/lm_loss": 1.0 / iteration})
    both.close()
    # a restart at 20 does 30 again
    again = reporters(tensorboard_dir=str(tmp_path))
    again.report(30, {"train/lm_loss": 0.5})
    again.close()
    events = event_file_loader.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("train/lm_loss")] == [(10, 0.1), (20, 0.05), (30, 0.5)]


def test_a_disk_that_fills_up_ends_the_record_of_tensorboard_and_not_the_run(tmp_path, capsys, monkeypatch):
    """FAULTS 9."""
    pytest.importorskip("tensorboard")
    monkeypatch.setattr("neox.monitor.tensorboard.FLUSH_SECONDS", 0)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # TensorBoard's own thread fails first
    both, said = reporters(tensorboard_dir=str(tmp_path)), ""
    both.report(1, STEP)
    end = time.monotonic() + 30
    with files_of_at_most(1):
        for iteration in itertools.count(2):
            both.report(iteration, STEP)
            said += capsys.readouterr().out
            if "TensorBoard" in said or time.monotonic() > end:
                break
            time.sleep(0.05)
        both.report(iteration + 1, STEP)
        both.close()
    said += capsys.readouterr().out
    assert said.count(f"cannot write {tmp_path}: File too large; training goes on without TensorBoard") == 1


@pytest.mark.parametrize(
    ("package", "keys"), [("wandb", {"use_wandb": True}), ("tensorboard", {"tensorboard_dir": "tb"})]
)
def test_a_package_that_is_missing_is_named(monkeypatch, package, keys):
    for name in ("neox.monitor.tensorboard", "neox.monitor.weights_and_biases", "torch.utils.tensorboard"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        reporters(**keys)
