"""Normalisation over the last dimension, in fp32 inside also for fp16 and bf16 hidden states. A table by name."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from neox.config.sections import ModelConfig
from neox.model.linear import whole_parameter

# how a parameter that every tensor rank holds is used, so that its gradient is that of all ranks: a method of Sharding
Use = Callable[[Tensor], Tensor]


class Norm(nn.Module):
    """A norm of `size` dimensions; its weight starts at 1 and its bias at 0, where it has them."""

    def __init__(self, size: int, epsilon: float, use: Use):
        super().__init__()
        self.size = size
        self.epsilon = epsilon
        self.use = use


class LayerNorm(Norm):
    """Subtract the mean, divide by the standard deviation, scale and shift."""

    def __init__(self, size: int, epsilon: float, use: Use):
        super().__init__(size, epsilon, use)
        self.weight = whole_parameter(size)
        self.bias = whole_parameter(size)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.layer_norm(hidden, (self.size,), self.use(self.weight), self.use(self.bias), self.epsilon)


class NonParametricLayerNorm(Norm):
    """Subtract the mean, divide by the standard deviation."""

    def forward(self, hidden: Tensor) -> Tensor:
        return F.layer_norm(hidden, (self.size,), eps=self.epsilon)


class RMSNorm(Norm):
    """Divide by the root mean square, and scale (Zhang and Sennrich, 2019)."""

    def __init__(self, size: int, epsilon: float, use: Use):
        super().__init__(size, epsilon, use)
        self.weight = whole_parameter(size)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden, (self.size,), self.use(self.weight), self.epsilon)


class ScaleNorm(Norm):
    """Divide by the Euclidean length, and scale by one number (Nguyen and Salazar, 2019)."""

    def __init__(self, size: int, epsilon: float, use: Use):
        super().__init__(size, epsilon, use)
        self.weight = whole_parameter(1)

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.float()
        lengths = wide.norm(dim=-1, keepdim=True).clamp(min=self.epsilon)
        return (wide / lengths).to(hidden.dtype) * self.use(self.weight)


# the norm, and the key of its epsilon
NORMS: dict[str, tuple[type[Norm], str]] = {
    "layernorm": (LayerNorm, "layernorm_epsilon"),
    "non_parametric_layernorm": (NonParametricLayerNorm, "layernorm_epsilon"),
    "rmsnorm": (RMSNorm, "rms_norm_epsilon"),
    "scalenorm": (ScaleNorm, "scalenorm_epsilon"),
}


def norm(model: ModelConfig, size: int, use: Use) -> Norm:
    """The norm that the configuration names, over `size` dimensions."""
    kind, epsilon = NORMS[model.norm]
    return kind(size, getattr(model, epsilon), use)
