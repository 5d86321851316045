"""Copies: which documents equal or resemble an earlier one."""

from __future__ import annotations

import random
from itertools import product
from pydoc_data.topics import topics

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.curation import duplicates
from tools.curation.duplicates import COLUMNS, MINHASH, Keys, copies

TEXT = topics["specialnames"]  # of Python's manual: 9,000 words


def found_among(texts: list[str], folder) -> tuple[list[bool], list[bool]]:
    make = Keys(exact=True, near=True)
    keys = numpy.array([make(text) for text in texts])
    files = [folder / str(column) for column in range(COLUMNS)]
    for column, file in enumerate(files):
        keys[:, column].tofile(file)
    exact, near = copies(files, len(texts))
    return exact.tolist(), near.tolist()


def edited(text: str, every: int) -> str:
    """Another word in place of one in so many."""
    words = text.split()
    words[::every] = ["heron"] * len(words[::every])
    return " ".join(words)


def test_real_texts_and_their_edited_copies(tmp_path):
    originals = [topics[name] for name in ("assignment", "classes", "naming", "import") if name in topics]
    assert len(originals) >= 3
    planted = [
        originals[0],
        edited(originals[1], 150),
        originals[2].upper().replace(",", " ,"),
        edited(originals[1], 6),
    ]
    exact, near = found_among([*originals, *planted], tmp_path)
    none = [False] * len(originals)
    assert exact == [*none, True, False, False, False]
    # one word in 150 changes 3% of the runs of five words; one in 6 leaves a sixth of them
    assert near == [*none, False, True, True, False]


def test_short_texts_are_not_taken_for_alike(tmp_path):
    assert found_among(["", "one two", "three", "a b c d", "one two"], tmp_path) == ([False] * 4 + [True], [False] * 5)


def test_hashes_are_datatroves_for_a_text_of_many_pieces(monkeypatch):
    keys = Keys(exact=False, near=True)
    whole = numpy.array(keys.minhash.get_signature(keys.minhash.get_shingles(TEXT)))
    for runs in (1, 97, 1_000_000):
        monkeypatch.setattr(duplicates, "RUNS_AT_A_TIME", runs if runs > 1 else 500)
        assert (keys._smallest_hashes(TEXT) == whole).all()
    assert whole.shape == (MINHASH.num_buckets, MINHASH.hashes_per_bucket)


def test_the_chance_to_be_found_is_the_one_told():
    """Of texts that share 90% of their runs of words nearly all share a band; of those that share half, one in twenty."""
    draw = random.Random(1)
    letters = "abcdefghijklmnopqrst"  # no digits: datatrove takes all numbers for one
    vocabulary = ["".join(word) for word in product(letters, repeat=4)]
    make = Keys(exact=False, near=True)

    def share_found(part: float, pairs: int = 60) -> float:
        found = 0
        for _ in range(pairs):
            # two texts of 200 words whose runs share `part` of all: common / (2 * 196 - common)
            common = round(2 * 196 * part / (1 + part))
            first = draw.sample(vocabulary, 200)
            second = first[: common + 4] + draw.sample(vocabulary, 196 - common)
            found += (make(" ".join(first))[1:] == make(" ".join(second))[1:]).any()
        return found / pairs

    assert share_found(0.9) > 0.95
    assert share_found(0.5) < 0.2


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3), max_size=60), st.integers(1, 9))
def test_copies_are_those_of_a_plain_loop(tmp_path_factory, rows, at_a_time):
    folder = tmp_path_factory.mktemp("keys")
    files = [folder / str(column) for column in range(3)]
    for column, file in enumerate(files):
        numpy.array([row[column] for row in rows], numpy.uint64).tofile(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "ROWS_AT_A_TIME", at_a_time)
        exact, near = copies(files, len(rows))
    earlier = [[{row[column] for row in rows[:index]} - {0} for column in range(3)] for index in range(len(rows))]
    equal = [row[0] in seen[0] for row, seen in zip(rows, earlier)]
    like = [row[1] in seen[1] or row[2] in seen[2] for row, seen in zip(rows, earlier)]
    assert exact.tolist() == equal
    assert near.tolist() == [alike and not same for alike, same in zip(like, equal)]
