"""The plan's memory holds in a real run: `tools/bench.py memory` compares them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.benchmarks.memory import CASES, planned

ROOT = Path(__file__).resolve().parents[2]


def test_every_case_is_a_configuration():
    assert {name: len(planned(name, on_gpu=False)) > 1 for name in CASES} == {
        name: "pipe_parallel_size" in keys for name, keys in CASES.items()
    }


@pytest.mark.skipif(shutil.which("cc") is None, reason="the counter is compiled")
def test_a_real_run_holds_what_the_plan_says():
    command = [sys.executable, "tools/bench.py", "memory", "--run", "recompute", "--device", "cpu", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=True)
    (row,) = json.loads(done.stdout)["rows"]
    assert abs(row["state_error"]) < 0.05
    assert abs(row["peak_error"]) < 0.15
    assert row["state_measured"] < row["peak_measured"]
