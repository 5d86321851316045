"""Maximal update parametrisation (muP): what changes with the width, so that the best learning rate does not.

Yang et al., 2022 (Tensor Programs V, arXiv:2203.03466), table 8 for Adam, in multiples of a base model's numbers. With
m = hidden_size / mup_base_hidden_size:

    weights                        initial variance   learning rate   factor
    matrices of the blocks         / m                / m             1
    embeddings                     as in the base     lr              1
    output layer, tied or not      as in the base     lr              1 / m, of the logits
    norms, biases                  -                  lr              1

and attention's scores are divided by the width of a head, not by its square root. Where m is 1 nothing changes. Weights
decay by lr * weight_decay in each step at every width: the optimizer multiplies its rate into the decay, so the decay of the
blocks' matrices is multiplied by m. Knows nothing about torch.
"""

from __future__ import annotations

import math

from neox.config.sections import ModelConfig
from neox.config.shapes import head_width


def base_width(model: ModelConfig) -> int:
    """Width of the model that the hyperparameters were tuned on; its own without muP."""
    return model.mup_base_hidden_size if model.use_mup else model.hidden_size


def width_multiplier(model: ModelConfig) -> float:
    """How many times wider the model is than its base; 1 without muP."""
    return model.hidden_size / base_width(model)


def initial_scale(model: ModelConfig, *, grows: bool) -> float:
    """Factor of the base model's standard deviation; grows: whether both dimensions of the matrix grow with the width."""
    if not model.use_mup:
        return 1.0
    return model.mup_init_scale / (math.sqrt(width_multiplier(model)) if grows else 1.0)


def score_scale(model: ModelConfig) -> float:
    """Factor of attention's scores."""
    width = head_width(model)
    if not model.use_mup:
        return 1 / math.sqrt(width) if model.scale_attention else 1.0
    base = model.mup_base_hidden_size // model.mup_base_num_attention_heads
    at_base = 1 / math.sqrt(base) if model.scale_attention else 1.0
    return at_base * (base / width) / model.mup_attn_temp


def embedding_scale(model: ModelConfig) -> float:
    """Factor of the embeddings, positions among them."""
    return model.mup_embedding_mult if model.use_mup else 1.0


def position_bias_scale(model: ModelConfig) -> float:
    """Factor of the learned biases of relative positions."""
    return model.mup_rp_embedding_mult if model.use_mup else 1.0


def logits_scale(model: ModelConfig) -> float:
    """Factor of the logits."""
    return 1 / (width_multiplier(model) * model.mup_output_temp) if model.use_mup else 1.0
