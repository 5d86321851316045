"""Causal self-attention, global or over a sliding window, over torch's scaled_dot_product_attention.

The fused projection is interleaved by head, as in gpt-neox: rows [head 0: query, key, value; head 1: ...], so tensor
ranks hold whole heads. Causality and windows live here alone: nothing else knows about masks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neox.config.sections import ModelConfig
from neox.model.cache import KeyValueCache
from neox.model.linear import ColumnLinear, RowLinear, Sharding
from neox.model.positions import rotary_tables, split_heads
from neox.parallel.seeding import tensor_parallel_rng

AttentionKind = Literal["global", "local"]


def visible(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """(queries, keys) bool: which positions of `keys` each of `queries` may see; itself and what came before it."""
    distance = queries.unsqueeze(1) - keys.unsqueeze(0)
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


@lru_cache(maxsize=4)
def window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """(length, length) bool mask of local attention over a whole sequence; made once for all layers and steps."""
    positions = torch.arange(length, device=device)
    return visible(positions, positions, window)


class Attention(nn.Module):
    """Self-attention of one block: (seq, batch, hidden) -> (seq, batch, hidden).

    layer: index among the blocks, from 0; its place in the cache.
    """

    def __init__(self, model: ModelConfig, *, layer: int, kind: AttentionKind, sharding: Sharding):
        super().__init__()
        self.layer = layer
        self.sharding = sharding
        self.heads = sharding.part(model.num_attention_heads)
        self.head_dim = model.hidden_size // model.num_attention_heads
        self.window = model.window_size if kind == "local" else None
        self.rotary_dims = int(self.head_dim * model.rotary_pct) if model.pos_emb == "rotary" else 0
        self.rotary_base = model.rotary_emb_base
        self.max_positions = model.max_position_embeddings
        self.dropout = model.attention_dropout
        bias = model.use_bias_in_attn_linear
        self.query_key_value = ColumnLinear(model.hidden_size, 3 * model.hidden_size, bias=bias, sharding=sharding)
        self.dense = RowLinear(model.hidden_size, model.hidden_size, bias=bias, sharding=sharding)

    def forward(self, hidden: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        packed = self.query_key_value(hidden)
        # a split sequence is whole from here to the output projection
        seq, batch = packed.shape[:2]
        packed = packed.view(seq, batch, self.heads, 3, self.head_dim)
        # (batch, heads, seq, head_dim) each
        queries, keys, values = split_heads(packed, *self._angles(seq, cache, hidden.device))
        mask = None
        if cache is not None:
            keys, values = cache.append(self.layer, keys, values)
            mask = self._cached_mask(cache, seq)
        elif self.window is not None and self.window < seq:
            mask = window_mask(seq, self.window, hidden.device)
        dropout = self.dropout if self.training else 0.0
        causal = mask is None and (cache is None or cache.length == 0)
        if dropout:
            # the heads, and so the probabilities, are split over the ranks
            with tensor_parallel_rng(self.sharding.topology):
                mixed = F.scaled_dot_product_attention(queries, keys, values, mask, dropout, is_causal=causal)
        else:
            mixed = F.scaled_dot_product_attention(queries, keys, values, mask, is_causal=causal)
        return self.dense(mixed.permute(2, 0, 1, 3).reshape(seq, batch, self.heads * self.head_dim))

    def _angles(
        self, seq: int, cache: KeyValueCache | None, device: torch.device
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """cos and sin for the tokens at hand, (batch or 1, 1, seq, dims / 2); None without rotary positions."""
        if not self.rotary_dims:
            return None, None
        length = max(seq if cache is None else cache.max_length, self.max_positions)
        cos, sin = rotary_tables(length, self.rotary_dims, self.rotary_base, device)
        if cache is None:
            return cos[None, None, :seq], sin[None, None, :seq]
        positions = cache.positions(seq).t()
        return cos[positions][:, None], sin[positions][:, None]

    def _cached_mask(self, cache: KeyValueCache, new: int) -> Tensor | None:
        """(batch or 1, 1, new, keys) bool, or None where plain causality, or no mask at all, says the same."""
        stop = cache.length + new
        unlimited = self.window is None or stop <= self.window
        if cache.padding is None and unlimited and (cache.length == 0 or new == 1):
            return None
        keys = torch.arange(stop, device=cache.device)
        queries = keys[cache.length :]
        mask = visible(queries, keys, self.window)[None, None]
        if cache.padding is not None:
            real = (keys >= cache.padding[:, None])[:, None, None]
            # padding sees itself, so that its rows of the softmax are not empty (they would be NaN, and NaN spreads)
            mask = mask & (real | (queries[:, None] == keys))
        return mask
