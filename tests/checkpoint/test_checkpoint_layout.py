"""Checkpoint folders: a complete one or none, and the newest good one is found."""

import os
from pathlib import Path

import pytest

from neox.checkpoint import layout
from neox.checkpoint.layout import CheckpointError, file_entry


def make(save: Path, step: int, content: bytes = b"weights") -> Path:
    folder = layout.start(save, step)
    (folder / "state.bin").write_bytes(content)
    return layout.publish(save, step, [file_entry(folder / "state.bin")], {})


def test_a_published_checkpoint_verifies_and_latest_names_it(tmp_path: Path) -> None:
    folder = make(tmp_path, 3)
    assert layout.verify(folder)["iteration"] == 3
    assert (tmp_path / "latest").read_text().strip() == "global_step3"
    assert layout.candidates(tmp_path) == ([3], None)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete"])
def test_a_changed_file_is_named(tmp_path: Path, damage: str) -> None:
    """FAULTS 6 and 7."""
    path = make(tmp_path, 1) / "state.bin"
    if damage == "flip":
        path.write_bytes(b"weighTs")
    elif damage == "truncate":
        path.write_bytes(b"weig")
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match="state.bin"):
        layout.verify(path.parent)


def test_a_file_of_another_step_is_noticed(tmp_path: Path) -> None:
    """FAULTS 8."""
    first, second = make(tmp_path, 1, b"weights of 1"), make(tmp_path, 2, b"weights of 2")
    (second / "state.bin").write_bytes((first / "state.bin").read_bytes())
    with pytest.raises(CheckpointError, match="SHA-256"):
        layout.verify(second)


@pytest.mark.parametrize("content", [b"", b"global_step9\n", b"junk\n\n;rm\xff", b"../global_step2"])
def test_a_useless_latest_is_said_and_the_newest_step_is_tried_first(tmp_path: Path, content: bytes) -> None:
    """FAULTS 5."""
    make(tmp_path, 1), make(tmp_path, 2)
    (tmp_path / "latest").write_bytes(content)
    steps, warning = layout.candidates(tmp_path)
    assert steps == [2, 1]
    assert "latest" in warning


def test_a_missing_latest_is_said(tmp_path: Path) -> None:
    """FAULTS 5."""
    make(tmp_path, 1)
    (tmp_path / "latest").unlink()
    steps, warning = layout.candidates(tmp_path)
    assert steps == [1] and "latest" in warning


def test_latest_may_point_back_to_an_older_step_which_is_said(tmp_path: Path) -> None:
    make(tmp_path, 1), make(tmp_path, 2)
    (tmp_path / "latest").write_text("global_step1\n")
    said = f"{tmp_path}/latest names global_step1, though global_step2 is newer"
    assert layout.candidates(tmp_path) == ([1, 2], said)


def test_what_a_killed_save_leaves_is_no_checkpoint_and_is_swept_away(tmp_path: Path) -> None:
    """FAULTS 2."""
    make(tmp_path, 1)
    (layout.start(tmp_path, 2) / "half").write_bytes(b"half")
    assert layout.candidates(tmp_path) == ([1], None)
    make(tmp_path, 3)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["global_step1", "global_step3", "latest"]


def test_a_step_saved_again_replaces_the_old_one(tmp_path: Path) -> None:
    make(tmp_path, 1, b"old")
    folder = make(tmp_path, 1, b"new")
    layout.verify(folder)
    assert (folder / "state.bin").read_bytes() == b"new"


def test_a_kill_between_two_of_one_step_leaves_the_older_one(tmp_path: Path, monkeypatch) -> None:
    """FAULTS 37: it may be the only checkpoint that there is."""
    make(tmp_path, 1, b"old")
    rename = Path.rename

    def killed(path: Path, target: Path) -> None:
        if path.name.startswith(".tmp"):
            raise KeyboardInterrupt
        rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        make(tmp_path, 1, b"new")
    assert layout.steps(tmp_path) == []
    layout.sweep(tmp_path)
    assert layout.candidates(tmp_path) == ([1], None)
    layout.verify(tmp_path / "global_step1")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["global_step1", "latest"]


def test_a_folder_that_is_in_use_stays_for_the_next_time_and_stops_nobody(tmp_path: Path, monkeypatch) -> None:
    """FAULTS 37: as on a network file system, where somebody still reads the old checkpoint."""

    def busy(*_, **__) -> None:
        raise OSError(16, "Device or resource busy")

    make(tmp_path, 1, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", busy)
        make(tmp_path, 1, b"new")
        make(tmp_path, 2)
        assert layout.prune(tmp_path, 1) == ["global_step1"]
    assert layout.candidates(tmp_path) == ([2], None)
    make(tmp_path, 3)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["global_step2", "global_step3", "latest"]


@pytest.mark.parametrize("suffix", ["", "/"])
def test_pruning_keeps_the_newest_and_the_one_that_latest_names(tmp_path: Path, suffix: str) -> None:
    """FAULTS 37."""
    save = Path(f"{tmp_path}/my checkpoints{suffix}")
    for step in (1, 2, 10, 9):
        make(save, step)
    (save / "latest").write_text("global_step1\n")
    assert layout.prune(save, 2) == ["global_step2"]
    assert layout.steps(save) == [10, 9, 1]
    assert layout.prune(save, None) == []
