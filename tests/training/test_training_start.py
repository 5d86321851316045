"""What a process does not do before its first step: import what no run needs, and hold what ZeRO 3 gives to others."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import run, write_config

UNWANTED = ("torch._dynamo", "torch._inductor", "sympy", "transformers", "pandas")
FIRST_STEP = """
import sys
import neox.training.pretrain
import torch
from neox.config.sections import OptimizerConfig
from neox.training.optimizer import build_optimizer

module = torch.nn.Linear(4, 4)
optimizer = build_optimizer(OptimizerConfig(), module)
module(torch.ones(4)).sum().backward()
before = module.weight.clone()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
assert not module.weight.equal(before) and module.weight.requires_grad
"""
TWO_REPLICAS = """
import os
import sys
from neox.config.read import read_config
from neox.model import gpt
from neox.training.pretrain import pretrain

layers, whole = [], []
initialize_weights = gpt.initialize_weights

def watched(numbered, **arguments):
    numbered = list(numbered)
    initialize_weights(numbered, **arguments)
    layers.extend(layer for _, layer in numbered)
    whole.append(sum(any(weight.numel() for weight in layer.parameters()) for layer in layers))

gpt.initialize_weights = watched
pretrain(read_config([os.environ["CONFIG"]]).config)
print("layers at a time:", max(whole))
"""
IMPORTED = f"print('imported:', *(name for name in {UNWANTED} if name in sys.modules))"


def test_no_compiler_is_imported_up_to_the_first_step() -> None:
    result = subprocess.run([sys.executable, "-c", FIRST_STEP + IMPORTED], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "imported:"


@pytest.mark.parametrize(("stage", "layers"), [(2, 7), (3, 1)])
def test_zero_imports_no_compiler_and_stage_3_holds_a_layer_at_a_time(
    stage: int, layers: int, tmp_path: Path, char_data: Path
) -> None:
    config = write_config(tmp_path, char_data, num_gpus=2, train_iters=1, save=None, zero_optimization={"stage": stage})
    script = tmp_path / "two_replicas.py"
    script.write_text(TWO_REPLICAS + IMPORTED)
    said = run(script, config, fresh=True, CONFIG=str(config)).splitlines()
    assert "imported:" in said, f"a compiler is imported: {said}"
    assert f"layers at a time: {layers}" in said, said
