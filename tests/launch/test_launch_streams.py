"""A process that outlives those who read what it prints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from neox.launch.streams import outlive_readers

if "outlive" in sys.argv:
    outlive_readers()
sys.stdin.readline()
for number in range(3):
    print("a line", number, flush=True)
    print("a word of warning", file=sys.stderr)
open("done", "w").close()
"""


def broken_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def closed_terminal() -> int:
    controller, terminal = os.openpty()
    os.close(controller)
    return terminal


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("output", [broken_pipe, closed_terminal, full_disk])
@pytest.mark.parametrize("outlives", [True, False])
def test_it_goes_on_where_nothing_can_be_printed(output, outlives, tmp_path):
    stream = output()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *(["outlive"] if outlives else [])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=stream,
        stderr=stream,
        timeout=20,
        check=False,
    )
    os.close(stream)
    assert (done.returncode == 0) == (tmp_path / "done").exists() == outlives
