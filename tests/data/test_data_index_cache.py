"""The cache of indices: built once, by whoever comes first, and never half."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy
import pytest

from neox.config.errors import ConfigError
from neox.data import index_cache
from neox.data.index_cache import cached_arrays, writable_folder

NAMES = ("first", "second")
ARRAYS = [numpy.arange(1_000), numpy.ones((3, 2), dtype=numpy.int32)]


def never():
    raise AssertionError("it is built already")


def test_built_once_and_mapped(tmp_path):
    for build in (lambda: ARRAYS, never):
        first, second = cached_arrays(tmp_path, "key", NAMES, build)
        assert not first.flags.owndata and not first.flags.writeable
        assert numpy.array_equal(first, ARRAYS[0]) and numpy.array_equal(second, ARRAYS[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "key.lock"]


def test_failed_build_leaves_nothing(tmp_path):
    def fail():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cached_arrays(tmp_path, "key", NAMES, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]
    cached_arrays(tmp_path, "key", NAMES, lambda: ARRAYS)


def test_half_written_entry_has_not_its_name(tmp_path, monkeypatch):
    def save_half(file, array):
        if array is ARRAYS[1]:
            raise OSError("disk full")
        file.write(b"half")

    monkeypatch.setattr(index_cache.numpy, "save", save_half)
    with pytest.raises(OSError, match="disk full"):
        cached_arrays(tmp_path, "key", NAMES, lambda: ARRAYS)
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]


def test_damaged_entry_is_named(tmp_path):
    cached_arrays(tmp_path, "key", NAMES, lambda: ARRAYS)
    os.truncate(tmp_path / "key" / "first.npy", 500)
    with pytest.raises(ConfigError, match=r"key: the index is damaged .* remove this folder"):
        cached_arrays(tmp_path, "key", NAMES, never)


def _build_in_process(folder: Path, mark: Path) -> None:
    def build():
        with open(mark, "a") as file:
            file.write("built\n")
        time.sleep(0.3)  # long enough for the others to come
        return ARRAYS

    arrays = cached_arrays(folder, "key", NAMES, build)
    assert numpy.array_equal(arrays[0], ARRAYS[0])


def test_many_processes_at_once_build_it_once(tmp_path):
    """FAULTS 24."""
    mark = tmp_path / "mark"
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_build_in_process, args=(tmp_path, mark)) for _ in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 6
    assert mark.read_text() == "built\n"


def _die_in_build(folder: Path) -> None:
    def build():
        yield ARRAYS[0]
        os.kill(os.getpid(), signal.SIGKILL)

    cached_arrays(folder, "key", NAMES, build)


def test_killed_builder_is_taken_over(tmp_path):
    """FAULTS 24. One is killed while it holds the lock with a half-written entry; another that waits builds it."""
    (tmp_path / "key.a1b2.partial").mkdir()
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_die_in_build, args=(tmp_path,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / "key").exists()
    assert numpy.array_equal(cached_arrays(tmp_path, "key", NAMES, lambda: ARRAYS)[0], ARRAYS[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "key.lock"]


def test_folder_that_cannot_be_written_is_replaced(tmp_path, monkeypatch):
    assert writable_folder(tmp_path / "index_cache") == tmp_path / "index_cache"
    (tmp_path / "file").write_text("")  # a folder cannot be made below a file, not even by root
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert writable_folder(tmp_path / "file" / "index_cache") == tmp_path / "cache" / "neox" / "index_cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(index_cache.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert writable_folder(tmp_path / "file" / "index_cache") == tmp_path / "temporary" / "neox_index_cache"
