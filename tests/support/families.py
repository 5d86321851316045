"""Small models of transformers with random weights, saved as their own library saves them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

CLASSES = {
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "gpt2": (GPT2Config, GPT2LMHeadModel),
    "gpt_neo": (GPTNeoConfig, GPTNeoForCausalLM),
}


def random_model(family: str, block_std: float, **keys) -> PreTrainedModel:
    """A model in which every weight, bias and norm matters; block_std: of the matrices of its blocks."""
    config_class, model_class = CLASSES[family]
    # eager attention is the plain formula, which every family has
    model = model_class._from_config(config_class(**keys), attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1:
            parameter.data.copy_(0.3 * values + (1 if name.endswith("weight") else 0))
        else:
            parameter.data.copy_(values * (block_std if ".0." in name or ".1." in name else 0.15))
    return model


def saved(folder: Path, family: str, block_std: float = 0.15, **keys) -> PreTrainedModel:
    """A random model, written to the folder too."""
    model = random_model(family, block_std, **keys)
    model.save_pretrained(folder)
    return model
