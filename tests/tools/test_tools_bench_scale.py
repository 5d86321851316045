"""`tools/bench.py scale` compares equal work, and the plan's times beside it are the plan's. No test here looks at a time."""

import pytest
from rich.console import Console

from neox.config.gpus import GPUS
from tools.benchmarks import scale
from tools.benchmarks.curves import curve_table, curves
from tools.benchmarks.scale import LAYOUT_KEYS, MICRO_BATCHES, SCALINGS, Case, ScaleBench, bench_scale, print_scale


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("kind", LAYOUT_KEYS)
@pytest.mark.parametrize("processes", [2, 4])
def test_work_is_fixed_for_each_process_or_in_total(kind, scaling, processes):
    alone, config = Case("data", "strong", 1).config(), Case(kind, scaling, processes).config()
    assert config.parallel.world_size == processes
    assert config.batch.train_batch_size == alone.batch.train_batch_size * (processes if scaling == "weak" else 1)
    assert alone.batch.gradient_accumulation_steps == MICRO_BATCHES


def test_a_row_is_relative_to_one_process(monkeypatch):
    monkeypatch.setattr(scale, "usable_cores", lambda: 2)
    alone = {"seconds": 8.0, "cpu_seconds": [8.0], "link_gb_per_second": None}
    measured = {
        "seconds": 5.0,
        "cpu_seconds": [4.0, 4.0],
        "link_gb_per_second": 1e9,
    }  # 4 micro-batches in 5 times a stage's
    row = scale._row(Case("pipeline", "strong", 2), measured, alone)
    assert row["efficiency"] == pytest.approx(0.8) and row["cpu_efficiency"] == pytest.approx(1.0)
    assert row["bubble"]["expected"] == pytest.approx(0.2) == row["bubble"]["measured"]
    assert row["planned_seconds"] == pytest.approx(5.0, rel=0.02), "the head makes the last stage a little longer"
    crowded = {"seconds": 10.0, "cpu_seconds": [2.0] * 4, "link_gb_per_second": 1e9}
    row = scale._row(Case("pipeline", "strong", 4), crowded, alone)
    assert row["efficiency"] == pytest.approx(0.4) and row["bubble"] is None, "4 processes share 2 cores"


def test_curves_fall_with_the_bubble_and_stand_beside_what_was_published():
    for curve in curves():
        shares = [point["utilization"] for point in curve["points"]]
        assert shares == sorted(shares, reverse=True) and shares[-1] > 0
        assert all(other["tflops_per_gpu"] < GPUS[curve["gpu"]].half_tflops for other in curve["published"])
        assert curve_table(curve).row_count == len(curve["gpus"])


@pytest.mark.long
def test_real_processes_are_measured():
    result = bench_scale(ScaleBench((2,), steps=1, rounds=1), Console(quiet=True))
    assert len(result["rows"]) == 1 + len(LAYOUT_KEYS) * len(SCALINGS)
    assert all(row["seconds"] > 0 and len(row["cpu_seconds"]) == 2 for row in result["rows"])
    console = Console(record=True, width=160)
    print_scale(result, console)
    shown = console.export_text()
    assert "pipeline" in shown and "copies" in shown
