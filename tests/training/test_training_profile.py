"""Where the time of a step goes: the parts of a step as metrics, and what torch's profiler recorded."""

import gzip
import json
import re
from pathlib import Path

import pytest
import torch
from support.runs import run_rows

from neox.monitor.timers import Timers

PARTS = {"timers/data", "timers/forward", "timers/backward", "timers/optimizer"}


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "logs" / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, char_data: Path) -> tuple[Path, str]:
    """A run on two replicas that is profiled, and a pipeline whose parts are timed; and what they printed."""
    root = tmp_path_factory.mktemp("profile")
    two = {"num_gpus": 2, "save": None}
    rows = {
        "profiled": {**two, "profile": True, "profile_step_start": 2, "profile_step_stop": 4},
        "pipeline": {**two, "pipe_parallel_size": 2, "wall_clock_breakdown": True, "log_interval": 2},
    }
    return root, run_rows(root, char_data, rows)


@pytest.mark.parametrize("name, parts", [("profiled", PARTS), ("pipeline", PARTS | {"timers/transfer"})])
def test_the_parts_of_a_step_are_metrics(runs: tuple[Path, str], name: str, parts: set) -> None:
    lines = [line for line in records(runs[0] / name) if "runtime/iteration_time" in line]
    assert lines
    for line in lines:
        times = {key: value for key, value in line.items() if key.startswith("timers/")}
        assert set(times) == parts
        assert all(seconds > 0 for seconds in times.values())
        assert sum(times.values()) <= line["runtime/iteration_time"]


def test_a_trace_of_every_process_shows_the_parts_of_the_steps_that_were_asked_for(runs: tuple[Path, str]) -> None:
    folder = runs[0] / "profiled" / "logs" / "profile"
    assert sorted(path.name for path in folder.iterdir()) == ["rank0.json.gz", "rank1.json.gz"]
    for path in folder.iterdir():
        events = [event.get("name") for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]]
        assert events.count("timers/forward") == events.count("timers/backward") == 2
        assert any("mm" in name for name in events if name)


def test_a_table_tells_where_the_time_went(runs: tuple[Path, str]) -> None:
    rows = re.findall(r"^(.+?) {2,}([\d.,]+) +[\d.]+%", runs[1], re.MULTILINE)
    table = {kind: float(spent.replace(",", "")) for kind, spent in rows}
    assert {"matrix products", "attention", "communication", "optimizer", "Python and waiting"} <= set(table)
    assert all(spent > 0 for spent in table.values())
    total = re.search(r"in all, with the profiler at work +([\d.,]+)", runs[1])[1].replace(",", "")
    assert sum(table.values()) == pytest.approx(float(total), abs=1)


def test_parts_outside_of_steps_do_not_count() -> None:
    timers = Timers(torch.device("cpu"), enabled=True)
    with timers.part("forward"):
        pass
    assert timers.take() == {}
    for _ in range(2):
        with timers.step(), timers.part("forward"):
            pass
    assert list(timers.take()) == ["timers/forward"]
    assert timers.take() == {}, "each is told once"
