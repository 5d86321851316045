"""Samples of whole documents: every document once an epoch, none cut unless it must be, and what is padding is not learned."""

from __future__ import annotations

from collections import Counter

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neox.config.errors import ConfigError
from neox.config.sections import DataConfig, TokenizerConfig
from neox.data.datasets import build_datasets
from neox.data.packing import packed_whole
from neox.data.reading import Reading
from neox.data.store import StoreWriter
from neox.parallel.topology import Topology
from neox.tokenizer.tokenizer import build_tokenizer

SEQ_LENGTH = 8
ALONE = Topology(0, 0, 1, 0, 1, 0, 1, 0, 1, torch.device("cpu"), "gloo")
CHARACTERS = build_tokenizer(TokenizerConfig(tokenizer_type="CharLevelTokenizer"))
TEXTS = ["abcd", "efg", "hi", "jklmnopqrstuvw", "x", "yzab"]


def write(prefix, documents, dtype=numpy.uint16) -> str:
    with StoreWriter(prefix, dtype) as store:
        for document in documents:
            store.add(numpy.array(document, dtype=dtype), numpy.array([len(document)]))
        store.finish()
    return str(prefix)


@pytest.fixture
def store(tmp_path) -> str:
    return write(tmp_path / "a", [[*text.encode(), 0] for text in TEXTS])


def build(store: str, samples: int = 12, **keys):
    data = DataConfig(train_data_paths=[store], **keys)
    return build_datasets(data, SEQ_LENGTH, (samples, 0, 0), CHARACTERS, 7, ALONE).train


def texts(sample) -> str:
    """What is learned of a sample, and the token before."""
    tokens = [*sample["tokens"].tolist(), 0]
    assert sample["loss_mask"].sum() == sample["loss_mask"].cumprod(0).sum(), "what is learned comes first"
    learned = int(sample["loss_mask"].sum())
    assert sample["tokens"][1 : learned + 1].tolist() == sample["labels"][: min(learned, SEQ_LENGTH - 1)].tolist()
    return bytes([*tokens[:1], *sample["labels"][:learned].tolist()]).decode()


def test_unpacked_gives_each_document_a_sample(store):
    dataset = build(store, pack_impl="unpacked")
    found = Counter(texts(dataset[index]) for index in range(len(dataset)))
    assert found == dict.fromkeys(["abcd\0", "efg\0", "hi\0", "jklmnopqr", "x\0", "yzab\0"], 2)
    first, second = ([texts(dataset[index]) for index in part] for part in (range(6), range(6, 12)))
    assert sorted(first) == sorted(second) and first != second
    whole = build(store, pack_impl="unpacked", allow_chopped=False)
    assert {texts(whole[index]) for index in range(len(whole))} == {"abcd\0", "efg\0", "hi\0", "x\0", "yzab\0"}


def test_documents_are_packed_until_one_does_not_fit(store):
    dataset = build(store, samples=40, pack_impl="pack_until_overflow", reset_attention_mask=True)
    seen = Counter()
    for index in range(len(dataset)):
        documents = [text for text in texts(dataset[index]).split("\0") if text]
        seen.update(documents)
        numbers = dataset[index]["documents"].tolist()
        assert numbers == sorted(numbers) and len(set(numbers[: len("\0".join(documents))])) == len(documents)
    assert set(seen) == {"abcd", "efg", "hi", "jklmnopqr", "x", "yzab"} and len(set(seen.values())) == 1
    assert len(dataset) < sum(seen.values())


def test_documents_without_anything_to_learn_are_left_out(store, tmp_path):
    labels = [[-100] * (len(text) + 1) for text in TEXTS]
    labels[0][2:4] = b"cd"
    labels[3][12] = ord("v")  # beyond the sample
    labels[1][0] = ord("e")  # nothing comes before it
    given = write(tmp_path / "labels", labels, numpy.int32)
    dataset = build(store, samples=3, pack_impl="unpacked", train_label_data_paths=[given])
    assert len(dataset) == 3
    for index in range(3):
        assert dataset[index]["tokens"].tolist() == [*b"abcd", 0, 0, 0, 0]
        assert dataset[index]["loss_mask"].tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
        assert dataset[index]["labels"][1:3].tolist() == list(b"cd")
    # other labels of the same lengths are not read with the old index
    labels[1][1] = ord("f")
    write(tmp_path / "labels", labels, numpy.int32)
    again = build(store, samples=3, pack_impl="unpacked", train_label_data_paths=[given])
    assert {again[index]["tokens"][0].item() for index in range(len(again))} == set(b"ae")


def test_nothing_to_train_on_is_an_error(tmp_path):
    long = write(tmp_path / "long", [[1] * 50])
    with pytest.raises(ConfigError, match="long: no document for train .*all are longer"):
        build(long, pack_impl="unpacked", allow_chopped=False)


def test_stores_of_whole_documents_are_mixed(store, tmp_path):
    other = write(tmp_path / "b", [[5, 6, 0], [7, 8, 9, 0]])
    data = DataConfig(train_data_paths=[store, other], train_data_weights=[1, 3], pack_impl="unpacked")
    dataset = build_datasets(data, SEQ_LENGTH, (40, 0, 0), CHARACTERS, 7, ALONE).train
    assert numpy.bincount(dataset.dataset_index).tolist() == [10, 30]
    assert all(dataset[index]["tokens"].shape == (SEQ_LENGTH,) for index in range(40))


@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=30),
    longest=st.integers(2, 50),
    samples=st.integers(1, 60),
    together=st.booleans(),
)
def test_every_epoch_has_every_document_once(lengths, longest, samples, together):
    lengths = numpy.array(lengths)
    numbers = numpy.arange(100, 100 + len(lengths))
    order, begins = packed_whole(numbers, lengths, longest, samples, together, seed=3)
    assert len(begins) - 1 >= samples and begins[0] == 0 and begins[-1] == len(order)
    assert all(sorted(epoch) == numbers.tolist() for epoch in order.reshape(-1, len(lengths)))
    epoch_starts = set(range(0, len(order), len(lengths)))
    for begin, end in zip(begins, begins[1:]):
        taken = lengths[order[begin:end] - 100].clip(max=longest)
        assert end - begin == 1 or (together and taken.sum() <= longest)
        if together and end < len(order) and end not in epoch_starts:
            assert taken.sum() + min(lengths[order[end] - 100], longest) > longest, "the next one would have fitted"


def test_boundaries_follow_the_ends():
    reading = Reading(9, eod=0, eod_mask_loss=True, reset_attention_mask=True, reset_position_ids=True)
    text = numpy.array([5, 6, 0, 0, 7, 8, 9])
    sample = {name: part.tolist() for name, part in reading.sample(text, text).items()}
    assert sample["tokens"] == [5, 6, 0, 0, 7, 8, 9, 0, 0]
    assert sample["documents"] == [1, 1, 1, 2, 3, 3, 3, 3, 4]
    assert sample["positions"] == [0, 1, 2, 0, 0, 1, 2, 3, 0]
    assert sample["loss_mask"] == [1, 1, 0, 0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("key", ["eod_mask_loss", "reset_attention_mask", "reset_position_ids"])
def test_keys_that_need_the_ends_of_documents(tmp_path, key):
    endless = write(tmp_path / "endless", [[5, 6, 7]] * 9)
    with pytest.raises(ConfigError, match=f"{key}: no document of .*endless ends with .* token 0.*--append-eod"):
        build(endless, samples=1, **{key: True})
