"""Datasets: the samples are megatron-core's own, whatever the layout or the disk, and what cannot be trained on is refused."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import re
import resource
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neox.config.epochs import split_bounds
from neox.config.errors import ConfigError
from neox.config.sections import DataConfig, TokenizerConfig
from neox.data.datasets import build_datasets, orders
from neox.data.samples import BLEND_FILES, GPTDataset, GPTDatasetConfig, TokenizerFacts, write_blending
from neox.data.store import StoreWriter, read_lengths
from neox.parallel.topology import Topology
from neox.tokenizer.tokenizer import build_tokenizer

SEQ_LENGTH = 16
ALONE = Topology(0, 0, 1, 0, 1, 0, 1, 0, 1, torch.device("cpu"), "gloo")
CHARACTERS = build_tokenizer(TokenizerConfig(tokenizer_type="CharLevelTokenizer"))


def write(prefix: Path, lengths: list[int], first: int = 1, highest: int = 255) -> str:
    """A store of documents of these lengths; tokens count upwards from `first` and each document ends with 0."""
    with StoreWriter(prefix, numpy.uint16) as store:
        token = first
        for length in lengths:
            tokens = numpy.arange(token, token + length) % highest + 1
            tokens[-1] = 0
            store.add(tokens.astype(numpy.uint16), numpy.array([length]))
            token += length
        store.finish()
    return str(prefix)


@pytest.fixture
def store(tmp_path):
    return write(tmp_path / "a_text_document", [30, 7, 55, 1, 90, 12, 40, 41, 42, 60])


def build(samples=(20, 5, 5), seq_length=SEQ_LENGTH, seed=7, **data):
    return build_datasets(DataConfig(**data), seq_length, samples, CHARACTERS, seed, ALONE)


def tokens(dataset) -> list[list[int]]:
    return [dataset[index]["tokens"].tolist() for index in range(len(dataset))]


def megatron_core(sizes, folder, seed=7, **blend):
    """The datasets as megatron-core's own builder makes them."""
    from megatron.core.datasets.blended_megatron_dataset_builder import (  # noqa: PLC0415 (seconds to import)
        BlendedMegatronDatasetBuilder,
    )

    config = GPTDatasetConfig(
        random_seed=seed,
        sequence_length=SEQ_LENGTH,
        **blend,
        tokenizer=TokenizerFacts(512, 0),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        path_to_cache=folder and str(folder),
    )
    if folder is None:
        config.path_to_cache = ""  # its mixtures ask for the rank, without processes, where there is a cache
    return BlendedMegatronDatasetBuilder(GPTDataset, list(sizes), lambda: True, config).build()


def test_split_gives_the_samples_of_megatron_core(store, tmp_path):
    sizes = (50, 10, 3)  # several epochs
    ours = build(sizes, data_path=store, split="60,30,10")
    theirs = megatron_core(sizes, tmp_path / "theirs", blend=([store], None), split="60,30,10")
    for mine, other in zip((ours.train, ours.valid, ours.test), theirs, strict=True):
        assert tokens(mine) == tokens(other)


@pytest.mark.parametrize("size", [40, 54, 96])  # at 54 and 96 a store needs another epoch for the margin
def test_mixture_gives_the_samples_of_megatron_core(store, tmp_path, size):
    other = write(tmp_path / "b_text_document", [200, 100], first=77)
    mixture = [store, other], [3, 1.5]
    ours = build((size, 9, 0), train_data_paths=mixture[0], train_data_weights=mixture[1], valid_data_paths=[other])
    theirs = megatron_core((size, 9, 0), None, blend_per_split=[mixture, ([other], None), None])
    assert len(ours.train) == size
    assert tokens(ours.train) == tokens(theirs[0])[:size]
    assert tokens(ours.valid) == tokens(theirs[1])
    assert ours.test is None


def test_samples_are_whole_and_labels_follow(store):
    dataset = build(data_path=store, split="1").train
    sample = dataset[3]
    assert sample["tokens"].dtype == sample["labels"].dtype == torch.int64
    assert sample["tokens"].shape == sample["labels"].shape == sample["loss_mask"].shape == (SEQ_LENGTH,)
    assert torch.equal(sample["tokens"][1:], sample["labels"][:-1])
    assert sample["loss_mask"].dtype == torch.float32 and sample["loss_mask"].all()


def test_one_epoch_covers_the_data_once(store):
    dataset = build((1, 0, 0), data_path=store, split="1,0,0").train
    labels = sorted(token for index in range(len(dataset)) for token in dataset[index]["labels"].tolist())
    raw = numpy.fromfile(f"{store}.bin", dtype=numpy.uint16)
    assert len(dataset) == (raw.size - 1) // SEQ_LENGTH
    assert not set(labels) - set(raw.tolist())
    seen = numpy.bincount(labels, minlength=256)
    assert (seen <= numpy.bincount(raw, minlength=256)).all()


def test_end_of_document_can_be_left_out_of_the_loss(store):
    dataset = build(data_path=store, eod_mask_loss=True).train
    for index in range(len(dataset)):
        sample = dataset[index]
        assert torch.equal(sample["loss_mask"] == 0, sample["tokens"] == 0)
    assert any((dataset[index]["tokens"] == 0).any() for index in range(len(dataset)))


def write_labels(prefix: Path, text: str) -> str:
    """The store's own tokens as labels, but -100 for those that are odd."""
    raw = numpy.fromfile(f"{text}.bin", dtype=numpy.uint16).astype(numpy.int32)
    with StoreWriter(prefix, numpy.int32) as store:
        store.add(numpy.where(raw % 2, -100, raw).astype(numpy.int32), numpy.concatenate([*read_lengths(text)]))
        store.finish()
    return str(prefix)


@pytest.mark.parametrize("stores", [1, 2])
def test_loss_is_only_where_there_is_a_label(store, tmp_path, stores):
    texts = [store, write(tmp_path / "b_text_document", [200, 100], first=77)][:stores]
    labels = [write_labels(tmp_path / f"{name}_label_document", text) for name, text in zip("ab", texts, strict=False)]
    plain = build((90, 0, 0), train_data_paths=texts).train
    labelled = build((90, 0, 0), train_data_paths=texts, train_label_data_paths=labels).train
    assert tokens(labelled) == tokens(plain)
    for index in range(90):
        expected, sample = plain[index]["labels"], labelled[index]
        assert torch.equal(sample["loss_mask"], (expected % 2 == 0).float())
        assert torch.equal(sample["labels"], expected * (expected % 2 == 0))


def test_labels_of_other_texts_are_refused(store, tmp_path):
    other = write(tmp_path / "b_text_document", [200, 178])
    with pytest.raises(
        ConfigError, match=r"b_label_document\.idx: its sequences are not as long as those of .*/a_text"
    ):
        build(train_data_paths=[store], train_label_data_paths=[write_labels(tmp_path / "b_label_document", other)])
    labels = write_labels(tmp_path / "a_label_document", store)
    numpy.full(378, -101, dtype=numpy.int32).tofile(f"{labels}.bin")
    with pytest.raises(ConfigError, match="token -101 is not among"):
        build(train_data_paths=[store], train_label_data_paths=[labels])


def test_same_seed_same_order_other_seed_other_order(store):
    first = tokens(build(data_path=store).train)
    assert tokens(build(data_path=store).train) == first
    assert tokens(build(data_path=store, seed=8).train) != first


@pytest.mark.parametrize("pack_impl", ["packed", "unpacked", "pack_until_overflow"])
def test_the_order_is_told_apart_where_more_samples_change_it(store, tmp_path, pack_impl):
    """A run that goes on for longer reads the same samples up to there, or its fingerprint differs."""
    other = write(tmp_path / "other", [30, 40, 50])
    runs = [
        build((size, 0, 0), train_data_paths=[store, other], train_data_weights=[3, 1], pack_impl=pack_impl).train
        for size in (10, 20, 40, 60, 80, 120)
    ]
    pairs = list(itertools.pairwise(runs))
    same = [tokens(short) == tokens(long)[: len(short)] for short, long in pairs]
    assert [orders(short) == orders(long) for short, long in pairs] == same
    assert all(same) == (pack_impl != "packed")


def test_other_data_at_the_same_path_are_not_read_with_the_old_index(store):
    build(data_path=store)
    write(Path(store), [25] * 10, first=100)
    fresh = tokens(build(data_path=store).train)
    shutil.rmtree(Path(store).parent / "index_cache")
    assert tokens(build(data_path=store).train) == fresh


def test_folder_of_the_data_may_be_read_only(store, monkeypatch, tmp_path):
    expected = tokens(build(data_path=store).train)
    index_cache = Path(store).parent / "index_cache"
    shutil.rmtree(index_cache)
    index_cache.write_text("in the way, also for root")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert tokens(build(data_path=store).train) == expected
    assert list((tmp_path / "home" / "neox" / "index_cache").iterdir())


def test_share_too_small_for_one_sample_is_none(store):
    datasets = build(data_path=store, split="100, 0.1, 0", samples=(20, 5, 5))
    assert datasets.valid is None and datasets.test is None
    # the last document has 60 tokens
    assert len(build(data_path=store, split="90, 10, 0", seq_length=59).valid) >= 5
    assert build(data_path=store, split="90, 10, 0", seq_length=60).valid is None


def test_too_little_to_train_on_is_an_error(store):
    with pytest.raises(ConfigError, match="a_text_document: 378 tokens for train are fewer than .* 379"):
        build(data_path=store, split="1", seq_length=378)
    with pytest.raises(ConfigError, match="0 tokens for train"):
        build(data_path=store, split="0, 1")
    with pytest.raises(ConfigError, match="378 tokens for valid"):
        build(train_data_paths=[write(Path(store).with_name("b"), [999])], valid_data_paths=[store], seq_length=378)


def test_no_samples_asked_for_is_none(store):
    datasets = build((3, 0, 0), data_path=store, split="50,25,25")
    assert datasets.train is not None and datasets.valid is None and datasets.test is None


def test_store_of_weight_zero_is_left_out_and_weights_are_checked(store, tmp_path):
    other = write(tmp_path / "b_text_document", [200, 100], first=77)
    alone = build(train_data_paths=[store])
    assert tokens(build(train_data_paths=[store, other], train_data_weights=[2, 0]).train) == tokens(alone.train)
    equal = build((40, 0, 0), train_data_paths=[store, other]).train
    assert numpy.bincount(equal.dataset_index).tolist() == [20, 20]
    for weights in ([1.0], [0.0, 0.0]):
        with pytest.raises(ConfigError, match="train_data_weights: it takes one weight for each of the 2 paths"):
            build(train_data_paths=[store, other], train_data_weights=weights)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 100])
def test_many_small_stores_can_be_mixed_for_few_samples(tmp_path, size):
    stores = [write(tmp_path / f"{number}_text_document", [20, 30], first=number) for number in range(8)]
    weights = [0.9, *[0.1 / 7] * 7]
    dataset = build((size, 0, 0), train_data_paths=stores, train_data_weights=weights).train
    assert len(tokens(dataset)) == size


def _write_blending_within(folder: Path, spare: int) -> None:
    """What a process that may take only so many more bytes of memory makes of a blend of ten million samples."""
    used = int(re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + spare, resource.RLIM_INFINITY))
    counts = write_blending(folder, [0.6, 0.3, 0.1], 10_000_000)
    assert counts.tolist() == [6_000_000, 3_000_000, 1_000_000]


def test_memory_does_not_grow_with_the_samples_of_a_blend(tmp_path):
    child = multiprocessing.get_context("fork").Process(target=_write_blending_within, args=(tmp_path, 50_000_000))
    child.start()
    child.join()
    assert child.exitcode == 0
    order, within = (numpy.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in BLEND_FILES)
    assert order[:10].tolist().count(0) == 6 and within[-1] in (5_999_999, 2_999_999, 999_999)


def test_all_damaged_stores_are_named_together(store, tmp_path):
    other = write(tmp_path / "b_text_document", [200])
    Path(f"{store}.bin").write_bytes(b"")
    with pytest.raises(ConfigError) as caught:
        build(train_data_paths=[store, other, str(tmp_path / "gone")], mmap_warmup=True)
    assert [complaint.split(": ")[0] for complaint in caught.value.complaints] == [
        f"{store}.bin",
        f"there is no file {tmp_path / 'gone'}.idx",
    ]
    assert build(train_data_paths=[other], mmap_warmup=True).train


def test_tokens_of_another_tokenizer(tmp_path):
    prefix = write(tmp_path / "gpt2", [900], highest=2_000)
    with pytest.raises(ConfigError, match=r"gpt2\.bin: token 900 is not among the 512 ids of the tokenizer"):
        build(data_path=prefix)


@pytest.mark.parametrize("split", ["", "a,b", "1,1,1,1", "0,0,0", "-1,2", "1;1", "nan", "inf,1"])
def test_split_that_is_none(split):
    with pytest.raises(ConfigError, match="split: "):
        split_bounds(split, 10)


@settings(max_examples=200)
@given(
    shares=st.lists(st.integers(0, 1_000), min_size=1, max_size=3).filter(sum),
    documents=st.integers(0, 100_000),
)
def test_split_bounds_are_those_of_megatron_core(shares, documents):
    from megatron.core.datasets.blended_megatron_dataset_config import (  # noqa: PLC0415 (seconds to import)
        convert_split_vector_to_split_matrix,
        parse_and_normalize_split,
    )

    split = ", ".join(map(str, shares))
    matrix = convert_split_vector_to_split_matrix(parse_and_normalize_split(split))
    bounds = split_bounds(split, documents)
    assert bounds[0][0] == 0 and bounds[-1][1] == documents
    for (begin, end), theirs in zip(bounds, matrix, strict=True):
        if theirs is None:
            assert begin == end
        else:
            # a share that ends within a rounding error of half a document may round the other way
            assert abs(begin - theirs[0] * documents) <= 0.5 + 1e-6 and abs(end - theirs[1] * documents) <= 0.5 + 1e-6


def _rank(rank: int, folder: Path, results) -> None:
    """A rank that has its own copy of the data, as on a disk that the nodes do not share."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    topology = Topology(rank, 0, 2, 0, 1, 0, 1, rank, 2, torch.device("cpu"), "gloo")
    paths = [str(folder / f"node{rank}" / name) for name in ("a_text_document", "b_text_document")]
    data = DataConfig(train_data_paths=paths, valid_data_paths=paths[:1])
    datasets = build_datasets(data, SEQ_LENGTH, (30, 5, 0), CHARACTERS, 7, topology)
    results.put((rank, tokens(datasets.train), tokens(datasets.valid)))
    torch.distributed.destroy_process_group()


def test_every_rank_has_the_same_samples_also_without_a_shared_disk(tmp_path):
    for node in ("node0", "node1"):
        (tmp_path / node).mkdir()
        write(tmp_path / node / "a_text_document", [30, 7, 55, 1, 90])
        write(tmp_path / node / "b_text_document", [70, 80], first=50)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, tmp_path, results)) for rank in range(2)]
    for process in ranks:
        process.start()
    (_, *first), (_, *second) = sorted(results.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join()
    assert first == second and len(first[0]) == 30


def test_manifest_of_another_tokenizer(store):
    def told(**tokenizer) -> str:
        facts = {"type": "GPT2BPETokenizer", "vocab_size": 512, "eod": 0, **tokenizer}
        content = {"version": 1, "tokenizer": facts}
        Path(f"{store}.json").write_text(json.dumps(content))
        with pytest.raises(ConfigError) as caught:
            build(data_path=store)
        return str(caught.value)

    assert "a_text_document.json: made with a vocabulary of 50,257 ids, and the tokenizer has 512" in told(
        vocab_size=50_257
    )
    assert "its documents end with token 7, and those of the tokenizer with 0" in told(eod=7)
