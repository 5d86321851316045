"""Imported weights under tensor and pipeline parallelism: the first loss is transformers', and the export is the same."""

import filecmp
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.engines import samples
from support.families import saved
from support.imports import first_losses
from support.workers import run_workers

from neox.interop.huggingface import export_folder, import_folder

SHAPE = {"vocab_size": 131, "hidden_size": 32, "max_position_embeddings": 64}
GROUPED = {**SHAPE, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 56}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 3.0, "original_max_position_embeddings": 32}
MODELS = {
    "gpt_neox": {**SHAPE, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96},
    "llama": {**GROUPED, "rope_parameters": {**LLAMA3, "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
    "mistral": {**GROUPED, "sliding_window": 7},
    "mixtral": {**GROUPED, "num_local_experts": 3},
    "gpt2": {
        "vocab_size": 131,
        "n_positions": 64,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        **dict.fromkeys(["attn_pdrop", "resid_pdrop", "embd_pdrop"], 0.0),  # a training step would draw
    },
    "gpt_neo": {
        **SHAPE,
        "num_layers": 3,
        "num_heads": 4,
        "window_size": 5,
        "attention_types": [[["global", "local"], 1], [["local"], 1]],
    },
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A folder with every family imported and exported again, and the loss of each in transformers on the engine's batch."""
    root = tmp_path_factory.mktemp("imported")
    batch = next(samples())
    losses = {}
    for family, keys in MODELS.items():
        reference = saved(root / family / "theirs", family, **keys)
        import_folder(root / family / "theirs", root / family / "ours")
        export_folder(root / family / "ours", root / family / "back", model_type=family)
        with torch.no_grad():
            logits = reference(batch.tokens).logits
        losses[family] = float(F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten()))
    return root, losses


@pytest.mark.parametrize("layout", [{}, {"tensor": 2}, {"pipe": 2}], ids=["one", "tensor2", "pipe2"])
def test_every_layout_starts_where_transformers_stands(imported, layout: dict, tmp_path: Path) -> None:
    root, losses = imported
    # a mixture of experts has no pipeline stages
    families = [family for family in MODELS if family != "mixtral" or "pipe" not in layout]
    expected = [losses[family] for family in families]
    rows = [(root / family / "ours", tmp_path / family) for family in families]
    processes = 2 if layout else 1
    for found in run_workers(first_losses, tmp_path, processes=processes, rows=rows, **layout):
        assert found == pytest.approx(expected, rel=1e-5)
    for family in families:
        export_folder(tmp_path / family, tmp_path / f"{family}-back", model_type=family)
        for name in ("model.safetensors", "config.json"):
            assert filecmp.cmp(root / family / "back" / name, tmp_path / f"{family}-back" / name, shallow=False), name
