"""From token files to datasets of training samples: splits, mixtures, and how documents are packed.

Knows nothing about batches or ranks: sample i is the same whatever the layout. Every rank calls `build_datasets`; the indices are
built by the first to come and mapped by the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

import numpy

from neox.config.epochs import split_bounds
from neox.config.errors import ConfigError
from neox.config.sections import DataConfig
from neox.data.checks import check_data, check_pairs
from neox.data.fill_in import fill_in
from neox.data.fingerprint import ORDER, Fact
from neox.data.index_cache import writable_folder
from neox.data.learned import has_labels
from neox.data.masking import masking
from neox.data.mixtures import USES, Part, mixture
from neox.data.packing import usable
from neox.data.reading import Reading
from neox.data.samples import (
    BlendedSamples,
    IndexedDataset,
    PairedSamples,
    Samples,
    SamplesConfig,
    Split,
    TokenizerFacts,
    WholeSamples,
)
from neox.parallel.topology import Topology
from neox.tokenizer.tokenizer import Tokenizer

SampleDataset = Samples | BlendedSamples

# A mixture may take a little more of one store than its weight says. This is megatron-core's own margin: the number of epochs,
# and with it the order of the samples, follows from it.
SURPLUS = 1.005

# what each train_impl does to the tokens of a sample, before they are read
CHANGES = {"normal": fill_in, "mlm": masking, "dpo": fill_in}


@dataclass(frozen=True)
class Datasets:
    """One dataset for each use, None where there is no data for it or no sample was asked for. `dataset[i]` is what
    `Reading.sample` makes of its tokens."""

    train: SampleDataset | None
    valid: SampleDataset | None
    test: SampleDataset | None


def build_datasets(
    data: DataConfig,
    seq_length: int,
    samples: tuple[int, int, int],
    tokenizer: Tokenizer,
    seed: int,
    topology: Topology,
    train_impl: str = "normal",
) -> Datasets:
    """The datasets of a run, each with at least as many samples as `samples` asks for (train, valid, test).

    train_impl: the objective, one of CHANGES. Raises ConfigError that names the file where token files are missing, damaged, of
    another tokenizer, or hold too little to train on. With `split`, a validation or test share too small for one sample is None.
    """
    paths = (
        data.training_paths,
        data.validation_paths,
        data.test_data_paths,
        data.neg_train_data_paths,
        data.neg_valid_data_paths,
    )
    prefixes = [prefix for given in paths for prefix in given or []] or [data.data_path]
    assert prefixes != [None], "resolve() fills data_path where no data key is given"
    parts = [part for use in USES for part in mixture(data, use)]
    parts += [part.rejected for part in parts if part.rejected is not None]
    labelled = [part for part in parts if part.labels is not None]
    check_data(data, prefixes, labelled, tokenizer)
    if data.mmap_warmup and topology.local_rank == 0:
        for prefix in [*dict.fromkeys(prefixes), *(part.labels for part in labelled)]:
            _read_through(Path(f"{prefix}.bin"))

    sampler = _Sampler(data, seq_length, tokenizer, seed, train_impl)
    if data.training_paths is None:
        return Datasets(*sampler.split(data.data_path, data.split, samples))
    return Datasets(
        *(
            sampler.mixture(parts, size, split) if size and (parts := mixture(data, split.name)) else None
            for size, split in zip(samples, Split, strict=True)
        )
    )


def orders(train: SampleDataset) -> list[Fact]:
    """The order in which the stores are read, for the fingerprint of a run."""
    parts = train.datasets if isinstance(train, BlendedSamples) else [train]
    return [Fact(ORDER, part.order, Path(part.dataset_path).name) for part in parts if part.order is not None]


class _Sampler:
    """Makes datasets that share sequence length, seed, packing and reading."""

    def __init__(self, data: DataConfig, seq_length: int, tokenizer: Tokenizer, seed: int, train_impl: str):
        self.seq_length = seq_length
        self.whole = data.pack_impl != "packed"
        self.allow_chopped = data.allow_chopped
        self.stores: dict[str, IndexedDataset] = {}
        self.settings = {
            "random_seed": seed,
            "sequence_length": seq_length,
            "tokenizer": TokenizerFacts(tokenizer.vocab_size, tokenizer.eod),
            "together": data.pack_impl == "pack_until_overflow",
            "change": CHANGES[train_impl](data, tokenizer, seed),
            "reading": Reading(
                seq_length, tokenizer.eod, data.eod_mask_loss, data.reset_attention_mask, data.reset_position_ids
            ),
        }

    def split(self, prefix: str, split: str, sizes: Sequence[int]) -> list[Samples | None]:
        """The shares of one store."""
        bounds = split_bounds(split, len(self._store(prefix)))
        return [
            self._samples(Part(prefix, 1.0), documents, size, kind, split)
            for documents, size, kind in zip(bounds, sizes, Split, strict=True)
        ]

    def mixture(self, parts: Sequence[Part], size: int, kind: Split) -> SampleDataset:
        """Whole stores mixed by their shares."""
        alone = len(parts) == 1
        datasets = [
            self._samples(
                part,
                (0, len(self._store(part.prefix))),
                size if alone else ceil(ceil(size * part.share) * SURPLUS),
                kind,
            )
            for part in parts
        ]
        if alone:
            return datasets[0]
        return BlendedSamples(datasets, [part.share for part in parts], size, self._config(parts[0].prefix))

    def _samples(
        self, part: Part, documents: tuple[int, int], size: int, kind: Split, split: str | None = None
    ) -> Samples | None:
        """`size` samples of the documents [begin, end) of a store: a share of it by `split`, or all of it."""
        if size == 0:
            return None
        numbers = numpy.arange(*documents, dtype=numpy.int32)
        if part.rejected is not None:
            check_pairs(part, self._store)
            numbers = self._usable(part.rejected, numbers)
        if self.whole:
            numbers = self._usable(part, numbers)
        lack = self._lack(part.prefix, numbers, kind)
        if lack is not None:
            if split is not None and kind is not Split.train:
                return None
            raise ConfigError(lack)
        build = WholeSamples if self.whole else Samples
        if part.rejected is not None:
            rejected = WholeSamples(*self._arguments(part.rejected, numbers, size, kind, split))
            build = partial(PairedSamples, rejected)
        return build(*self._arguments(part, numbers, size, kind, split))

    def _arguments(self, part: Part, numbers: numpy.ndarray, size: int, kind: Split, split: str | None) -> tuple:
        """What samples of these documents are made of."""
        labels = None if part.labels is None else self._store(part.labels)
        config = self._config(part.prefix, split)
        return labels, self._store(part.prefix), part.prefix, numbers, size, kind, config

    def _usable(self, part: Part, numbers: numpy.ndarray) -> numpy.ndarray:
        """The documents that can be in samples of whole documents: of a good length, and with something to learn."""
        lengths = self._store(part.prefix).sequence_lengths[numbers]
        numbers = numbers[usable(lengths, self.seq_length + 1, self.allow_chopped)]
        if part.labels is None:
            return numbers
        return numbers[has_labels(self._store(part.labels), self.seq_length)[numbers]]

    def _lack(self, prefix: str, numbers: numpy.ndarray, kind: Split) -> str | None:
        """Why the documents do not make a sample, None where they do."""
        if self.whole:
            if numbers.size:
                return None
            return (
                f"{prefix}: no document for {kind.name} has tokens to learn within seq_length {self.seq_length:,}"
                + ("" if self.allow_chopped else ", or all are longer (allow_chopped: true cuts them)")
            )
        tokens = int(self._store(prefix).sequence_lengths[numbers].sum(dtype=numpy.int64))
        if tokens > self.seq_length:
            return None
        return (
            f"{prefix}: {tokens:,} tokens for {kind.name} are fewer than one sample of seq_length + 1 = "
            f"{self.seq_length + 1:,}"
        )

    def _config(self, prefix: str, split: str | None = None) -> SamplesConfig:
        blend = (
            {"blend_per_split": [([prefix], None)] * 3}
            if split is None
            else {"blend": ([prefix], None), "split": split}
        )
        return SamplesConfig(
            **self.settings,
            **blend,
            # megatron-core is left to order the samples: `reading` says what is made of them
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
            index_folder=writable_folder(Path(prefix).parent / "index_cache"),
        )

    def _store(self, prefix: str) -> IndexedDataset:
        if prefix not in self.stores:
            self.stores[prefix] = IndexedDataset(prefix)
        return self.stores[prefix]


def _read_through(path: Path) -> None:
    """Read a file once, so that the page cache has it."""
    with open(path, "rb") as file:
        while file.read(1 << 24):
            pass
