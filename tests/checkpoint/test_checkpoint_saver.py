"""Saving, while training waits and behind its back: the same bytes, one at a time, and no failure that nobody hears of."""

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.limits import files_of_at_most

from neox.checkpoint import layout, saver
from neox.checkpoint.layout import CheckpointError
from neox.checkpoint.publish import Progress
from neox.checkpoint.saver import Saver
from neox.checkpoint.state import TrainingState, restore
from neox.config.sections import CheckpointConfig
from neox.parallel.topology import alone


class Run:
    """A weight, its optimizer, and a saver for them."""

    def __init__(self, save: Path, asynchronous: bool) -> None:
        torch.manual_seed(7)
        self.weight = torch.nn.Parameter(torch.randn(1000, 10))
        self.optimizer = torch.optim.AdamW([self.weight], lr=0.1)
        self.state = TrainingState({self.weight: "layers.0.weight"}, self.optimizer, alone())
        self.failed = threading.Event()
        config = CheckpointConfig(save=str(save), checkpoint_asynchronous=asynchronous)
        self.saver = Saver(self.state, config, "seed: 7\n", on_failure=self.failed.set, uploader=None)

    def step(self) -> None:
        self.weight.grad = torch.ones_like(self.weight)
        self.optimizer.step()

    def save(self, step: int) -> None:
        self.saver.save(Progress(iteration=step))


@pytest.fixture(params=[False, True], ids=["waiting", "asynchronous"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(saver, "RETRY_SECONDS", 0.01)
    return Run(tmp_path, request.param)


def test_the_bytes_are_those_of_the_moment_of_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on while the thread has not even begun to write."""
    write, go_on = saver.write_tensors, threading.Event()
    waiting, asynchronous = Run(tmp_path / "waiting", False), Run(tmp_path / "asynchronous", True)
    for step in (1, 2):
        waiting.step()
        waiting.save(step)
    monkeypatch.setattr(saver, "write_tensors", lambda *args: go_on.wait(30) and write(*args))
    for step in (1, 2):
        go_on.clear()
        asynchronous.step()
        asynchronous.save(step)
        if step == 1:
            assert layout.steps(tmp_path / "asynchronous") == []
        threading.Timer(0.1, go_on.set).start()
    asynchronous.step()
    asynchronous.saver.wait()
    for step in (1, 2):
        folders = [tmp_path / name / f"global_step{step}" for name in ("waiting", "asynchronous")]
        names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
        assert names[0] == names[1]
        for name in names[0]:
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_a_disk_that_fills_up_keeps_the_older_checkpoint(run: Run, tmp_path: Path, capsys) -> None:
    """FAULTS 9."""
    run.step()
    run.save(1)
    run.saver.wait()
    with files_of_at_most(50_000), pytest.raises(CheckpointError, match="step 2 cannot be saved: .*File too large"):
        run.save(2)
        run.saver.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["global_step1", "latest"]
    assert layout.candidates(tmp_path) == ([1], None)
    assert "trying to save once more" in capsys.readouterr().err
    run.save(3)
    run.saver.wait()
    assert layout.candidates(tmp_path) == ([3, 1], None)


def test_a_checkpoint_that_cannot_fit_is_not_begun(run: Run, tmp_path: Path, monkeypatch) -> None:
    run.save(1)
    run.saver.wait()
    monkeypatch.setattr(layout.shutil, "disk_usage", lambda _: SimpleNamespace(free=45_000))
    with pytest.raises(CheckpointError, match=r"step 2 .* takes 45,056 bytes, and the disk has 45,000 free; .* kept"):
        run.save(2)
        run.saver.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["global_step1", "latest"]


def test_a_folder_that_vanished_is_made_again(run: Run, tmp_path: Path) -> None:
    """FAULTS 10."""
    run.save(1)
    run.saver.wait()
    for path in (tmp_path / "global_step1", tmp_path):
        shutil.rmtree(path)
    run.save(2)
    run.saver.wait()
    assert layout.candidates(tmp_path) == ([2], None)


def test_a_folder_that_cannot_be_written_is_told(run: Run, tmp_path: Path) -> None:
    """FAULTS 10: a file stands where the folder was, which stops root too."""
    shutil.rmtree(tmp_path)
    tmp_path.write_text("not a folder")
    with pytest.raises(CheckpointError, match="rank 0: .*File exists"):
        run.save(1)
        run.saver.wait()
    tmp_path.unlink()


def test_what_is_still_being_uploaded_stays(tmp_path: Path) -> None:
    offered, busy = [], {"global_step1"}
    uploader = SimpleNamespace(offer=lambda folder: offered.append(folder.name), in_use=lambda: busy)
    config = CheckpointConfig(save=str(tmp_path), keep_last_n_checkpoints=1)
    run = Run(tmp_path, asynchronous=False)
    run.saver = Saver(run.state, config, "seed: 7\n", on_failure=run.failed.set, uploader=uploader)
    for step in (1, 2, 3):
        run.save(step)
    assert offered == ["global_step1", "global_step2", "global_step3"]
    assert layout.steps(tmp_path) == [3, 1]
    busy.clear()
    run.save(4)
    assert layout.steps(tmp_path) == [4]


def test_an_error_that_passes_costs_nothing(run: Run, tmp_path: Path, monkeypatch, capsys) -> None:
    publish, calls = saver.publish_state, []

    def fail_once(*args, **keywords):
        calls.append(args)
        if len(calls) == 1:
            raise OSError(116, "Stale file handle")
        return publish(*args, **keywords)

    monkeypatch.setattr(saver, "publish_state", fail_once)
    run.save(1)
    run.saver.wait()
    assert layout.verify(tmp_path / "global_step1")["iteration"] == 1
    assert "Stale file handle" in capsys.readouterr().err


def test_no_number_that_is_not_finite_is_saved(run: Run, tmp_path: Path) -> None:
    """FAULTS 18."""
    run.step()
    run.optimizer.state[run.weight]["exp_avg"][3, 3] = float("nan")
    with pytest.raises(CheckpointError, match=r"exp_avg/layers.0.weight holds a number that is not finite"):
        run.save(1)
        run.saver.wait()
    assert layout.steps(tmp_path) == [] and not [*tmp_path.iterdir()]


def test_a_failure_behind_the_back_is_heard_at_once_and_by_the_next_save(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(saver, "RETRY_SECONDS", 0.01)
    run = Run(tmp_path, asynchronous=True)
    run.step()
    with files_of_at_most(50_000):
        run.save(1)
        assert run.failed.wait(30)
    with pytest.raises(CheckpointError, match="File too large"):
        run.save(2)
    assert layout.steps(tmp_path) == []


def test_another_error_counts_where_the_last_save_fails_too(tmp_path: Path, monkeypatch, capsys) -> None:
    def lost(*_, **__) -> None:
        raise ConnectionError("Connection closed by peer")

    threads = {*threading.enumerate()}
    run = Run(tmp_path, asynchronous=True)
    monkeypatch.setattr(run.saver, "_write", lost)
    with pytest.raises(KeyError, match="the first"), run.saver:
        run.save(1)
        raise KeyError("the first")
    assert "Connection closed by peer" in capsys.readouterr().err
    assert {*threading.enumerate()} <= threads


def test_the_end_waits_for_the_last_save_however_it_comes(tmp_path: Path) -> None:
    run = Run(tmp_path, asynchronous=True)
    with pytest.raises(KeyError), run.saver:
        run.step()
        run.save(1)
        raise KeyError
    again = Run(tmp_path, asynchronous=True)
    assert restore(again.state, tmp_path / "global_step1").iteration == 1
    assert torch.equal(again.weight, run.weight)
