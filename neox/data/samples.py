"""megatron-core's datasets of samples, with their indices kept in our cache. Knows nothing about our configuration.

megatron-core writes its cache on global rank 0 only, in place, under a name that forgets what the data was: a second data set
at the same path, a killed build or a disk that the nodes do not share would train on the wrong samples or not at all.
"""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from numpy.lib.format import open_memmap

from neox.data.index_cache import cached_arrays, cached_files
from neox.data.packing import packed_whole
from neox.data.reading import Reading
from neox.parallel import megatron  # noqa: F401 (the door: without it megatron-core imports everything)

with warnings.catch_warnings():
    # its package warns about each optional accelerator library that is absent, on every rank
    warnings.simplefilter("ignore")
    from megatron.core.datasets import helpers
    from megatron.core.datasets.blended_dataset import BlendedDataset
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split

__all__ = [
    "BlendedSamples",
    "GPTDataset",
    "IndexedDataset",
    "PairedSamples",
    "Samples",
    "SamplesConfig",
    "Split",
    "TokenizerFacts",
    "WholeSamples",
    "write_blending",
]

BLEND_FILES = ("dataset_index", "dataset_sample_index")
COUNTED_AT_ONCE = 1 << 20  # samples of a blend: numpy counts with 8 bytes each
BEGINNING = 10_000  # samples and documents whose order tells it from others

# it warns that the indices are not cached: they are, by us
logging.getLogger("megatron.core.datasets").setLevel(logging.ERROR)


@dataclass(frozen=True)
class TokenizerFacts:
    """What megatron-core's datasets ask of a tokenizer."""

    vocab_size: int
    eod: int | None

    @property
    def unique_identifiers(self) -> OrderedDict:
        """What goes into the name of the cached index."""
        return OrderedDict(vocab_size=self.vocab_size)


@dataclass
class SamplesConfig(GPTDatasetConfig):
    """megatron-core's settings, and ours: the folder of the cached indices, how a sample is read, what its tokens and their
    number make of tokens and labels before, and whether documents that are kept whole share samples."""

    index_folder: Path | None = None
    reading: Reading | None = None
    change: Callable[[numpy.ndarray, int], tuple[numpy.ndarray, numpy.ndarray]] | None = None
    together: bool = False

    def __post_init__(self) -> None:
        self.path_to_cache = ""  # not None, which means a folder next to the data: build in memory and leave it to us
        super().__post_init__()


class Samples(GPTDataset):
    """Samples of seq_length + 1 tokens from the documents of one store, shuffled, over as many epochs as it takes. Documents
    follow one another and are cut where a sample is full.

    labels: a store of the labels, as long as the tokens in each sequence: the token to predict, or a negative number (-100) where
    none is. Without one, each token is a label. The other arguments are megatron-core's.
    """

    def __init__(self, labels: IndexedDataset | None, *arguments):
        super().__init__(*arguments)
        self._labels = None
        if labels is not None:
            self._labels = copy(self)  # reads the other store at the same places
            self._labels.dataset = labels

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        text = self.text(index)
        if self.config.change is not None:
            return self.config.reading.sample(*self.config.change(text, int(index)))
        labels = text if self._labels is None else self._labels.text(index)
        return self.config.reading.sample(text, labels)

    @property
    def order(self) -> str | None:
        """The order of the samples, in words; None where it is the same however many samples are asked for.

        megatron-core shuffles the epochs of a run together: with one epoch more, every sample is another one.
        """
        epochs = len(self.document_index) // len(self.indices)
        digest = hashlib.blake2b(digest_size=6)
        for index in (self.document_index, self.shuffle_index):
            digest.update(numpy.ascontiguousarray(index[:BEGINNING]))
        return f"{epochs:,} epoch{'' if epochs == 1 else 's'}, shuffled as {digest.hexdigest()}"

    def text(self, index: int) -> numpy.ndarray:
        """The tokens of a sample, or their labels: up to seq_length + 1."""
        return self._query_document_sample_shuffle_indices(index)[0]

    def _build_document_sample_shuffle_indices(self) -> Sequence[numpy.ndarray]:
        return self._cached("packed", ("document_index", "sample_index", "shuffle_index"), self._build_packed)

    def _build_packed(self) -> Sequence[numpy.ndarray]:
        return super()._build_document_sample_shuffle_indices()

    def _cached(self, kind: str, names: Sequence[str], build: Callable[[], Sequence[numpy.ndarray]]):
        # the index follows from the lengths of the sequences and from which of them are used, whatever the tokens are
        arrays = hashlib.blake2b(numpy.ascontiguousarray(self.dataset.sequence_lengths), digest_size=8)
        arrays.update(numpy.ascontiguousarray(self.indices))
        key = f"{self.unique_description_hash}-{arrays.hexdigest()}-{kind}-{self.index_split.name}"
        return cached_arrays(self.config.index_folder, key, names, build)


class WholeSamples(Samples):
    """Samples of whole documents, one or several, of up to seq_length + 1 tokens."""

    order = None  # each epoch is shuffled by itself

    def text(self, index: int) -> numpy.ndarray:
        documents = self.document_index[self.sample_index[index] : self.sample_index[index + 1]]
        text = numpy.concatenate([self.dataset.get(document) for document in documents])
        return text[: self.config.sequence_length + 1]

    def _build_document_sample_shuffle_indices(self) -> Sequence[numpy.ndarray | None]:
        kind = "together" if self.config.together else "alone"
        return *self._cached(kind, ("document_index", "sample_index"), self._build_whole), None

    def _build_whole(self) -> Sequence[numpy.ndarray]:
        return packed_whole(
            self.indices,
            self.dataset.sequence_lengths[self.indices],
            longest=self.config.sequence_length + 1,
            samples=self.num_samples,
            together=self.config.together,
            seed=self.config.random_seed,
        )


class PairedSamples(WholeSamples):
    """Pairs of answers to one question: the documents of one store, each before that of the same number in `rejected`.

    What it holds of a sample is (2, seq_length).
    """

    def __init__(self, rejected: WholeSamples, *arguments):
        super().__init__(*arguments)
        self._rejected = rejected

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        # both orders follow from the seed and the number of documents alone
        answers = super().__getitem__(index), self._rejected[index]
        return {name: torch.stack([answer[name] for answer in answers]) for name in answers[0]}


class BlendedSamples(BlendedDataset):
    """Samples of several stores, mixed by weight."""

    def _build_indices(self):
        return cached_files(
            self.config.index_folder,
            f"{self.unique_description_hash}-blend-{self.split.name}",
            BLEND_FILES,
            self._write_indices,
        )

    def _write_indices(self, folder: Path) -> None:
        drawn = write_blending(folder, self.weights, self.size)
        assert all(drawn <= [len(dataset) for dataset in self.datasets]), "each part has what its share comes to"


def write_blending(folder: Path, shares: Sequence[float], samples: int) -> numpy.ndarray:
    """Which dataset each sample of a blend comes from, and which of its samples it is, as the two BLEND_FILES in the folder.

    Written through memory maps: 10 bytes of disk a sample, and no memory that grows with them. Returns how many samples each
    dataset gives, (datasets,) int64.
    """
    order, within = (
        _writable_array(folder / f"{name}.npy", dtype, samples)
        for name, dtype in zip(BLEND_FILES, (numpy.int16, numpy.int64), strict=True)
    )
    helpers.build_blending_indices(order, within, list(shares), len(shares), samples, False)
    order.flush()
    within.flush()
    blocks = (order[begin : begin + COUNTED_AT_ONCE] for begin in range(0, samples, COUNTED_AT_ONCE))
    return sum(numpy.bincount(block, minlength=len(shares)) for block in blocks)


def _writable_array(path: Path, dtype: type, length: int) -> numpy.memmap:
    """A new file of an array, with its room on the disk: a full disk is an OSError here, but would kill who writes to a map."""
    array = open_memmap(path, mode="w+", dtype=dtype, shape=(length,))
    with open(path, "rb+") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
