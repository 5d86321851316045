"""The fingerprint of the data: the same data are known again wherever they lie, and every change is told."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy
import pytest

from neox.config.sections import DataConfig, TokenizerConfig
from neox.data.fingerprint import ORDER, Fact, changes, fingerprint
from neox.data.manifest import manifest
from neox.data.store import StoreWriter


def write(prefix: Path, tokens: list[int], with_manifest: bool = False) -> str:
    """A store of two documents of equal length, with the manifest where it is asked for."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with StoreWriter(prefix, numpy.uint16) as store:
        store.add(numpy.array(tokens, dtype=numpy.uint16), numpy.array([len(tokens) // 2] * 2))
        files = store.finish()
    if with_manifest:
        facts = {"key": "text", "sources": [], "tokenizer": {}, "append_eod": True, "subsets": {}, "left_out": {}}
        Path(f"{prefix}.json").write_bytes(manifest(**facts, dtype=store.dtype, files=files))
    return str(prefix)


def facts(seq_length: int = 16, seed: int = 7, vocab_file: str | None = None, **data) -> list[Fact]:
    tokenizer = TokenizerConfig(tokenizer_type="HFTokenizer", vocab_file=vocab_file)
    return fingerprint(DataConfig(**data), seq_length, seed, tokenizer)


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    return [write(tmp_path / "a", [1, 2, 3, 4], with_manifest=True), write(tmp_path / "b", [5, 6])]


def mix(paths: list[str], *weights: float) -> list[Fact]:
    return facts(train_data_paths=paths, train_data_weights=list(weights) or None, valid_data_paths=paths[:1])


def test_moved_data_are_the_same_data(pair, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    moved = [str(tmp_path / "elsewhere" / f"{Path(prefix).name}_copy") for prefix in pair]
    for prefix, copy in zip(pair, moved, strict=True):
        for suffix in (".bin", ".idx", ".json"):
            if Path(f"{prefix}{suffix}").exists():
                shutil.copy(f"{prefix}{suffix}", f"{copy}{suffix}")
    assert changes(mix(pair), mix(moved)) == []
    Path(f"{moved[0]}.json").unlink()  # copied without its manifest: what is known agrees
    assert changes(mix(pair), mix(moved)) == changes(mix(moved), mix(pair)) == []


def test_the_order_counts_where_both_sides_know_it_and_all_else_is_the_same(pair):
    first, second = Fact(ORDER, "1 epoch, shuffled as 1", "a"), Fact(ORDER, "2 epochs, shuffled as 2", "a")
    assert changes([*mix(pair), first], [*mix(pair), second]) == [f"- {first}", f"+ {second}"]
    assert changes(mix(pair), [*mix(pair), second]) == []
    assert changes([*facts(seed=1, data_path=pair[0]), first], [*facts(seed=2, data_path=pair[0]), second]) == [
        "- seed: 1",
        "+ seed: 2",
    ]


def test_it_survives_json(pair):
    before = mix(pair)
    assert [Fact(**fact) for fact in json.loads(json.dumps([asdict(fact) for fact in before]))] == before


def test_weights_are_compared_as_shares(pair):
    assert changes(mix(pair), mix(pair, 2, 2)) == []
    lines = changes(mix(pair, 1, 1), mix(pair, 3, 1))
    assert [line[0] for line in lines] == ["-", "-", "+", "+"]
    assert "share 0.5" in lines[0] and "share 0.75" in lines[2] and "train_data_paths: a," in lines[0]


def test_content_of_equal_size_is_told_apart_by_the_manifest(tmp_path):
    before = facts(data_path=write(tmp_path / "a", [1, 2, 3, 4], with_manifest=True))
    old, new = changes(before, facts(data_path=write(tmp_path / "a", [1, 2, 3, 9], with_manifest=True)))
    assert (
        old.startswith("- data_path: a, 8 bytes") and new.startswith("+ data_path: a, 8 bytes") and old[1:] != new[1:]
    )


def test_documents_of_other_lengths_are_seen_without_a_manifest(tmp_path):
    before = facts(data_path=write(tmp_path / "a", [1, 2, 3, 4]))
    with StoreWriter(tmp_path / "a", numpy.uint16) as store:
        store.add(numpy.array([1, 2, 3, 4], dtype=numpy.uint16), numpy.array([1, 3]))
        store.finish()
    assert len(changes(before, facts(data_path=str(tmp_path / "a")))) == 2


def test_an_added_and_a_removed_file_are_named(pair, tmp_path):
    more = [pair[0], write(tmp_path / "c", [7, 8]), pair[1]]
    weights = dict(zip(more, (0.5, 0.25, 0.25), strict=True))
    before, now = mix(pair, *(weights[path] for path in pair)), mix(more, *weights.values())
    # the others' shares have changed with it
    assert any("+ train_data_paths: c, 4 bytes" in line for line in changes(before, now))
    assert any("- train_data_paths: c, 4 bytes" in line for line in changes(now, before))


def test_labels_count_as_data(pair):
    given = {"train_data_paths": [pair[0]], "valid_data_paths": [pair[0]]}
    (line,) = changes(facts(**given), facts(**given, train_label_data_paths=[pair[1]]))
    assert line.startswith("+ train_label_data_paths: b, 4 bytes")


def test_each_setting_counts_and_the_vocabulary_too(pair, tmp_path):
    vocabulary = tmp_path / "tokenizer.json"
    vocabulary.write_text("{}")
    given = {"data_path": pair[0], "vocab_file": str(vocabulary)}
    before = facts(**given)
    assert changes(before, facts(**given, split="969,30,1")) == []
    assert changes(before, facts(**given, seed=8)) == ["- seed: 7", "+ seed: 8"]
    assert changes(before, facts(**given, seq_length=2048)) == ["- seq_length: 16", "+ seq_length: 2,048"]
    assert changes(before, facts(**given, split="1,1,1")) == ["- split: 969,30,1", "+ split: 1,1,1"]
    packed = facts(**given, pack_impl="unpacked", allow_chopped=False)
    assert changes(before, packed) == ["+ samples: pack_impl unpacked, allow_chopped False"]
    vocabulary.write_text("{ }")
    old, new = changes(before, facts(**given))
    assert old.startswith("- tokenizer: HFTokenizer, vocab_file ") and new.startswith("+ tokenizer: HFTokenizer")


def test_both_sides_of_pairs_count(pair: list[str]) -> None:
    given = {"pos_train_data_paths": [pair[0]], "neg_train_data_paths": [pair[1]]}
    lines = changes(facts(**given), facts(pos_train_data_paths=[pair[1]], neg_train_data_paths=[pair[0]]))
    assert [line.partition(": ")[0] for line in lines] == [
        "- pos_train_data_paths",
        "- neg_train_data_paths",
        "+ pos_train_data_paths",
        "+ neg_train_data_paths",
    ]
