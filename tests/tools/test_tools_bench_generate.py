"""`tools/bench.py generate` lets both continue the same prompts with the same weights, and says what it cost."""

import pytest
from rich.console import Console

from tools.benchmarks.generate import GenerateBench, bench_generate, print_generate


@pytest.mark.long
def test_both_write_the_same_texts_and_are_compared() -> None:
    bench = GenerateBench("cpu", "quickstart", ("fp32",), batches=(1, 2), prompt_tokens=5, new_tokens=3, rounds=1)
    result = bench_generate(bench, Console(quiet=True))
    assert [row["batch"] for row in result["rows"]] == [1, 2]
    assert all(row["same_texts"] == 1 for row in result["rows"]), "the exporter gives the same weights"
    for row in result["rows"]:
        rates = row["prompt"]["tokens_per_sec"]
        assert row["prompt"]["ratio"] == pytest.approx(rates["ours"] / rates["transformers"])
    console = Console(record=True, width=120)
    print_generate(result, console)
    assert "each of 2 further tokens" in console.export_text()
