"""Pairs of answers: the two of one question come together, whatever is left out, and files that do not fit are refused."""

from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neox.config.errors import ConfigError
from neox.config.sections import DataConfig, TokenizerConfig
from neox.data.batches import _collate
from neox.data.datasets import build_datasets
from neox.data.reading import NO_LABEL
from neox.data.samples import PairedSamples
from neox.data.store import StoreWriter
from neox.parallel.topology import alone
from neox.tokenizer.tokenizer import build_tokenizer

SEQ = 12
CHARACTERS = TokenizerConfig(tokenizer_type="CharLevelTokenizer")


def write(folder: Path, name: str, documents: list[tuple[list[int], list[int]]]) -> tuple[str, str]:
    """Token files of questions and answers, and of their labels; the prefixes of both."""
    prefixes = str(folder / f"{name}_document"), str(folder / f"{name}_label_document")
    for prefix, dtype, first in zip(prefixes, (numpy.uint16, numpy.int32), (lambda x: x, lambda _: NO_LABEL)):
        with StoreWriter(prefix, dtype) as store:
            for question, answer in documents:
                tokens = numpy.array([*map(first, question), *answer], dtype=dtype)
                store.add(tokens, numpy.array([tokens.size]))
            store.finish()
    return prefixes


def pairs(folder: Path, preferred: list, rejected: list, samples: int = 1, labels: bool = True) -> PairedSamples:
    (text, of_text), (other, of_other) = write(folder, "preferred", preferred), write(folder, "rejected", rejected)
    keys = {"pos_train_label_data_paths": [of_text], "neg_train_label_data_paths": [of_other]} if labels else {}
    data = DataConfig(pos_train_data_paths=[text], neg_train_data_paths=[other], pack_impl="unpacked", **keys)
    return build_datasets(data, SEQ, (samples, 0, 0), build_tokenizer(CHARACTERS), 7, alone(), "dpo").train


@settings(max_examples=25)
@given(lengths=st.lists(st.tuples(*[st.integers(1, SEQ + 3)] * 3), min_size=1, max_size=8), labels=st.booleans())
def test_the_answers_of_a_question_come_together(lengths, labels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    # each number of a document is in all of its tokens, and tells the preferred answer from the rejected one
    sides = [
        [
            ([10 + number] * question, [side + number] * answers[side == 60])
            for number, (question, *answers) in enumerate(lengths)
        ]
        for side in (30, 60)
    ]
    fits = [number for number, (question, *_) in enumerate(lengths) if not labels or question <= SEQ]
    if not fits:
        with pytest.raises(ConfigError, match="has tokens to learn within seq_length"):
            pairs(folder, *sides, labels=labels)
        return
    dataset = pairs(folder, *sides, samples=2 * len(lengths), labels=labels)
    read = []
    for index in range(2 * len(fits)):
        sample = dataset[index]
        number = int(sample["tokens"][0, 0]) - 10
        question, *answers = lengths[number]
        read.append(number)
        assert sample["tokens"].shape == (2, SEQ)
        for row, (side, answer) in enumerate(zip((30, 60), answers)):
            document = torch.tensor([10 + number] * question + [side + number] * answer)[: SEQ + 1]
            assert torch.equal(sample["tokens"][row, : document.numel() - 1], document[:-1])
            learned = sample["labels"][row][sample["loss_mask"][row] > 0]
            assert torch.equal(learned, document[question:] if labels else document[1:])
    assert sorted(read) == sorted(2 * fits), "every epoch has each pair once"


def test_a_batch_has_the_answers_side_by_side(tmp_path):
    dataset = pairs(tmp_path, [([1], [2]), ([3], [4])], [([1], [5, 6]), ([3], [7, 8])], samples=2)
    batch = _collate([dataset[0], dataset[1]])
    assert batch.tokens.shape == (4, SEQ)
    for row in (0, 2):
        assert batch.tokens[row, 0] == batch.tokens[row + 1, 0] and batch.labels[row, 0] != batch.labels[row + 1, 0]


def test_what_is_no_pair_is_refused(tmp_path):
    good = [([1, 2], [3]), ([4, 5], [6])]
    with pytest.raises(
        ConfigError, match=r"rejected_document: 1 documents, and .*preferred_document.* has 2: make both"
    ):
        pairs(tmp_path, good, good[:1], labels=False)
    with pytest.raises(ConfigError, match=r"document 1 of .*preferred_document and of .* answer different questions"):
        pairs(tmp_path, good, [good[0], ([4, 6], [6])])
    pairs(tmp_path, good, [good[0], ([4, 6], [6])], labels=False)


def test_mixtures_keep_pairs_together(tmp_path):
    stores = {}
    for name, first in (("a", 10), ("b", 40)):
        (tmp_path / name).mkdir()
        questions = [([first + number], [first + 10]) for number in range(5)]
        stores[name] = [
            write(tmp_path / name, side, [(question, [*answer, extra]) for question, answer in questions])[0]
            for side, extra in (("preferred", 1), ("rejected", 2))
        ]
    preferred, rejected = ([stores[name][side] for name in "ab"] for side in (0, 1))
    keys = {"train_data_weights": [3.0, 1.0], "pack_impl": "unpacked"}
    data = DataConfig(pos_train_data_paths=preferred, neg_train_data_paths=rejected, **keys)
    dataset = build_datasets(data, SEQ, (40, 0, 0), build_tokenizer(CHARACTERS), 7, alone(), "dpo").train
    firsts = []
    for index in range(40):
        sample = dataset[index]
        assert torch.equal(sample["tokens"][0, :2], sample["tokens"][1, :2])
        assert sample["tokens"][:, 2].tolist() == [1, 2]
        firsts.append(int(sample["tokens"][0, 0]) < 40)
    assert sum(firsts) == 30
