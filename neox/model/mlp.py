"""The MLP of a block: widen, bend, narrow. What bends is a choice from a table."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neox.config.sections import ModelConfig
from neox.config.shapes import ffn_width, is_gated
from neox.model.linear import ColumnLinear, RowLinear, Sharding

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "softsign": F.softsign,
    "mish": F.mish,
}

# function of the gate, which multiplies the value (Shazeer, 2020: GLU variants)
GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "geglu": F.gelu,
    "swiglu": F.silu,
    "reglu": F.relu,
    "bilinear": lambda gate: gate,
    "glu": torch.sigmoid,
}


class MLP(nn.Module):
    """(seq, batch, hidden) -> (seq, batch, hidden) through an inner width split over the tensor ranks.

    In a gated MLP `dense_h_to_4h.weight` is (2, width, hidden): the gate, then the value.
    """

    def __init__(self, model: ModelConfig, *, sharding: Sharding):
        super().__init__()
        self.gated = is_gated(model)
        self.activation = (GATES if self.gated else ACTIVATIONS)[model.activation]
        width, bias, groups = ffn_width(model), model.use_bias_in_mlp, 2 if self.gated else 1
        self.dense_h_to_4h = ColumnLinear(model.hidden_size, width, bias=bias, sharding=sharding, groups=groups)
        self.dense_4h_to_h = RowLinear(width, model.hidden_size, bias=bias, sharding=sharding)

    def forward(self, hidden: Tensor, losses: list[Tensor] | None = None) -> Tensor:  # noqa: ARG002
        """losses: where a mixture of experts, which takes the place of this MLP, leaves its own; unused here."""
        inner = self.dense_h_to_4h(hidden)
        if not self.gated:
            return self.dense_4h_to_h(self.activation(inner))
        gate, value = inner.chunk(2, dim=-1)
        return self.dense_4h_to_h(self.activation(gate) * value)
