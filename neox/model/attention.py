"""Self-attention: multi-head, grouped-query or multi-query, over all that came before, over a sliding window, or both ways."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from neox.config.mup import score_scale
from neox.config.sections import ModelConfig
from neox.config.shapes import has_qkv_bias, head_width, is_causal, kv_heads, qkv_width
from neox.model.cache import KeyValueCache
from neox.model.documents import Documents
from neox.model.heads import split_heads
from neox.model.kernels import Score, attend, kernel_for
from neox.model.linear import ColumnLinear, RowLinear, Sharding
from neox.model.masks import cached_mask, needs_mask, sequence_blocks
from neox.model.norms import norm
from neox.model.relative import RelativeBias, position_bias
from neox.model.rotary import rotary_of, rotary_tables
from neox.parallel.seeding import tensor_parallel_rng


class Attention(nn.Module):
    """Self-attention of one block: (seq, batch, hidden) -> (seq, batch, hidden).

    layer: index among the blocks, from 0; its place in the cache. window: tokens that one token sees, itself among them;
    None for all before it.
    """

    def __init__(self, model: ModelConfig, *, layer: int, window: int | None, sharding: Sharding):
        super().__init__()
        self.layer = layer
        self.window = window
        self.sharding = sharding
        self.groups = sharding.part(kv_heads(model))
        self.group_size = model.num_attention_heads // kv_heads(model)
        self.head_dim = head_width(model)
        self.rotary = rotary_of(model)
        self.causal = is_causal(model)
        self.scale = score_scale(model)
        self.dropout = model.attention_dropout
        self.query_key_value = ColumnLinear(
            model.hidden_size, qkv_width(model), bias=has_qkv_bias(model), sharding=sharding
        )
        self.query_norm = norm(model, self.head_dim, sharding.shared) if model.use_qk_layernorm else None
        self.key_norm = norm(model, self.head_dim, sharding.shared) if model.use_qk_layernorm else None
        self.position_bias = position_bias(model, sharding)
        self.blocks: BlockMask | None = None
        self.score: Score | None = None
        self.dense = RowLinear(
            model.hidden_size, model.hidden_size, bias=model.use_bias_in_attn_linear, sharding=sharding
        )

    def prepare(self, hidden: Tensor, cache: KeyValueCache | None, documents: Documents | None) -> None:
        """Have the masks at hand that a compiled graph cannot make; call it before each `forward`, with the block's arguments."""
        self.blocks = self.score = None
        apart = documents is not None and documents.numbers is not None
        biased = self.position_bias is not None
        if cache is not None or not (apart or biased or self.window):
            return
        kernel = kernel_for(
            "documents" if apart else "biased" if biased else "window",
            device=hidden.device,
            dtype=hidden.dtype,
            head_dim=self.head_dim,
            drops=self.training and self.dropout > 0,
        )
        flexible = kernel == "flex" and not isinstance(self.position_bias, RelativeBias)
        if flexible and biased:
            self.score = self.position_bias.score(hidden.device)
        seq = len(hidden) * (self.sharding.size if self.sharding.sequence else 1)
        if apart:
            documents.prepare(self.window, causal=self.causal, blocks=flexible)
        elif flexible and (biased or self.window < seq):
            self.blocks = sequence_blocks(seq, self.window, hidden.device)

    def forward(self, hidden: Tensor, cache: KeyValueCache | None = None, documents: Documents | None = None) -> Tensor:
        packed = self.query_key_value(hidden)
        # a split sequence is whole from here to the output projection
        seq, batch = packed.shape[:2]
        packed = packed.view(seq, batch, self.groups, self.group_size + 2, self.head_dim)
        if self.query_norm is not None:
            queries, keys, values = packed.split((self.group_size, 1, 1), dim=3)
            packed = torch.cat((self.query_norm(queries), self.key_norm(keys), values), dim=3)
        queries, keys, values = split_heads(packed, *self._angles(seq, cache, documents, hidden.device))
        seen = self._seen(seq, cache, documents, hidden.device)
        if cache is not None:
            keys, values = cache.append(self.layer, keys, values)
        if self.training and self.dropout:
            # the heads, and so the probabilities, are split over the ranks
            with tensor_parallel_rng(self.sharding.topology):
                mixed = attend(queries, keys, values, **seen, scale=self.scale, dropout=self.dropout)
        else:
            mixed = attend(queries, keys, values, **seen, scale=self.scale)
        return self.dense(mixed.permute(2, 0, 1, 3).reshape(seq, batch, -1))

    def _angles(
        self, seq: int, cache: KeyValueCache | None, documents: Documents | None, device: torch.device
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """cos and sin for the tokens at hand, (batch or 1, 1, 1, seq, dims / 2); None without rotary positions."""
        if self.rotary is None:
            return None, None
        length = max(seq if cache is None else cache.max_length, self.rotary.max_positions)
        if self.rotary.is_dynamic and cache is not None:
            # each row by its own length, whatever is batched with it; up to what it was trained for, they turn alike
            positions = cache.positions(seq).t()
            seen = [max(last + 1, self.rotary.trained_positions) for last in positions[:, -1].tolist()]
            tables = [self.tables(length, device, own) for own in seen]
            cos, sin = (torch.stack([table[row] for table, row in zip(kind, positions)]) for kind in zip(*tables))
            return cos[:, None, None], sin[:, None, None]
        cos, sin = self.tables(length, device, seq if self.rotary.is_dynamic else 0)
        if cache is not None:
            positions = cache.positions(seq).t()
        elif documents is not None and documents.positions is not None:
            positions = documents.positions
        else:
            return cos[None, None, None, :seq], sin[None, None, None, :seq]
        return cos[positions][:, None, None], sin[positions][:, None, None]

    def tables(self, length: int, device: torch.device, seen: int) -> tuple[Tensor, Tensor]:
        """cos and sin of all positions, each (length, dims / 2); a constant to torch's compiler (neox/model/compiled.py)."""
        return rotary_tables(self.rotary, length, device, seen)

    def _seen(
        self, seq: int, cache: KeyValueCache | None, documents: Documents | None, device: torch.device
    ) -> dict[str, Any]:
        """Which tokens see which, as `attend` takes it."""
        past = 0 if cache is None else cache.length
        apart = documents is not None and documents.numbers is not None
        if self.position_bias is not None and self.score is None:
            bias = self.position_bias(past, past + seq, self.window, device)
            if cache is not None and cache.padding is not None:
                bias = bias.masked_fill(~cached_mask(cache, seq, self.window), -torch.inf)
            if apart:
                bias = bias.masked_fill(~documents.mask(self.window), -torch.inf)
            return {"mask": bias}
        if apart:
            return {"mask": documents.mask(self.window), "score": self.score}
        if not self.causal:
            return {}
        if self.blocks is not None:
            return {"mask": self.blocks, "score": self.score}
        if cache is None:
            return {"causal": True, "window": self.window if self.window and self.window < seq else None}
        if needs_mask(cache, seq, self.window):
            return {"mask": cached_mask(cache, seq, self.window)}
        return {"causal": past == 0}
