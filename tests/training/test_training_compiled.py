"""Compiled blocks and losses train as blocks that are not compiled, and are compiled once for all layers."""

from pathlib import Path

import pytest
import torch
from support.engines import losses_and_norms
from support.workers import run_workers
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from neox.parallel.topology import Topology

MODELS = {
    "rotary": {"pos_emb": "rotary", "rotary_pct": 0.5, "gpt_j_residual": True},
    "windows": {"attention_config": [[["global", "local"], 2]], "window_size": 4, "num_layers": 4},
    "recomputed": {"checkpoint_activations": True, "norm": "rmsnorm", "activation": "swiglu", "ffn_hidden_size": 48},
    "bf16": {"precision": "bf16"},
    "mixtures": {"num_layers": 4, "moe_num_experts": 2, "moe_expert_interval": 2},
}


def plain_and_compiled(topology: Topology, *, models: list[dict]) -> tuple[list, list[int]]:
    """What each model measured without and with compiled blocks, and the graphs that its blocks became."""
    results, graphs = [], []
    inductor.compile_threads = 1  # no processes that import torch first
    for keys in models:
        counters.clear()
        torch._dynamo.reset()
        rows = [keys, {**keys, "compile_blocks": True}]
        results.append(losses_and_norms(topology, rows=rows, steps=3))
        graphs.append(counters["stats"]["unique_graphs"])
        assert not counters["graph_break"] or topology.tensor_size > 1, counters["graph_break"]
    return results, graphs


def equal(results: list, names: list[str]) -> None:
    for name, (plain, compiled) in zip(names, results):
        tolerance = 2e-2 if name == "bf16" else 1e-5
        torch.testing.assert_close(
            torch.tensor(compiled), torch.tensor(plain), rtol=tolerance, atol=tolerance, msg=name
        )


LOSS = 2  # its passes forward and back
GRAPHS = {"rotary": 1, "windows": 2, "recomputed": 1, "bf16": 1, "mixtures": 1}


@pytest.mark.parametrize(
    "names", [["rotary"], pytest.param(["windows", "recomputed", "bf16", "mixtures"], marks=pytest.mark.long)]
)
def test_one_process(tmp_path: Path, names: list[str]) -> None:
    models = [MODELS[name] for name in names]
    results, graphs = run_workers(plain_and_compiled, tmp_path, processes=1, tensor=1, models=models)[0]
    equal(results, names)
    assert graphs == [LOSS + GRAPHS[name] for name in names]


@pytest.mark.long
@pytest.mark.parametrize("sequence", [False, True])
def test_two_tensor_ranks(tmp_path: Path, sequence: bool) -> None:
    models = [{**MODELS["rotary"], "sequence_parallel": sequence}]
    results, _ = run_workers(plain_and_compiled, tmp_path, processes=2, tensor=2, models=models)[0]
    equal(results, ["tensor"])
