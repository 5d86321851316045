"""The contestants of `bench data` do the same work, and the result says what it says. No test here looks at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from neox.data.files import write_durably
from neox.tokenizer.train import train_byte_level_bpe

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_all_write_the_same_tokens_and_are_compared(tmp_path):
    text = "Now is the winter of our discontent, naïve café \u6771\u4eac. " * 20
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": text[:length]}) + "\n" for length in (0, 300, 500)))
    write_durably(tmp_path / "tokenizer.json", train_byte_level_bpe([text], 400).to_str().encode())
    command = [
        sys.executable,
        "tools/bench.py",
        "data",
        "--json",
        "--megabytes",
        "0.02",
        "--workers",
        "2",
        "--rounds",
        "1",
    ]
    command += [
        "--input",
        tmp_path / "c.jsonl",
        "--tokenizer-type",
        "HFTokenizer",
        "--vocab-file",
        tmp_path / "tokenizer.json",
    ]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (row,) = result["rows"]
    assert result["corpus"]["text_bytes"] >= 20_000
    assert [entry["name"] for entry in row["contestants"]] == [
        "neox",
        "megatron-lm",
        "gpt-neox",
        "engine",
        "tokenizers",
    ]
    assert all(entry["mb_per_sec"] > 0 and entry["mb_per_cpu_sec"] > 0 for entry in row["contestants"])
    samples = result["samples"]
    assert set(samples["index"]) == {"built", "cached", "megatron-core"}
    assert set(samples["reading"]) == {
        f"{name}, {order}" for name in ("ours", "megatron-core", "memory map") for order in ("sequential", "random")
    }
    assert all(row["samples_per_sec"] > 0 for part in ("index", "reading") for row in samples[part].values())
    speed = {entry["name"]: entry["mb_per_sec"] for entry in row["contestants"]}
    for peer in ("megatron-lm", "gpt-neox", "engine", "tokenizers"):
        assert (
            abs(row["times_the_speed_of"][peer] - speed["neox"] / speed[peer])
            < 1e-9 * speed["neox"] / speed[peer] + 1e-9
        )
