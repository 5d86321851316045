"""The list of keys is a decision; each key of gpt-neox is known."""

from pathlib import Path

import pytest

from neox.config.draft import SECTION_OF
from neox.config.errors import ConfigError
from neox.config.known_keys import OTHER_KEYS
from neox.config.read import config_from_values
from neox.config.reference import reference
from neox.config.schema import FIELDS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BASE = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "train_micro_batch_size_per_gpu": 1,
    "train_iters": 10,
}


def test_the_keys_are_those_that_were_decided():
    """A new key is a decision: add it to our_keys.txt, with its sentence in sections.py."""
    assert list(SECTION_OF) == (HERE / "our_keys.txt").read_text().split()
    assert all(field.description for field in FIELDS.values())


def test_every_key_of_gpt_neox_is_known():
    for key in (HERE / "gpt_neox_keys.txt").read_text().split():
        assert (key in SECTION_OF) != (key in OTHER_KEYS), key


def test_no_key_points_to_a_key_that_is_not_there():
    for key, other in OTHER_KEYS.items():
        if other.status == "renamed":
            assert other.sentence.split()[0].split(".")[0] in SECTION_OF, key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("z_loss", 0.0), ("train_impl", "normal"), ("data_impl", "mmap"), ("data_impl", "infer"), ("clip_grad", 1.0),
        ("moe_num_experts", 1), ("flops_profiler", {"enabled": False}), ("autotuning", {}), ("deepspeed", True),
        ("use_comet", False), ("num_kv_heads", None), ("lr", None), ("gpt_j_tied", False), ("hysteresis", 2),
        ("data_types", {"grad_accum_dtype": "fp32"}),
    ],
)  # fmt: skip
def test_values_that_ask_for_nothing_pass(key, value):
    assert config_from_values({**BASE, key: value}) == config_from_values(BASE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("z_loss", 0.1), ("data_impl", "cached"), ("clip_grad", True), ("coord_check", True),
        ("flops_profiler", {"enabled": True}), ("deepspeed", False), ("use_comet", True), ("lr", 0.1), ("te_mha", True),
        ("no_load_optim", True), ("elasticity", {"a": 1}), ("checkpoint_scale", "log"), ("rank", 0),
        ("data_types", {"grad_accum_dtype": "bf16"}),
    ],
)  # fmt: skip
def test_values_that_ask_for_something_are_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=rf"^values:\d+:1: {key}: (.* is refused: .{{10,}}|is called .* here)$"):
        config_from_values({**BASE, key: value})


def test_the_reference_is_current():
    """Write it anew: python -m neox.config.reference > configs/README.md"""
    assert (ROOT / "configs" / "README.md").read_text() == reference()


def test_the_reference_lists_every_key():
    page = reference()
    for key in [*SECTION_OF, *OTHER_KEYS]:
        assert f"`{key}`" in page
