"""The ratios of benchmarks, kept and shown."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from neox.config.errors import ConfigError
from tools.trend import add, read, trend

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def training(speed: float) -> str:
    row = {"shape": "125M", "precision": "bf16", "seq_length": 2048, "speed_ratio": speed, "memory_ratio": 0.9}
    return json.dumps({"benchmark": "train", "machine": {"cpu": "a", "cores": 2}, "rows": [row]})


def test_each_commit_is_a_column_with_its_last_measurement(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks" / "ratios.jsonl"
    for commit, speed in (("one", 1.0), ("two", 0.5), ("two", 1.25)):
        add(path, training(speed), commit, NOON)
    launch = {"benchmark": "launch", "machine": {}, "rows": [{"processes": 4, "first_step_ratio": 1.125}]}
    add(path, json.dumps(launch), "two", NOON)
    lines = read(path)
    assert [line["commit"] for line in lines] == ["one", "two", "two", "two"]
    table = trend(lines)
    cells = [list(column.cells) for column in table.columns]
    assert [column.header for column in table.columns] == ["ratio", "one", "two"]
    assert dict(zip(cells[0], cells[1]))["125M bf16 2048: speed"] == "1.000"
    assert dict(zip(cells[0], cells[2])) == {
        "125M bf16 2048: speed": "1.250",
        "125M bf16 2048: memory": "0.900",
        "first step, 4 processes: time over imports": "1.125",
    }


@pytest.mark.parametrize("text", ["", "[1]", '{"benchmark": "weather"}', '{"benchmark": "train", "rows": [{}]}'])
def test_what_no_benchmark_printed_is_not_kept(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="standard input is not what"):
        add(tmp_path / "ratios.jsonl", text, "one", NOON)
    assert not (tmp_path / "ratios.jsonl").exists()


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ratios.jsonl"
    add(path, training(1.0), "one", NOON)
    path.write_text(path.read_text() + '{"commit": "two"')
    done = subprocess.run(
        [sys.executable, "tools/trend.py", "show", str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and f"{path}:2" in done.stderr
