"""Both ends of the model: token ids to hidden states, and hidden states to logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neox.config.mup import embedding_scale, logits_scale
from neox.config.sections import ModelConfig
from neox.model.block import hidden_dropout
from neox.model.cache import KeyValueCache
from neox.model.documents import Documents
from neox.model.linear import ColumnLinear, Sharding, VocabEmbedding, column_product, whole_parameter
from neox.model.norms import norm


class PositionEmbedding(nn.Module):
    """A learned vector for each position."""

    def __init__(self, positions: int, hidden_size: int, *, sharding: Sharding):
        super().__init__()
        self.sharding = sharding
        self.weight = whole_parameter(positions, hidden_size)

    def forward(self, positions: Tensor) -> Tensor:
        return F.embedding(positions, self.sharding.copied(self.weight))


def sinusoids(positions: Tensor, hidden_size: int) -> Tensor:
    """Fixed vectors of positions, fp32 (*positions, hidden): sines, then cosines (Vaswani et al., 2017), as in gpt-neox."""
    frequencies = 1.0 / 10_000 ** (torch.arange(0, hidden_size, 2, device=positions.device).float() / hidden_size)
    angles = positions.unsqueeze(-1).float() * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


class Embedding(nn.Module):
    """Token ids (batch, seq) -> hidden states (seq, batch, hidden), split along the sequence where it is.

    vocab_size: padded. positions: False for the copy of the words that a tied head holds on another pipeline stage.
    """

    def __init__(self, model: ModelConfig, *, vocab_size: int, sharding: Sharding, positions: bool = True):
        super().__init__()
        self.sharding = sharding
        self.dropout = model.hidden_dropout
        self.scale = embedding_scale(model)
        self.logits_scale = logits_scale(model)
        self.word_embeddings = VocabEmbedding(vocab_size, model.hidden_size, sharding=sharding)
        self.sinusoidal = positions and model.pos_emb == "sinusoidal"
        self.position_embeddings = None
        if positions and model.pos_emb == "learned":
            self.position_embeddings = PositionEmbedding(
                model.max_position_embeddings, model.hidden_size, sharding=sharding
            )

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None, documents: Documents | None = None) -> Tensor:
        hidden = self.word_embeddings(tokens.t())
        if self.position_embeddings is not None:
            hidden = hidden + self.position_embeddings(self._positions(tokens, cache, documents))
        elif self.sinusoidal:
            positions = self._positions(tokens, cache, documents)
            hidden = hidden + sinusoids(positions, hidden.shape[-1]).to(hidden.dtype)
        hidden = scaled(hidden, self.scale)
        return hidden_dropout(hidden, self.dropout, self.training, self.sharding)

    def _positions(self, tokens: Tensor, cache: KeyValueCache | None, documents: Documents | None) -> Tensor:
        """(seq, batch or 1) int64: positions of the tokens this rank holds."""
        seq = tokens.shape[1]
        if cache is not None:
            return cache.positions(seq)
        if documents is not None and documents.positions is not None:
            positions = documents.positions.t()
        else:
            positions = torch.arange(seq, device=tokens.device).unsqueeze(1)
        if not self.sharding.sequence:
            return positions
        part = self.sharding.part(seq)
        return positions[self.sharding.rank * part :][:part]


class FinalNorm(nn.Module):
    """The norm after the last block."""

    def __init__(self, model: ModelConfig, *, sharding: Sharding):
        super().__init__()
        self.norm = norm(model, model.hidden_size, sharding.copied)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden)


class Head(nn.Module):
    """Output layer with a weight of its own: hidden states -> logits (seq, batch, vocab_size / tensor_size)."""

    def __init__(self, model: ModelConfig, *, vocab_size: int, sharding: Sharding):
        super().__init__()
        self.logits_scale = logits_scale(model)
        self.final_linear = ColumnLinear(model.hidden_size, vocab_size, bias=False, sharding=sharding)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.final_linear(scaled(hidden, self.logits_scale))


def tied_head(embedding: Embedding, hidden: Tensor) -> Tensor:
    """Output layer that uses the word embeddings: hidden states -> logits (seq, batch, vocab_size / tensor_size)."""
    hidden = scaled(hidden, embedding.logits_scale)
    return column_product(hidden, embedding.word_embeddings.weight, None, embedding.sharding)


def scaled(hidden: Tensor, factor: float) -> Tensor:
    """Hidden states times a factor of muP; they themselves where it is 1, as it is without."""
    return hidden if factor == 1 else hidden * factor
