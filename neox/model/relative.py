"""Positions that enter as a bias of the attention scores, by the distance between query and key: ALiBi, and T5's buckets.

A bias is -inf where a query does not see a key, so that it is the mask of causality and window in one.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neox.config.mup import position_bias_scale
from neox.config.sections import ModelConfig
from neox.model.kernels import Score
from neox.model.linear import Sharding, split_parameter
from neox.model.masks import distances, visible


def alibi_slopes(heads: int) -> list[float]:
    """Slope of each head (Press et al., 2021); a geometric series, filled up from the next finer one."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    return slopes + (alibi_slopes(2 * power)[::2][: heads - power] if power < heads else [])


@lru_cache(maxsize=4)
def _alibi(slopes: tuple[float, ...], past: int, total: int, window: int | None, device: torch.device) -> Tensor:
    """One tensor for all layers of a kind and all steps, which keep it for their backward passes."""
    distance = distances(past, total, device)
    bias = torch.tensor(slopes, device=device)[:, None, None] * -distance
    return bias.masked_fill(~visible(distance, window), -torch.inf)


@lru_cache(maxsize=4)
def _alibi_score(slopes: tuple[float, ...], device: torch.device) -> Score:
    """One function for all layers, which are one graph where they are compiled."""
    slope_of = torch.tensor(slopes, device=device)

    def lowered(score: Tensor, _row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score - slope_of[head] * (query - key)

    return lowered


class Alibi(nn.Module):
    """Scores fall with the distance, at a slope of each head's own; nothing is learned."""

    def __init__(self, model: ModelConfig, *, sharding: Sharding):
        super().__init__()
        heads = sharding.part(model.num_attention_heads)
        self.slopes = tuple(alibi_slopes(model.num_attention_heads)[sharding.rank * heads :][:heads])

    def forward(self, past: int, total: int, window: int | None, device: torch.device) -> Tensor:
        """(heads, total - past, total) fp32."""
        return _alibi(self.slopes, past, total, window, device)

    def score(self, device: torch.device) -> Score:
        """The same, without the mask, for FlexAttention: no bias of all pairs is held."""
        return _alibi_score(self.slopes, device)


@lru_cache(maxsize=2)
def distance_buckets(past: int, total: int, buckets: int, max_distance: int, device: torch.device) -> Tensor:
    """(total - past, total) int64: T5's buckets of distances, one each up to half of them, then logarithmic (Raffel et al., 2020)."""
    distance = distances(past, total, device).clamp(min=0)
    exact = buckets // 2
    far = (distance.clamp(min=1).float() / exact).log() / math.log(max_distance / exact) * (buckets - exact)
    return torch.where(distance < exact, distance, (exact + far.long()).clamp(max=buckets - 1))


class RelativeBias(nn.Module):
    """A learned bias for each head and bucket of distances; each block has its own."""

    def __init__(self, model: ModelConfig, *, sharding: Sharding):
        super().__init__()
        self.max_distance = model.rpe_max_distance
        self.scale = position_bias_scale(model)
        self.weight = split_parameter(sharding.part(model.num_attention_heads), model.rpe_num_buckets, dim=0)

    def forward(self, past: int, total: int, window: int | None, device: torch.device) -> Tensor:
        """(heads, total - past, total)."""
        buckets = distance_buckets(past, total, self.weight.shape[1], self.max_distance, device)
        bias = F.embedding(buckets, self.scale * self.weight.t()).permute(2, 0, 1)
        return bias.masked_fill(~visible(distances(past, total, device), window), -torch.inf)


def position_bias(model: ModelConfig, sharding: Sharding) -> Alibi | RelativeBias | None:
    """The bias that the configuration names, None where positions enter in another way."""
    kinds = {"alibi": Alibi, "rpe": RelativeBias}
    return kinds[model.pos_emb](model, sharding=sharding) if model.pos_emb in kinds else None
