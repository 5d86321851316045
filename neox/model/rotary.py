"""The angles of rotary positions (Su et al., 2021), and the formulas that stretch them to longer sequences.

Formulas and order of operations are those of transformers, so that imported weights meet the same angles to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from neox.config.sections import ModelConfig, RopeScaling
from neox.config.shapes import head_width


@dataclass(frozen=True)
class Rotary:
    """What the angles depend on. dims: how many dimensions of each head turn, in pairs half of them apart."""

    dims: int
    base: float
    max_positions: int
    scaling: RopeScaling = RopeScaling()

    @property
    def trained_positions(self) -> int:
        """Longest sequence before the scaling."""
        return self.scaling.original_max_position_embeddings or self.max_positions

    @property
    def is_dynamic(self) -> bool:
        """Whether the angles depend on how long the sequence has become."""
        return self.scaling.rope_type == "dynamic"


def rotary_of(model: ModelConfig) -> Rotary | None:
    """The rotary positions of a model, None where it has none."""
    if model.pos_emb != "rotary":
        return None
    dims = int(head_width(model) * model.rotary_pct)
    return Rotary(dims, model.rotary_emb_base, model.max_position_embeddings, model.rope_scaling or RopeScaling())


@lru_cache(maxsize=8)
def rotary_tables(rotary: Rotary, length: int, device: torch.device, seen: int = 0) -> tuple[Tensor, Tensor]:
    """cos and sin of the angles, (length, dims / 2) in fp32. seen: length of the sequence, where that matters.

    Made once for all layers, and not a buffer of a module: a cast of the model to bf16 would round the angles.
    """
    frequencies, factor = FREQUENCIES[rotary.scaling.rope_type](rotary, seen)
    angles = torch.arange(length, dtype=torch.float32).outer(frequencies).to(device)
    return angles.cos() * factor, angles.sin() * factor


def _plain(rotary: Rotary, base: float) -> Tensor:
    return 1.0 / (base ** (torch.arange(0, rotary.dims, 2, dtype=torch.float32) / rotary.dims))


def _default(rotary: Rotary, _seen: int) -> tuple[Tensor, float]:
    return _plain(rotary, rotary.base), 1.0


def _linear(rotary: Rotary, _seen: int) -> tuple[Tensor, float]:
    """Positions divided by the factor (Chen et al., 2023)."""
    return _plain(rotary, rotary.base) / rotary.scaling.factor, 1.0


def _dynamic(rotary: Rotary, seen: int) -> tuple[Tensor, float]:
    """A base that grows with the sequence, once it is longer than in training (NTK-aware, dynamic)."""
    factor, trained = rotary.scaling.factor, rotary.trained_positions
    growth = (factor * max(seen, trained) / trained) - (factor - 1)
    return _plain(rotary, rotary.base * growth ** (rotary.dims / (rotary.dims - 2))), 1.0


def _llama3(rotary: Rotary, _seen: int) -> tuple[Tensor, float]:
    """Long waves are divided by the factor, short ones kept, those between in between (Llama 3.1)."""
    scaling, frequencies = rotary.scaling, _plain(rotary, rotary.base)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    waves = 2 * math.pi / frequencies
    longest, shortest = rotary.trained_positions / low, rotary.trained_positions / high
    scaled = torch.where(waves > longest, frequencies / scaling.factor, frequencies)
    share = (rotary.trained_positions / waves - low) / (high - low)
    between = (1 - share) * scaled / scaling.factor + share * scaled
    return torch.where((waves >= shortest) & (waves <= longest), between, scaled), 1.0


def _yarn(rotary: Rotary, _seen: int) -> tuple[Tensor, float]:
    """Dimensions that turn seldom are divided by the factor, those that turn often kept (Peng et al., 2023)."""
    scaling, dims = rotary.scaling, rotary.dims

    def dimension(turns: float) -> float:
        return (dims * math.log(rotary.trained_positions / (turns * 2 * math.pi))) / (2 * math.log(rotary.base))

    first, last = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dims - 1)
    if first == last:
        last += 0.001
    kept = 1 - ((torch.arange(dims // 2, dtype=torch.float32) - first) / (last - first)).clamp(0, 1)
    powers = rotary.base ** (torch.arange(0, dims, 2, dtype=torch.float32) / dims)
    frequencies = 1.0 / (scaling.factor * powers) * (1 - kept) + 1.0 / powers * kept
    return frequencies, _yarn_factor(scaling)


def _yarn_factor(scaling: RopeScaling) -> float:
    def grown(scale: float) -> float:
        return 0.1 * scale * math.log(scaling.factor) + 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return grown(scaling.mscale) / grown(scaling.mscale_all_dim)
    return grown(1.0)


FREQUENCIES: dict[str, Callable[[Rotary, int], tuple[Tensor, float]]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
}
