"""megatron-core's datasets of samples, with their indices kept in our cache. Knows nothing about our configuration.

megatron-core writes its cache on global rank 0 only, in place, under a name that forgets what the data was: a second data set
at the same path, a killed build or a disk that the nodes do not share would train on the wrong samples or not at all.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch

from neox.data.index_cache import cached_arrays
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
    "blending_order",
    "GPTDataset",
    "IndexedDataset",
    "LabelledSamples",
    "Samples",
    "SamplesConfig",
    "Split",
    "TokenizerFacts",
]

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
    """megatron-core's settings, and the folder of the cached indices."""

    index_folder: Path | None = None

    def __post_init__(self) -> None:
        self.path_to_cache = ""  # not None, which means a folder next to the data: build in memory and leave it to us
        super().__post_init__()


class Samples(GPTDataset):
    """Samples of seq_length + 1 tokens from the documents of one store, shuffled, over as many epochs as it takes."""

    def _build_document_sample_shuffle_indices(self):
        # the index follows from the lengths of the sequences, whatever the tokens are
        lengths = hashlib.blake2b(numpy.ascontiguousarray(self.dataset.sequence_lengths), digest_size=8).hexdigest()
        return cached_arrays(
            self.config.index_folder,
            f"{self.unique_description_hash}-{lengths}-{self.index_split.name}",
            ("document_index", "sample_index", "shuffle_index"),
            super()._build_document_sample_shuffle_indices,
        )


class LabelledSamples(Samples):
    """Samples whose labels are in a store of their own, as long as the tokens in each sequence: the token to predict, or a
    negative number (-100) where none is. There the loss mask is 0."""

    def __init__(self, labels: IndexedDataset, *arguments):
        super().__init__(*arguments)
        self._labels = copy(self)  # reads the other store at the same places
        self._labels.dataset = labels

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sample = super().__getitem__(index)
        labels = torch.from_numpy(self._labels._query_document_sample_shuffle_indices(index)[0])[1:]
        return sample | {"labels": labels.clamp(min=0), "loss_mask": sample["loss_mask"] * (labels >= 0)}


class BlendedSamples(BlendedDataset):
    """Samples of several stores, mixed by weight."""

    def _build_indices(self):
        return cached_arrays(
            self.config.index_folder,
            f"{self.unique_description_hash}-blend-{self.split.name}",
            ("dataset_index", "dataset_sample_index"),
            super()._build_indices,
        )


def blending_order(shares: Sequence[float], samples: int) -> numpy.ndarray:
    """The number of the dataset that each of the first samples of a blend comes from, (samples,) int16."""
    order, within = numpy.zeros(samples, dtype=numpy.int16), numpy.zeros(samples, dtype=numpy.int64)
    helpers.build_blending_indices(order, within, list(shares), len(shares), samples, False)
    return order
