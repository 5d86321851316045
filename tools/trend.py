"""Keep the ratios that benchmarks measured, a line each, and show how they went. Ratios only: absolute times belong to a machine.

python tools/bench.py train --json | python tools/trend.py add benchmarks/ratios.jsonl
python tools/trend.py show benchmarks/ratios.jsonl
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# `python tools/trend.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import neox  # noqa: F401 (first: it tells what this interpreter lacks)

# isort: split
from rich.console import Console
from rich.table import Table

from neox.config.errors import ConfigError
from tools.refusal import refuse

ROOT = Path(__file__).resolve().parent.parent
SHOWN = 8  # of the newest lines

Ratios = Iterator[tuple[str, float]]


def _of_training(result: dict[str, Any]) -> Ratios:
    for row in result["rows"]:
        name = f"{row['shape']} {row['precision']} {row['seq_length']}"
        yield f"{name}: speed", row["speed_ratio"]
        yield f"{name}: memory", row["memory_ratio"]


def _of_launching(result: dict[str, Any]) -> Ratios:
    for row in result["rows"]:
        yield f"first step, {row['processes']} processes: time over imports", row["first_step_ratio"]


RATIOS: dict[str, Callable[[dict[str, Any]], Ratios]] = {"train": _of_training, "launch": _of_launching}


def add(path: Path, text: str, commit: str, when: datetime) -> dict[str, Any]:
    """Append the ratios of a benchmark's JSON to a file; the line. Raises ConfigError where the text is none of a benchmark."""
    try:
        result = json.loads(text)
        ratios = dict(RATIOS[result["benchmark"]](result))
    except (ValueError, KeyError, TypeError) as error:
        known = " or ".join(RATIOS)
        raise ConfigError(f"standard input is not what `tools/bench.py {known} --json` prints ({error!r})") from error
    line = {
        "when": when.isoformat(timespec="seconds"),
        "commit": commit,
        "machine": result["machine"],
        "benchmark": result["benchmark"],
        "ratios": {name: round(value, 4) for name, value in ratios.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(line) + "\n")
    return line


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of ratios, in order. Raises ConfigError that names the line that is none."""
    if not path.is_file():
        raise ConfigError(f"there is no file {path}: `make bench` writes it")
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        try:
            line = json.loads(text)
            lines.append(line | {"ratios": dict(line["ratios"])})
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}:{number} is not a line of ratios ({error!r})") from error
    return lines


def trend(lines: list[dict[str, Any]]) -> Table:
    """A row for each ratio, a column for each of the newest commits that measured any."""
    commits = list(dict.fromkeys(line["commit"] for line in lines))[-SHOWN:]
    # the last measurement of a commit counts
    found = {(name, line["commit"]): value for line in lines for name, value in line["ratios"].items()}
    table = Table("ratio", *commits)
    for name in sorted({name for name, _ in found}):
        values = [found.get((name, commit)) for commit in commits]
        table.add_row(name, *("" if value is None else f"{value:.3f}" for value in values))
    return table


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main(arguments: list[str]) -> int:
    """Run the tool; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("action", choices=("add", "show"), help="add what standard input has, or show all")
    parser.add_argument("file", type=Path, help="lines of ratios")
    options = parser.parse_args(arguments)
    try:
        if options.action == "add":
            add(options.file, sys.stdin.read(), _commit(), datetime.now(UTC))
        else:
            Console(soft_wrap=True).print(trend(read(options.file)))
    except ConfigError as error:
        return refuse(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
