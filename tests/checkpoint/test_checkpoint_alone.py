"""Two runs never write to one folder of checkpoints at once."""

import threading
from pathlib import Path

import pytest

from neox.checkpoint import alone
from neox.checkpoint.alone import alone_in
from neox.checkpoint.layout import CheckpointError
from neox.parallel import topology


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "POLL_SECONDS", 0.01)


def run_in(folder: Path) -> list[Path]:
    """What is in the folder while another run has it."""
    with alone_in(str(folder), topology.alone()):
        return [*folder.iterdir()]


def test_a_second_run_waits_for_the_first(tmp_path: Path, capsys) -> None:
    with alone_in(str(tmp_path / "save"), topology.alone()):
        second = threading.Thread(target=run_in, args=[tmp_path / "save"])
        second.start()
        second.join(0.1)
        assert second.is_alive()
    second.join(5)
    assert not second.is_alive()
    assert f"another run writes to {tmp_path}/save: waiting for its end" in capsys.readouterr().err
    assert [*(tmp_path / "save").iterdir()] == []


def test_and_gives_up_where_it_does_not_end(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(alone, "PATIENCE_SECONDS", 0.05)
    with (
        alone_in(str(tmp_path), topology.alone()),
        pytest.raises(CheckpointError, match=f"save: another run writes to {tmp_path}, and has not ended"),
    ):
        run_in(tmp_path)


def test_what_a_killed_run_leaves_stops_nobody(tmp_path: Path) -> None:
    """Nor does it stay, also where the next run makes no checkpoint."""
    (tmp_path / alone.IN_USE).touch()
    (tmp_path / ".tmp-global_step3").mkdir()
    assert run_in(tmp_path) == [tmp_path / alone.IN_USE]
    assert [*tmp_path.iterdir()] == []
