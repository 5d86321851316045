"""Before the first step: what is wrong with which machine is said in seconds, once, with its name."""

import json
import os
import shutil
import subprocess
import time
from dataclasses import replace

import pytest
from support.runs import ROOT, finish, run, write_config

from neox.parallel.meeting import ranks
from neox.parallel.topology import alone
from neox.training import preflight
from neox.training.preflight import MARK, OLD_SECONDS, Facts, compare, sweep_marks

ALPHA = Facts("alpha", "c", {"config": "h", "Python": "3.11.2"}, 1e9, True, 10**9, 2**30)
BETA = replace(ALPHA, host="beta", clock=1e9 + 2)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({}, []),
        ({"alike": {"config": "h", "Python": "3.12.0"}}, ["Python is another than on alpha: 3.12.0, not 3.11.2"]),
        ({"clock": 1e9 - 40}, ["the clock is -40 s from that of alpha"]),
        ({"sees_save": False}, ["the folder of save is not the one of alpha, or cannot be written"]),
        ({"free_disk_bytes": 10**8}, ["save has 0.10 GB free, and a checkpoint takes 0.50 GB"]),
        ({"free_disk_bytes": None}, []),
        (
            {"shared_memory_bytes": 2**26 - 1},
            ["/dev/shm has 63 MiB free, and NCCL wants 64 MiB (--shm-size of a container)"],
        ),
    ],
)
def test_what_a_machine_lacks(other, words):
    found = compare([ALPHA, replace(BETA, **other)], disk_bytes=5 * 10**8, shared_memory_bytes=2**26)
    assert list(found) == [(1, sentence) for sentence in words]


def test_marks_of_killed_runs_go_and_those_of_living_ones_stay(tmp_path):
    ages = {
        f"{MARK}killed": OLD_SECONDS + 1,
        f"{MARK}killed-7": OLD_SECONDS + 1,
        f"{MARK}living": 5,
        "global_step1": 10**6,
    }
    for name, age in ages.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    sweep_marks(tmp_path, 1e9)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{MARK}living", "global_step1"]


@pytest.mark.parametrize("refused", ["touch", "exists"])
def test_a_folder_that_is_read_only_here_or_closed_is_an_answer(tmp_path, monkeypatch, refused):
    """Also a removal of what is not there is an error where a file system is read-only."""

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(preflight.dist, "barrier", lambda: None)
    assert preflight._sees_the_same(tmp_path / "save", alone())
    assert not [*(tmp_path / "save").iterdir()]
    for name in (refused, "unlink"):
        monkeypatch.setattr(preflight.Path, name, refuse)
    assert not preflight._sees_the_same(tmp_path / "save", alone())


def test_ranks_in_words():
    assert ranks([7, 0, 1, 2, 5]) == "0-2, 5, 7"


@pytest.fixture
def commands(char_data, tmp_path):
    """The commands of the two processes of a run, as its plan shows them."""
    config = write_config(tmp_path, char_data, num_gpus=2, train_iters=1)
    return lambda *keys: json.loads(run("train.py", config, "--dry-run", "--json", "--set", *keys))["commands"]


def start(command):
    environment = ["env", "CUDA_VISIBLE_DEVICES=", "OMP_NUM_THREADS=1"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*environment, *command], cwd=ROOT, **streams)


def test_a_machine_with_other_code_is_named_with_the_files(commands, tmp_path):
    copy = tmp_path / "other machine"
    shutil.copytree(ROOT / "neox", copy / "neox", ignore=shutil.ignore_patterns("__pycache__"))
    for script in ROOT.glob("*.py"):
        shutil.copy(script, copy)
    with open(copy / "neox" / "training" / "schedule.py", "a") as file:
        file.write("# changed\n")
    first, second = commands("start_timeout_seconds=60")
    left = tmp_path / "checkpoints" / f"{MARK}of-a-killed-start"
    left.parent.mkdir()
    left.touch()
    os.utime(left, (0, 0))
    there = {f"PYTHONPATH={ROOT}": f"PYTHONPATH={copy}", "train.py": str(copy / "train.py")}
    second = [there.get(word, word) for word in second]
    processes = [start(first), start(second)]
    output = "".join(finish(process, expect=2) for process in processes)
    assert "rank 1: other code: neox/training/schedule.py" in output
    assert output.count("preflight: the run does not begin") == 1, "one rank says it for all"
    assert "Traceback" not in output
    assert not [*left.parent.iterdir()]


def test_processes_that_do_not_come_are_named(commands):
    """FAULTS 36, of a node that was started and never came."""
    first, _ = commands("start_timeout_seconds=2")
    started = time.monotonic()
    output = finish(start(first), expect=1)
    assert "of 2 processes, those of rank 1 did not come to 127.0.0.1:" in output
    assert "Traceback" not in output
    assert time.monotonic() - started < 60
