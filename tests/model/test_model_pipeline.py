"""A pipeline of two stages takes the same step as the plain model."""

import pytest
import torch
from support.models import one_step_table, small
from support.workers import run_workers

from neox.config.sections import RecomputeConfig

MODELS = {
    "tied-learned": small(num_layers=4),
    "untied-rotary": small(pos_emb="rotary", no_weight_tying=True),
}
ROWS = [
    {"model": model, "zero_stage": 1, "recompute": recompute}
    for model in MODELS.values()
    for recompute in (
        None,
        RecomputeConfig(checkpoint_activations=True),
        RecomputeConfig(checkpoint_activations=True, recompute_num_layers=1),
    )
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Results of the plain model, one for each row."""
    return run_workers(one_step_table, tmp_path_factory.mktemp("plain"), processes=1, rows=ROWS)[0]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict]]:
    """Results of each stage, one for each row."""
    return run_workers(one_step_table, tmp_path_factory.mktemp("stages"), processes=2, pipe=2, rows=ROWS)


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_two_stages_equal_the_plain_model(plain: list[dict], stages: list[list[dict]], row: int) -> None:
    expected = plain[row]
    names = set()
    for stage in stages:
        result = stage[row]
        assert result["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert result["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-5)
        for name, weight in result["weights"].items():
            torch.testing.assert_close(weight, expected["weights"][name], rtol=1e-5, atol=1e-6, msg=name)
        names |= set(result["weights"])
        blocks = {name.split(".")[1] for name in result["weights"] if ".attention." in name}
        assert blocks, "each stage has a block"
    assert names == set(expected["weights"])


def test_the_tied_head_brings_no_positions(stages: list[list[dict]]) -> None:
    first, last = (stage[0]["weights"] for stage in stages)
    assert "layers.0.position_embeddings.weight" in first
    assert "layers.0.position_embeddings.weight" not in last
    assert torch.equal(first["layers.0.word_embeddings.weight"], last["layers.0.word_embeddings.weight"])
