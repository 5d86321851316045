"""Released shapes, on the meta device: as many parameters here as in transformers, from the sections and as built."""

import pytest
import torch
from support.families import CLASSES

from neox.config.sizes import parameter_counts
from neox.interop.imports import skeleton
from neox.interop.keys import differences, read_model
from neox.interop.names import FAMILIES


def neox(layers: int, hidden: int, heads: int, vocab_size: int = 50_304) -> tuple[str, dict]:
    return "gpt_neox", {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "vocab_size": vocab_size,
    }


def neo(layers: int, hidden: int, heads: int) -> tuple[str, dict]:
    kinds = [[["global", "local"], layers // 2]]
    return "gpt_neo", {"num_layers": layers, "hidden_size": hidden, "num_heads": heads, "attention_types": kinds}


def gpt2(layers: int, hidden: int, heads: int) -> tuple[str, dict]:
    return "gpt2", {"n_layer": layers, "n_embd": hidden, "n_head": heads}


def llama(layers: int, hidden: int, heads: int, inner: int, kv_heads: int | None = None, **keys) -> tuple[str, dict]:
    return "llama", {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads or heads,
        "intermediate_size": inner,
        **keys,
    }


LLAMA3 = {"vocab_size": 128_256, "rope_theta": 500_000.0}
MISTRAL = {"num_key_value_heads": 8, "vocab_size": 32_000, "sliding_window": 4096}
# name: the shape, and the count where it is published
RELEASED = {
    "neo-125m": (neo(12, 768, 12), 125_198_592),
    "neo-1.3b": (neo(24, 2048, 16), 1_315_575_808),
    "neo-2.7b": (neo(32, 2560, 20), 2_651_307_520),
    "neox-20b": (neox(44, 6144, 64, 50_432), 20_554_567_680),
    "pythia-14m": (neox(6, 128, 4), 14_067_712),
    "pythia-70m": (neox(6, 512, 8), 70_426_624),
    "pythia-160m": (neox(12, 768, 12), 162_322_944),
    "pythia-410m": (neox(24, 1024, 16), None),
    "pythia-1b": (neox(16, 2048, 8), None),
    "pythia-1.4b": (neox(24, 2048, 16), None),
    "pythia-2.8b": (neox(32, 2560, 32), None),
    "pythia-6.9b": (neox(32, 4096, 32, 50_432), None),
    "pythia-12b": (neox(36, 5120, 40, 50_688), None),
    "gpt2": (gpt2(12, 768, 12), 124_439_808),
    "gpt2-xl": (gpt2(48, 1600, 25), 1_557_611_200),
    "llama-7b": (llama(32, 4096, 32, 11_008), 6_738_415_616),
    "llama-65b": (llama(80, 8192, 64, 22_016), None),
    "llama2-70b": (llama(80, 8192, 64, 28_672, 8), 68_976_648_192),
    "llama3-8b": (llama(32, 4096, 32, 14_336, 8, **LLAMA3), 8_030_261_248),
    "llama3-70b": (llama(80, 8192, 64, 28_672, 8, **LLAMA3), 70_553_706_496),
    "llama3.2-1b": (llama(16, 2048, 32, 8192, 8, tie_word_embeddings=True, **LLAMA3), 1_235_814_400),
    "mistral-7b": (("mistral", MISTRAL), 7_241_732_096),
    "mixtral-8x7b": (("mixtral", {}), 46_702_792_704),
}


@pytest.mark.parametrize("name", RELEASED)
def test_parameter_counts(name: str) -> None:
    (family, keys), published = RELEASED[name]
    config_class, model_class = CLASSES[family]
    config = config_class(**keys)
    with torch.device("meta"):
        theirs = sum(parameter.numel() for parameter in model_class(config).parameters())
    assert published in (None, theirs)
    table = FAMILIES[family].table
    model = read_model(config.to_dict(), table)
    counts = parameter_counts(model, config.vocab_size)
    assert counts.total_unpadded == theirs
    assert counts.total == sum(parameter.numel() for parameter in skeleton(model, config.vocab_size).parameters())
    assert differences(model, table) == [], "and it can be exported again"
