"""The MLP of a block: widen, bend, narrow."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from neox.config.sections import ModelConfig
from neox.config.shapes import ffn_width
from neox.model.linear import ColumnLinear, RowLinear, Sharding


def swiglu(gate_and_value: Tensor) -> Tensor:
    """silu(gate) * value, for the two stacked along the last dimension."""
    gate, value = gate_and_value.chunk(2, dim=-1)
    return F.silu(gate) * value


# function and number of projections it reads
ACTIVATIONS = {"gelu": (F.gelu, 1), "swiglu": (swiglu, 2)}


class MLP(nn.Module):
    """(seq, batch, hidden) -> (seq, batch, hidden) through an inner width split over the tensor ranks.

    In a gated MLP `dense_h_to_4h.weight` is (2, width, hidden): the gate, then the value.
    """

    def __init__(self, model: ModelConfig, *, sharding: Sharding):
        super().__init__()
        self.activation, groups = ACTIVATIONS[model.activation]
        width, bias = ffn_width(model), model.use_bias_in_mlp
        self.dense_h_to_4h = ColumnLinear(model.hidden_size, width, bias=bias, sharding=sharding, groups=groups)
        self.dense_4h_to_h = RowLinear(width, model.hidden_size, bias=bias, sharding=sharding)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.activation(self.dense_h_to_4h(hidden)))
