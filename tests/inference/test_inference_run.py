"""Train a little, then generate through deepy.py from what was saved."""

import json
import subprocess
import sys

import pytest
from support.runs import ROOT, finish, start, write_config

TEXTS = {"maximum_tokens": 20, "temperature": 1.0, "num_samples": 3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, char_data):
    """Config file of a model that two processes trained, each with half of every layer."""
    folder = tmp_path_factory.mktemp("run")
    config = write_config(folder, char_data, num_gpus=2, model_parallel_size=2, train_iters=2, **TEXTS)
    finish(start("train.py", config))
    return config


def generate(config, *overrides, stdin=""):
    """Standard output of generate.py, which holds nothing but texts."""
    result = subprocess.run(
        [sys.executable, "deepy.py", "generate.py", str(config), *(["--set", *overrides] if overrides else [])],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_same_seed_writes_the_same_texts(trained, tmp_path):
    records = [json.loads(line) for line in generate(trained).splitlines()]
    assert len(records) == 3
    assert len({record["text"] for record in records}) == 3
    assert all(record["length"] == 20 or record["finished"] for record in records)

    output = tmp_path / "texts.jsonl"
    finish(start("generate.py", trained, "--set", f"sample_output_file={output}", "generation_batch_size=2"))
    again = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["text"] for record in again] == [record["text"] for record in records]

    finish(start("generate.py", trained, "--set", f"sample_output_file={output}", "seed=99"))
    other = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["text"] for record in other] != [record["text"] for record in records]


def test_interactive_over_a_pipe(trained):
    printed = generate(trained, "text_gen_type=interactive", "temperature=0", "maximum_tokens=5", stdin="The tide\nA")
    assert len(printed.encode(errors="replace")) >= 2 * 5
    assert "prompt>" not in printed


def test_without_a_checkpoint_the_folder_is_named(trained, tmp_path):
    output = finish(start("generate.py", trained, "--set", f"load={tmp_path}"), expect=2)
    assert str(tmp_path) in output
    assert "Traceback" not in output


def test_prompts_that_are_not_there_are_wrong_input(trained, tmp_path):
    output = finish(start("generate.py", trained, "--set", f"sample_input_file={tmp_path}/prompts.txt"), expect=2)
    assert f"error: sample_input_file: cannot read {tmp_path}/prompts.txt" in output
    assert "Traceback" not in output
