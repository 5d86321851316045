"""Every program of ours answers --help at once, and tells an interpreter that cannot run it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = [ROOT / "deepy.py", *(path for path in sorted(ROOT.glob("tools/*.py")) if "__main__" in path.read_text())]
HEAVY = {"torch", "deepspeed", "megatron", "transformers", "wandb", "ray"}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_help_explains_and_imports_nothing_heavy(path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import runpy, sys
        sys.argv = [{str(path)!r}, "--help"]
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as exit:
            assert exit.code == 0, exit.code
        assert not {HEAVY!r} & set(sys.modules), {HEAVY!r} & set(sys.modules)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    # one sentence at least on what it is for, before the arguments
    assert any(line.endswith((".", ":")) for line in done.stdout.partition("\n\n")[2].splitlines()[:4]), done.stdout


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_an_interpreter_without_the_packages_is_told(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", str(path), "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {sys.executable} has no argcomplete, pydantic, rich, yaml: ")


def test_an_old_interpreter_is_told() -> None:
    program = "import sys; sys.version_info = (3, 9, 2, 'final', 0); import neox"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {sys.executable} is Python 3.9, and 3.11 or newer is needed\n"
