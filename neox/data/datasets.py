"""From token files to datasets of training samples: splits, mixtures, and the checks that come before the first step.

Knows nothing about batches or ranks: sample i is the same whatever the layout. Every rank calls `build_datasets`; the indices are
built by the first to come and mapped by the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy

from neox.config.epochs import split_bounds
from neox.config.errors import ConfigError
from neox.config.sections import DataConfig
from neox.data.index_cache import writable_folder
from neox.data.mixtures import USES, Part, mixture
from neox.data.samples import (
    BlendedSamples,
    IndexedDataset,
    LabelledSamples,
    Samples,
    SamplesConfig,
    Split,
    TokenizerFacts,
)
from neox.data.store import StoreFacts, check_store, read_lengths
from neox.parallel.topology import Topology
from neox.tokenizer.tokenizer import Tokenizer

SampleDataset = Samples | BlendedSamples

# A mixture may take a little more of one store than its weight says. This is megatron-core's own margin: the number of epochs,
# and with it the order of the samples, follows from it.
SURPLUS = 1.005

TOKENS_LOOKED_AT = 1_000_000

NO_LABEL = -100  # marks a token that is not learned, as in gpt-neox and torch


@dataclass(frozen=True)
class Datasets:
    """One dataset for each use, None where there is no data for it or no sample was asked for.

    `dataset[i]` has `tokens` and `labels`, (seq_length,) int64, and `loss_mask`, (seq_length,) float32.
    """

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
) -> Datasets:
    """The datasets of a run, each with at least as many samples as `samples` asks for (train, valid, test).

    Raises ConfigError that names the file where token files are missing, damaged, of another tokenizer, or hold too little to
    train on. With `split`, a validation or test share too small for one sample is None.
    """
    if data.eod_mask_loss and tokenizer.eod is None:
        raise ConfigError("eod_mask_loss: the tokenizer has no end-of-document token")
    paths = (data.train_data_paths, data.valid_data_paths, data.test_data_paths)
    prefixes = [prefix for given in paths for prefix in given or []] or [data.data_path]
    assert prefixes != [None], "resolve() fills data_path where no data key is given"
    facts = _check_stores(prefixes, tokenizer.vocab_size)
    labelled = [part for use in USES for part in mixture(data, use) if part.labels is not None]
    for part in labelled:
        _check_labels(part, facts[part.prefix], tokenizer.vocab_size)
    if data.mmap_warmup and topology.local_rank == 0:
        for prefix in [*facts, *(part.labels for part in labelled)]:
            _read_through(Path(f"{prefix}.bin"))

    sampler = _Sampler(seq_length, seed, data.eod_mask_loss, TokenizerFacts(tokenizer.vocab_size, tokenizer.eod))
    if data.train_data_paths is None:
        return Datasets(*sampler.split(data.data_path, data.split, samples))
    return Datasets(
        *(
            sampler.mixture(parts, size, split) if size and (parts := mixture(data, split.name)) else None
            for size, split in zip(samples, Split, strict=True)
        )
    )


class _Sampler:
    """Makes datasets that share sequence length, seed and loss mask."""

    def __init__(self, seq_length: int, seed: int, eod_mask_loss: bool, tokenizer: TokenizerFacts):
        self.seq_length = seq_length
        self.seed = seed
        self.eod_mask_loss = eod_mask_loss
        self.tokenizer = tokenizer
        self.stores: dict[str, IndexedDataset] = {}

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
        return BlendedSamples(datasets, [part.share for part in parts], size, self._settings(parts[0].prefix))

    def _samples(
        self, part: Part, documents: tuple[int, int], size: int, kind: Split, split: str | None = None
    ) -> Samples | None:
        """`size` samples of the documents [begin, end) of a store: a share of it by `split`, or all of it."""
        if size == 0:
            return None
        store, (begin, end) = self._store(part.prefix), documents
        tokens = int(store.sequence_lengths[begin:end].sum(dtype=numpy.int64))
        if tokens < self.seq_length + 1:
            if split is not None and kind is not Split.train:
                return None
            raise ConfigError(
                f"{part.prefix}: {tokens:,} tokens for {kind.name} are fewer than one sample of seq_length + 1 = "
                f"{self.seq_length + 1:,}"
            )
        numbers = numpy.arange(begin, end, dtype=numpy.int32)
        arguments = store, part.prefix, numbers, size, kind, self._settings(part.prefix, split)
        return Samples(*arguments) if part.labels is None else LabelledSamples(self._store(part.labels), *arguments)

    def _settings(self, prefix: str, split: str | None = None) -> SamplesConfig:
        blend = (
            {"blend_per_split": [([prefix], None)] * 3}
            if split is None
            else {"blend": ([prefix], None), "split": split}
        )
        return SamplesConfig(
            random_seed=self.seed,
            sequence_length=self.seq_length,
            **blend,
            tokenizer=self.tokenizer,
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=self.eod_mask_loss,
            create_attention_mask=False,
            index_folder=writable_folder(Path(prefix).parent / "index_cache"),
        )

    def _store(self, prefix: str) -> IndexedDataset:
        if prefix not in self.stores:
            self.stores[prefix] = IndexedDataset(prefix)
        return self.stores[prefix]


def _check_stores(prefixes: Sequence[str], vocab_size: int) -> dict[str, StoreFacts]:
    """Check every pair of token files, and that its first tokens are of this vocabulary; all complaints are raised together."""
    facts, complaints = {}, []
    for prefix in dict.fromkeys(prefixes):
        try:
            facts[prefix] = check_store(prefix)
            _check_vocabulary(prefix, facts[prefix], 0, vocab_size)
        except ConfigError as error:
            complaints.extend(error.complaints)
    if complaints:
        raise ConfigError(complaints)
    return facts


def _check_labels(part: Part, facts: StoreFacts, vocab_size: int) -> None:
    """Check the token files that hold the labels of others, whose facts these are."""
    found = check_store(part.labels)
    lengths = read_lengths(part.prefix), read_lengths(part.labels)
    if found.sequences != facts.sequences or not all(map(numpy.array_equal, *lengths)):
        raise ConfigError(
            f"{part.labels}.idx: its sequences are not as long as those of {part.prefix}.idx, which it labels: "
            "they were not made together"
        )
    _check_vocabulary(part.labels, found, NO_LABEL, vocab_size)


def _check_vocabulary(prefix: str, facts: StoreFacts, lowest: int, vocab_size: int) -> None:
    """Check that the first tokens are ids of the tokenizer, or `lowest`, which may be less than 0."""
    head = numpy.fromfile(f"{prefix}.bin", dtype=facts.dtype, count=TOKENS_LOOKED_AT)
    if head.min() < lowest or head.max() >= vocab_size:
        outside = head.max() if head.min() >= lowest else head.min()
        raise ConfigError(
            f"{prefix}.bin: token {outside} is not among the {vocab_size:,} ids of the tokenizer: it was made with another one"
        )


def _read_through(path: Path) -> None:
    """Read a file once, so that the page cache has it."""
    with open(path, "rb") as file:
        while file.read(1 << 24):
            pass
