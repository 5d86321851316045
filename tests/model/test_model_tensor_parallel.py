"""Tensor and sequence parallelism change nothing: logits, loss and every gradient equal those of one process."""

import pytest
import torch
from support.models import gradient_table, gradients, small, topology_of
from support.workers import run_workers

from neox.config.sections import RecomputeConfig

MODELS = {
    "learned-tied": small(),
    "rotary-parallel-untied": small(pos_emb="rotary", rotary_pct=0.5, gpt_j_residual=True, no_weight_tying=True),
    "llama-local": small(
        pos_emb="rotary",
        norm="rmsnorm",
        activation="swiglu",
        mlp_multiple_of=4,
        attention_config=[[["global", "local"], 1]],
        window_size=5,
    ),
    "grouped-normalised": small(pos_emb="rotary", num_kv_heads=2, use_qk_layernorm=True, use_bias_in_qkv=False),
    "relative-scalenorm": small(pos_emb="rpe", norm="scalenorm", gpt_j_residual=True, gpt_j_tied=True),
    "alibi": small(pos_emb="alibi", activation="geglu", mlp_multiple_of=4, scale_attention=False),
    "adapters": small(
        lora_rank=3,
        lora_alpha=0.3,
        lora_targets=["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
        activation="swiglu",
        mlp_multiple_of=4,
    ),
    "sinusoidal": small(pos_emb="sinusoidal", norm="non_parametric_layernorm", sliding_window_width=4),
}
ROWS = [
    {"model": model, "sequence_parallel": sequence, "recompute": RecomputeConfig(checkpoint_activations=recompute)}
    for model in MODELS.values()
    for sequence, recompute in ((False, False), (True, False), (True, True))
]

DROPOUT = [
    {
        "model": small(hidden_dropout=0.3, attention_dropout=0.2),
        "sequence_parallel": True,
        "recompute": RecomputeConfig(checkpoint_activations=recompute),
    }
    for recompute in (False, True)
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict]]:
    """Results of each rank of two, one for each row of ROWS and DROPOUT."""
    return run_workers(gradient_table, tmp_path_factory.mktemp("pair"), processes=2, tensor=2, rows=ROWS + DROPOUT)


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_two_ranks_equal_one(pair: list[list[dict]], row: int) -> None:
    expected = gradients(topology_of(), model=ROWS[row]["model"])
    results = [rank[row] for rank in pair]
    for result in results:
        torch.testing.assert_close(result["logits"], expected["logits"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(result["loss"], expected["loss"], rtol=1e-6, atol=0)
    for name, (gradient, _) in expected["gradients"].items():
        parts = [result["gradients"][name] for result in results]
        dim = parts[0][1]
        # a parameter that both ranks hold has the whole gradient on each
        found = [torch.cat([part for part, _ in parts], dim)] if dim is not None else [part for part, _ in parts]
        for whole in found:
            torch.testing.assert_close(
                whole, gradient, rtol=1e-5, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_recomputation_changes_nothing() -> None:
    model = MODELS["rotary-parallel-untied"]
    expected = gradients(topology_of(), model=model)["gradients"]
    for keys in ({}, {"checkpoint_num_layers": 2}, {"recompute_num_layers": 1}):
        recompute = RecomputeConfig(checkpoint_activations=True, **keys)
        found = gradients(topology_of(), model=model, recompute=recompute)["gradients"]
        assert all(torch.equal(found[name][0], gradient) for name, (gradient, _) in expected.items())


def test_recomputation_draws_the_same_dropout() -> None:
    model = small(hidden_dropout=0.3, attention_dropout=0.2)
    expected = gradients(topology_of(), model=model)["gradients"]
    found = gradients(topology_of(), model=model, recompute=RecomputeConfig(checkpoint_activations=True))["gradients"]
    assert all(torch.equal(found[name][0], gradient) for name, (gradient, _) in expected.items())


def test_dropout_under_both_parallelisms_recomputes_alike(pair: list[list[dict]]) -> None:
    for rank in pair:
        plain, recomputed = rank[len(ROWS) :]
        for name, (gradient, _) in plain["gradients"].items():
            assert torch.equal(recomputed["gradients"][name][0], gradient), name


def test_ranks_drop_different_parts_of_a_split_sequence(pair: list[list[dict]]) -> None:
    one, other = (rank[len(ROWS)]["embedded"] == 0 for rank in pair)
    assert one.any() and other.any() and not torch.equal(one, other)
