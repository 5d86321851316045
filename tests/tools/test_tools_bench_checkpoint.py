"""`tools/bench.py checkpoint` saves for real, in both ways, and says what it cost."""

from pathlib import Path

import pytest
from rich.console import Console

from tools.benchmarks.checkpoint import CheckpointBench, bench_checkpoint, print_checkpoint


@pytest.mark.long
def test_both_ways_to_save_are_timed_beside_a_plain_write(tmp_path: Path) -> None:
    bench = CheckpointBench("cpu", "quickstart", "fp32", steps=1, saves=1, folder=str(tmp_path))
    result = bench_checkpoint(bench, Console(quiet=True))
    assert result["checkpoint_bytes"] > 10_000_000, "weights and two moments in fp32"
    assert all(result[name] > 0 for name in ("save_seconds", "copy_seconds", "plain_write_seconds", "interval_seconds"))
    assert result["asynchronous_interval_seconds"] > result["copy_seconds"]
    assert not [*tmp_path.iterdir()], "nothing is left behind"
    console = Console(record=True, width=120)
    print_checkpoint(result, console)
    assert "a save while training waits" in console.export_text()
