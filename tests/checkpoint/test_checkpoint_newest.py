"""The ranks choose one checkpoint, whatever each of them sees, and read it once. Threads stand in for ranks here."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from neox.checkpoint import layout, source
from neox.checkpoint.layout import CheckpointError, file_entry
from neox.checkpoint.newest import newest
from neox.checkpoint.source import Source
from neox.checkpoint.upload import Store
from neox.parallel import agreement
from neox.parallel.topology import Topology, alone


@pytest.fixture
def on_ranks(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """`work(topology)` on some ranks at once; what each returned, or the error it ended with."""

    def run(work: Callable[[Topology], object], count: int = 2) -> list:
        meeting, values, me = threading.Barrier(count, timeout=10), [None] * count, threading.local()

        def gather(value: object, *_) -> list:
            values[me.rank] = value
            meeting.wait()
            gathered = list(values)
            meeting.wait()
            return gathered

        def on_rank(rank: int) -> object:
            me.rank = rank
            try:
                return work(replace(alone(), rank=rank, world_size=count))
            except CheckpointError as error:
                return error

        monkeypatch.setattr(agreement, "gather_objects", gather)
        with ThreadPoolExecutor(count) as ranks:
            return [*ranks.map(on_rank, range(count))]

    return run


def make(save: Path, step: int) -> Path:
    folder = layout.start(save, step)
    entries = []
    for name in ("state_0", "state_1"):
        (folder / name).write_bytes(b"weights" * step)
        entries.append(file_entry(folder / name))
    return layout.publish(save, step, entries, {})


def test_ranks_that_see_other_moments_of_a_folder_take_the_same_checkpoint(on_ranks, tmp_path: Path) -> None:
    """As on a network file system, where a host may not see yet what has just been published."""
    saves = [tmp_path / "first host", tmp_path / "second host"]
    for step, folders in {1: saves, 2: saves[:1]}.items():
        for save in folders:
            make(save, step)
    found = on_ranks(lambda topology: newest(saves[topology.rank], topology))
    assert [folder.name for folder, _ in found] == ["global_step1", "global_step1"]
    assert all("global_step2 is damaged and was passed over: rank 1: " in warnings[0] for _, warnings in found)


def test_what_all_ranks_see_is_said_once(on_ranks, tmp_path: Path) -> None:
    (make(tmp_path, 2) / "manifest.json").unlink()
    errors = on_ranks(lambda topology: newest(tmp_path, topology), count=3)
    assert len(set(map(str, errors))) == 1
    assert str(errors[0]).count("manifest.json: cannot be read") == 1 and "rank 0-2: " in str(errors[0])


def test_each_file_is_read_once(on_ranks, tmp_path: Path, monkeypatch) -> None:
    read = []
    monkeypatch.setattr(layout, "file_entry", lambda path: read.append(path.name) or file_entry(path))

    def ask_twice(topology: Topology) -> list[Path]:
        with Source("load", str(tmp_path), topology) as newest_there:
            return [newest_there.checkpoint, newest_there.checkpoint]

    make(tmp_path, 2)
    assert on_ranks(ask_twice) == [[tmp_path / "global_step2"] * 2] * 2
    assert sorted(read) == ["state_0", "state_1"]


def test_machines_copy_the_same_checkpoint_from_a_store_and_check_it_once(
    on_ranks, tmp_path: Path, monkeypatch
) -> None:
    """Here a newer one appears between the questions of two machines, each of one rank."""
    url = f"file://{tmp_path}/far"
    Store("load", url).put(make(tmp_path / "save", 1))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr(source.tempfile, "tempdir", None)
    verified, verify, name_of_newest, asking = [], layout.verify, Store.newest, threading.Lock()

    def with_one_more(store: Store) -> str:
        with asking:
            name = name_of_newest(store)
            store.put(make(tmp_path / "save", 2))
            return name

    monkeypatch.setattr(layout, "verify", lambda folder: verified.append(folder) or verify(folder))
    monkeypatch.setattr(Store, "newest", with_one_more)

    def copied(topology: Topology) -> tuple[str, bytes]:
        with Source("load", url, topology) as newest_there:
            state = (newest_there.checkpoint / "state_0").read_bytes()
            assert newest_there.name == f"{url} (global_step1)"
        assert not newest_there.checkpoint.exists()
        return newest_there.checkpoint.name, state

    assert on_ranks(copied) == [("global_step1", b"weights")] * 2
    assert len(verified) == 2 and not [*(tmp_path / "copies").iterdir()]


def test_a_copy_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(tmp_path: Path, monkeypatch) -> None:
    url = f"file://{tmp_path}/far"
    Store("load", url).put(make(tmp_path / "save", 1))
    monkeypatch.setattr(source.tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f"{source.COPIES}of-a-killed-one" / "global_step9"
    os.makedirs(left)
    with Source("load", url, alone()) as first, Source("load", url, alone()) as second:
        assert first.checkpoint.exists() and not left.exists()
        assert second.checkpoint != first.checkpoint
        assert first.checkpoint.exists(), "it is in use"
