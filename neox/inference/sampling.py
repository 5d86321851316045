"""Choose the next token from logits. Pure: randomness comes in as numbers, and nothing here knows a model or a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How to choose: the likeliest token where all three are 0, else a draw from the distribution they leave.

    temperature: divides the logits; 0 with a top_k or top_p means 1. top_k: how many of the likeliest tokens stay, 0 means all.
    top_p: the likeliest tokens whose probabilities together reach this stay, at least one; 0 and 1 mean all.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 0.0

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0 and self.top_k == 0 and self.top_p == 0


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities (batch, vocab) in float64 that the next token is drawn from: temperature, then top_k, then top_p."""
    # float64: the sum over a large vocabulary decides between neighbours in `draw`
    probabilities = torch.softmax(logits.double() / (sampling.temperature or 1.0), dim=-1)
    if sampling.top_k == 0 and sampling.top_p in (0, 1):
        return probabilities
    ranked, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        ranked[:, sampling.top_k :] = 0
    if sampling.top_p:
        likelier = ranked.cumsum(dim=-1) - ranked
        ranked[likelier >= sampling.top_p * ranked.sum(dim=-1, keepdim=True)] = 0
    kept = torch.zeros_like(probabilities).scatter(-1, tokens, ranked)
    return kept / kept.sum(dim=-1, keepdim=True)


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Token ids (batch,) drawn from (batch, vocab) float64 by one number of [0, 1) a row; never one of probability 0."""
    cumulative = probabilities.cumsum(dim=-1)
    # a number of 53 bits below 1 times the total rounds to less than the total, so there is a sum above the target, and
    # the first one belongs to a possible token
    targets = uniforms.unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True).squeeze(-1)


def sample(logits: Tensor, sampling: Sampling, uniforms: Tensor) -> Tensor:
    """Next token ids (batch,) from logits (batch, vocab); `uniforms` (batch,) float64 decides, unless greedy."""
    if sampling.greedy:
        return logits.argmax(dim=-1)
    return draw(distribution(logits, sampling), uniforms)


def sample_each(logits: Tensor, samplings: Sequence[Sampling], uniforms: Tensor) -> Tensor:
    """Next token ids (batch,) as `sample` has them, each row in its own way; rows of one way are chosen together."""
    rows_of: dict[Sampling, list[int]] = {}
    for row, sampling in enumerate(samplings):
        rows_of.setdefault(sampling, []).append(row)
    if len(rows_of) == 1:
        return sample(logits, samplings[0], uniforms)
    chosen = torch.empty(len(samplings), dtype=torch.int64, device=logits.device)
    for sampling, rows in rows_of.items():
        chosen[rows] = sample(logits[rows], sampling, uniforms[rows])
    return chosen
