"""The plan's memory holds in a real run: `tools/bench.py memory` compares them."""

from rich.console import Console

from tools.benchmarks.memory import CASES, bench_memory, planned


def test_every_case_is_a_configuration(monkeypatch):
    monkeypatch.setattr(
        "tools.benchmarks.memory.read_vocab_size", lambda _: 50_257
    )  # the vocabulary's file may be absent
    assert {name: len(planned(name, on_gpu=False)) > 1 for name in CASES} == {
        name: "pipe_parallel_size" in keys for name, keys in CASES.items()
    }


def test_a_real_run_holds_what_the_plan_says(char_data, monkeypatch):
    monkeypatch.setitem(CASES, "characters", {**CASES["characters"], "data_path": str(char_data)})
    (row,) = bench_memory(["characters"], "cpu", Console())["rows"]
    assert abs(row["state_error"]) < 0.05
    assert abs(row["peak_error"]) < 0.15
    assert row["state_measured"] < row["peak_measured"]
