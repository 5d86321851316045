"""Measure in a process of its own, which prints its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.benchmarks.shapes import ROOT


def figures(script: Path, arguments: Sequence[object], *, device: str = "cpu") -> dict[str, Any]:
    """The JSON object in the last line that a script prints. Raises RuntimeError with all that it printed where it fails."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | hidden,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{script.name} ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
