import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "tools/report.py", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture
def logs(tmp_path):
    records = [
        {"iteration": 10, "train/lm_loss": 4.0},
        {"iteration": 20, "train/lm_loss": None},
        {"iteration": 30, "train/lm_loss": 2.5, "validation/lm_loss": 2.75},
        {"iteration": 30, "train/lm_loss": 3.0, "validation/lm_loss": 3.25},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records) + '{"iteration": 40, "tr')
    return tmp_path


def test_draws_a_png_and_says_how_far_the_loss_fell(logs):
    result = run(logs)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "training loss: 4.0000 at iteration 10, 3.0000 at iteration 30 (down 25.0%)",
        "validation loss: 3.2500 at iteration 30, 3.2500 at iteration 30",
        f"plot: {logs / 'loss.png'}",
    ]
    assert (logs / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_draws_an_svg_from_the_file_itself(logs):
    output = logs / "new" / "loss.svg"
    assert run(logs / "metrics.jsonl", "--output", output, "--title", "A <run> & more").returncode == 0
    assert ElementTree.parse(output).getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("folder", "arguments", "words"),
    [
        ("missing", [], "No such file"),
        ("empty", [], "no loss was logged"),
        ("logs", ["--output", "loss.qqq"], "not supported"),
    ],
)
def test_what_cannot_be_drawn_is_said(logs, tmp_path, folder, arguments, words):
    if folder == "empty":
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "metrics.jsonl").write_text('{"iteration": 1, "train/grad_norm": 1.0}\n')
    result = run(logs if folder == "logs" else tmp_path / folder, *arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
