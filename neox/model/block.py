"""One transformer block: attention and MLP, each behind its own norm, added to the residual stream."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from neox.config.sections import ModelConfig
from neox.model.attention import Attention
from neox.model.cache import KeyValueCache
from neox.model.documents import Documents
from neox.model.linear import ColumnLinear, RowLinear, Sharding
from neox.model.norms import norm
from neox.parallel.seeding import tensor_parallel_rng


def hidden_dropout(hidden: Tensor, probability: float, training: bool, sharding: Sharding) -> Tensor:
    """Dropout of hidden states: the same mask on all tensor ranks, or, of a split sequence, one of its own on each."""
    if not (training and probability):
        return hidden
    if not sharding.sequence:
        return F.dropout(hidden, probability)
    with tensor_parallel_rng(sharding.topology):
        return F.dropout(hidden, probability)


class Block(nn.Module):
    """Pre-norm block: (seq, batch, hidden) -> (seq, batch, hidden).

    Sequential: attention first, then the MLP on its result. Parallel (`gpt_j_residual`): both read the block's input,
    each through its own norm, or through one (`gpt_j_tied`), and are added together. window: see Attention. mlp: MLP or
    MixtureOfExperts.
    """

    def __init__(self, model: ModelConfig, *, layer: int, window: int | None, mlp: type[nn.Module], sharding: Sharding):
        super().__init__()
        self.parallel = model.gpt_j_residual
        self.dropout = model.hidden_dropout
        self.sharding = sharding
        self.input_layernorm = norm(model, model.hidden_size, sharding.copied)
        self.attention = Attention(model, layer=layer, window=window, sharding=sharding)
        self.post_attention_layernorm = None if model.gpt_j_tied else norm(model, model.hidden_size, sharding.copied)
        self.mlp = mlp(model, sharding=sharding)

    def forward(
        self,
        hidden: Tensor,
        cache: KeyValueCache | None = None,
        documents: Documents | None = None,
        losses: list[Tensor] | None = None,
    ) -> Tensor:
        """losses: receives the auxiliary loss of a mixture of experts."""
        normed = self.input_layernorm(hidden)
        attended = self._dropout(self.attention(normed, cache, documents))
        if self.parallel:
            if self.post_attention_layernorm is not None:
                normed = self.post_attention_layernorm(hidden)
            return hidden + attended + self._dropout(self.mlp(normed, losses))
        hidden = hidden + attended
        return hidden + self._dropout(self.mlp(self.post_attention_layernorm(hidden), losses))

    def _dropout(self, hidden: Tensor) -> Tensor:
        return hidden_dropout(hidden, self.dropout, self.training, self.sharding)


def block_matrices(module: nn.Module) -> set[nn.Parameter]:
    """The matrices of the blocks in a module, or of a block: both their dimensions grow with the width."""
    blocks = [part for part in module.modules() if isinstance(part, Block)]
    linears = (part for block in blocks for part in block.modules() if isinstance(part, (ColumnLinear, RowLinear)))
    return {linear.weight for linear in linears}
