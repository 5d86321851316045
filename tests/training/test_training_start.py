"""What a process does not do before its first step: import what no run needs."""

import subprocess
import sys

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
print("imported:", *(name for name in ("torch._dynamo", "torch._inductor", "sympy", "transformers", "pandas") if name in sys.modules))
"""


def test_no_compiler_is_imported_up_to_the_first_step() -> None:
    result = subprocess.run([sys.executable, "-c", FIRST_STEP], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "imported:"
