"""Mistakes in real configs: each ends with exit code 2, and is told with its line, its key and what to do."""

from pathlib import Path

import pytest

import deepy

CONFIGS = Path(deepy.ROOT, "configs")
NAMES = ("125M", "20B", "llama/7B", "shakespeare_student")


def lines_of(name: str) -> list[str]:
    return (CONFIGS / f"{name}.yml").read_text().splitlines()


def keys_of(name: str) -> list[tuple[int, str]]:
    """(line number, key) of the keys at the top of a file."""
    return [
        (number, line.split(":")[0])
        for number, line in enumerate(lines_of(name), start=1)
        if line and not line.startswith((" ", "#"))
    ]


ALL_KEYS = [(name, number, key) for name in NAMES for number, key in keys_of(name)]


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run the lines of a config; the complaints."""
    monkeypatch.chdir(tmp_path)

    def run(lines: list[str]) -> list[str]:
        Path("a.yml").write_text("\n".join(lines) + "\n")
        assert deepy.main(["train.py", "a.yml", "--dry-run"]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        *complaints, count = captured.err.splitlines()
        assert count.endswith("nothing was started")
        return complaints

    return run


@pytest.mark.parametrize(("name", "number", "key"), ALL_KEYS)
def test_a_typo_is_told_with_the_right_spelling(name, number, key, refused):
    lines = lines_of(name)
    middle = len(key) // 2
    typo = key[:middle] + key[middle + 1 :]
    lines[number - 1] = lines[number - 1].replace(key, typo, 1)
    assert f"a.yml:{number}:1: {typo}: there is no such key; did you mean {key}?" in refused(lines)


@pytest.mark.parametrize(("name", "number", "key"), ALL_KEYS)
def test_a_value_of_the_wrong_type_is_told_with_its_place(name, number, key, refused):
    lines = lines_of(name)
    wrong = "3" if key in ("optimizer", "zero_optimization") else "{a: b}"
    following = next((index for index in range(number, len(lines)) if not lines[index].startswith(" ")), len(lines))
    lines[number - 1 : following] = [f"{key}: {wrong}"]
    (complaint,) = [line for line in refused(lines) if line.startswith(f"a.yml:{number}:")]
    assert f": {key}: wants " in complaint
    assert "not 3" in complaint if wrong == "3" else "not a mapping" in complaint


@pytest.mark.parametrize(("name", "number", "key"), ALL_KEYS)
def test_a_second_spelling_of_a_key_is_told_with_both_places(name, number, key, refused):
    spelled = key.replace("_", "-")
    lines = [*lines_of(name), f"{spelled}: 1"]
    sentence = (
        f"a.yml:{len(lines)}:1: {spelled}: is given twice; the other one is at a.yml:{number}:1. Remove one of them"
    )
    assert sentence in refused(lines)


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("125M", "num_attention_heads: 12", "num_attention_heads: 7", "7 heads do not divide hidden_size 768"),
        ("125M", "hidden_size: 768", "hidden_size: 770", "12 heads do not divide hidden_size 770"),
        ("20B", "model_parallel_size: 2", "model_parallel_size: 3", "3 processes cannot share 64 heads evenly"),
        ("20B", "pipe_parallel_size: 4", "pipe_parallel_size: 45", "45 stages need a block each"),
        ("20B", "rotary_pct: 0.25", "rotary_pct: 0.01", "rotation takes them in pairs"),
        (
            "20B",
            "zero_optimization: {stage: 1}",
            "zero_optimization: {stage: 3}",
            "does not work with pipe_parallel_size 4",
        ),
        ("20B", "train_iters: 150000", "train_iters: 1e5.5", "wants a whole number, not 1e5.5"),
        ("llama/7B", "seq_length: 2048", "seq_length: 4096", "4096 tokens are more than max_position_embeddings 2048"),
        (
            "llama/7B",
            "train_batch_size: 2048",
            "train_batch_size: 2048\ngradient_accumulation_steps: 3",
            "leave one of the three out",
        ),
        ("llama/7B", "min_lr: 3.0e-5", "min_lr: 3.0", "3 is above the peak rate"),
        ("llama/7B", "precision: bf16", "precision: bf61", "did you mean bf16?"),
        ("shakespeare_student", "warmup: 0.02", "warmup: 2", "must be at most 1, not 2"),
    ],
)
def test_numbers_that_do_not_go_together(name, old, new, words, refused):
    lines = "\n".join(lines_of(name)).replace(old, new, 1).split("\n")
    assert words in "\n".join(refused(lines))
