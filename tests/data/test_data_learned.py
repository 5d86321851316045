"""Looking at many documents at a time finds what looking at one after another does."""

from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neox.data import learned
from neox.data.learned import first_other_question, has_labels
from neox.data.reading import NO_LABEL
from neox.data.samples import IndexedDataset
from neox.data.store import StoreWriter

# labels of one document: what is learned of it, token by token, in every combination that matters
DOCUMENT = st.lists(st.sampled_from([NO_LABEL, 0, 5]), max_size=6)


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    monkeypatch.setattr(learned, "TOKENS_AT_ONCE", 8)


def write(prefix: Path, documents: list[list[int]]) -> IndexedDataset:
    with StoreWriter(prefix, numpy.int32) as store:
        for document in documents:
            store.add(numpy.array(document, dtype=numpy.int32), numpy.array([len(document)]))
        store.finish()
    return IndexedDataset(str(prefix))


@settings(deadline=None, max_examples=100)
@given(documents=st.lists(DOCUMENT, max_size=8).map(lambda some: [[5], *some]), seq_length=st.integers(1, 7))
def test_documents_with_something_to_learn(documents, seq_length, tmp_path_factory):
    labels = write(tmp_path_factory.mktemp("labels") / "labels", documents)
    expected = [any(label >= 0 for label in document[1 : seq_length + 1]) for document in documents]
    assert has_labels(labels, seq_length).tolist() == expected


PAIR = st.tuples(DOCUMENT, DOCUMENT, st.sampled_from(["same"] * 6 + ["changed", "other"]))


@settings(deadline=None, max_examples=200)
@given(pairs=st.lists(PAIR, max_size=8), data=st.data())
def test_the_first_document_with_another_question(pairs, data, tmp_path_factory):
    tokens, labels, expected = ([[1]], [[1]]), ([[5]], [[5]]), None
    for number, (first, second, kind) in enumerate(pairs, start=1):
        question = list(range(number, number + question_length(first)))
        answers = [[7] * (len(side) - question_length(side)) for side in (first, second)]
        if kind == "other":  # as it was drawn: often of another length
            other = [9] * question_length(second)
        else:
            second = [*first[: len(question)], *second[question_length(second) :]]
            other = list(question)
            if kind == "changed" and other:
                other[data.draw(st.integers(0, len(other) - 1))] = 99
        for side, text, label in zip((0, 1), (question + answers[0], other + answers[1]), (first, second)):
            tokens[side].append(text)
            labels[side].append(label)
        if expected is None and question != other:
            expected = number
    folder = tmp_path_factory.mktemp("pairs")
    stores = [
        tuple(write(folder / f"{name}{side}", documents[side]) for side in (0, 1))
        for name, documents in (("tokens", tokens), ("labels", labels))
    ]
    assert first_other_question(*stores) == expected


def question_length(labels: list[int]) -> int:
    """Tokens before the first label."""
    return next((place for place, label in enumerate(labels) if label >= 0), len(labels))
