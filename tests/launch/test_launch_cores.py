"""Threads for cores, not for their hardware threads, workers for these too, and all within a container's quota."""

import os

import pytest

from neox.launch.cores import usable_cores, usable_processors


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A folder like /sys of four cores with two hardware threads each, of which this process may use all."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for cpu in range(8):
        folder = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    return tmp_path


def test_hardware_threads_of_a_core_count_once(machine, monkeypatch):
    assert (usable_cores(machine), usable_processors(machine)) == (4, 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 4, 5})
    assert (usable_cores(machine), usable_processors(machine)) == (2, 3)


def test_a_system_that_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert usable_cores(tmp_path) == usable_processors(tmp_path) == 3


@pytest.mark.parametrize(
    ("files", "cores", "processors"),
    [
        ({"cpu.max": "150000 100000\n"}, 2, 2),
        ({"cpu.max": "20000 100000\n"}, 1, 1),
        ({"cpu.max": "600000 100000\n"}, 4, 6),
        ({"cpu.max": "max 100000\n"}, 4, 8),
        ({"cpu.max": "6400000 100000\n"}, 4, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4, 8),
    ],
)
def test_a_quota_is_kept(machine, files, cores, processors):
    for name, text in files.items():
        path = machine / "fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert (usable_cores(machine), usable_processors(machine)) == (cores, processors)
