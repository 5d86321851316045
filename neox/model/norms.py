"""Normalisation over the hidden dimension. torch computes both in fp32 inside, also for fp16 and bf16 hidden states."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from neox.config.sections import ModelConfig
from neox.model.linear import Sharding, whole_parameter


class LayerNorm(nn.Module):
    """Subtract the mean, divide by the standard deviation, scale and shift."""

    def __init__(self, size: int, epsilon: float, sharding: Sharding):
        super().__init__()
        self.epsilon = epsilon
        self.sharding = sharding
        self.weight = whole_parameter(size)
        self.bias = whole_parameter(size)

    def forward(self, hidden: Tensor) -> Tensor:
        weight, bias = self.sharding.copied(self.weight), self.sharding.copied(self.bias)
        return F.layer_norm(hidden, weight.shape, weight, bias, self.epsilon)


class RMSNorm(nn.Module):
    """Divide by the root mean square, and scale."""

    def __init__(self, size: int, epsilon: float, sharding: Sharding):
        super().__init__()
        self.epsilon = epsilon
        self.sharding = sharding
        self.weight = whole_parameter(size)

    def forward(self, hidden: Tensor) -> Tensor:
        weight = self.sharding.copied(self.weight)
        return F.rms_norm(hidden, weight.shape, weight, self.epsilon)


def norm(model: ModelConfig, sharding: Sharding) -> nn.Module:
    """The norm that the configuration names, over hidden_size."""
    if model.norm == "rmsnorm":
        return RMSNorm(model.hidden_size, model.rms_norm_epsilon, sharding)
    return LayerNorm(model.hidden_size, model.layernorm_epsilon, sharding)
