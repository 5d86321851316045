"""Small models of transformers with random weights, and ours that were imported from them."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
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
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from neox.checkpoint.newest import newest
from neox.checkpoint.weights import load_weights
from neox.config.sections import ModelConfig
from neox.model.gpt import GPT
from support.models import topology_of

VOCAB = 131  # not a multiple of 128
SEQ = 24

# the plain formulas, which every family and shape has
EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}
CLASSES = {
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "mixtral": (MixtralConfig, MixtralForCausalLM),
    "gpt2": (GPT2Config, GPT2LMHeadModel),
    "gpt_neo": (GPTNeoConfig, GPTNeoForCausalLM),
}


def random_model(family: str, block_std: float, **keys) -> PreTrainedModel:
    """A model in which every weight, bias and norm matters; block_std: of the matrices of its blocks."""
    config_class, model_class = CLASSES[family]
    model = model_class._from_config(config_class(**keys), **EAGER).eval()
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


def tokens(rows: int = 2, length: int = SEQ, vocab: int = VOCAB) -> torch.Tensor:
    return torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(3))


def loaded(folder: Path) -> GPT:
    """The model of an imported folder, from its config.yml and its newest checkpoint alone."""
    values = yaml.safe_load((folder / "config.yml").read_text())
    model = ModelConfig(**{key: values[key] for key in ModelConfig.model_fields if key in values})
    gpt = GPT(model, vocab_size=model.vocab_size, topology=topology_of())
    load_weights(gpt, newest(folder, topology_of())[0], topology_of())
    return gpt.eval()


def assert_same_logits(gpt: GPT, reference: PreTrainedModel, ids: torch.Tensor) -> None:
    with torch.no_grad():
        found, expected = gpt(ids).transpose(0, 1), reference(ids).logits
    torch.testing.assert_close(found[..., : expected.shape[-1]], expected, rtol=0, atol=2e-5)
