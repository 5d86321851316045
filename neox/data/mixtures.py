"""Which token files training, validation and test read, and how much of each. Knows nothing about samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from neox.config.errors import ConfigError
from neox.config.sections import DataConfig
from neox.data.store import count_documents

USES = ("train", "valid", "test")


@dataclass(frozen=True)
class Part:
    """One pair of token files in a mixture."""

    prefix: str
    share: float  # of the samples; those of a mixture sum to 1
    labels: str | None = None  # prefix of the pair that holds its labels; without one, each token is a label
    rejected: Part | None = None  # where documents are answers: those that they are preferred to, one by one


def mixture(data: DataConfig, use: str) -> list[Part]:
    """What `train`, `valid` or `test` reads of lists of paths, empty where there is no list; equal shares without weights.

    `weight_by_num_documents` takes the documents to the power of `weighted_sampler_alpha` (Conneau et al. 2020,
    arXiv:1911.02116, section 3.1). A pair of weight 0 is left out. Raises ConfigError that names the key where the weights do not
    fit the paths.
    """
    side = "pos_" if data.are_pairs else ""
    prefixes = getattr(data, f"{side}{use}_data_paths", None) or []  # no pairs for tests
    if data.weight_by_num_documents:
        # a power of the shares: one of the counts themselves could be beyond what a float holds
        counts = [count_documents(prefix) for prefix in prefixes]
        weights = [(count / sum(counts)) ** data.weighted_sampler_alpha for count in counts]
    else:
        weights = getattr(data, f"{use}_data_weights") or [1.0] * len(prefixes)
    if len(weights) != len(prefixes) or (prefixes and sum(weights) == 0):
        raise ConfigError(
            f"{use}_data_weights: it takes one weight for each of the {len(prefixes)} paths, and not all of them 0"
        )
    shares = [weight / sum(weights) for weight in weights]
    parts = _parts(data, f"{side}{use}", shares)
    if data.are_pairs:
        parts = [replace(part, rejected=other) for part, other in zip(parts, _parts(data, f"neg_{use}", shares))]
    return [part for part in parts if part.share > 0]


def _parts(data: DataConfig, use: str, shares: Sequence[float]) -> list[Part]:
    """The pairs of token files, and their labels, that the keys of a use name."""
    prefixes = getattr(data, f"{use}_data_paths", None) or []
    labels = getattr(data, f"{use}_label_data_paths", None) or [None] * len(prefixes)
    return list(map(Part, prefixes, shares, labels))
