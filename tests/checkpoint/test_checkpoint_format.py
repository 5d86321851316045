"""The format of checkpoints: today's is read for ever, and one that is not known yet is refused.

`golden/` was written by `save`. It is never written again: where the format changes, a folder beside it shows the new one.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neox.checkpoint.layout import CheckpointError
from neox.checkpoint.newest import newest
from neox.checkpoint.publish import Progress
from neox.checkpoint.saver import Saver
from neox.checkpoint.state import TrainingState, restore
from neox.config.sections import CheckpointConfig
from neox.parallel.topology import alone

GOLDEN = Path(__file__).parent / "golden"
PROGRESS = Progress(iteration=2, consumed_samples=16, consumed_tokens=512, wandb_run_id="abc", data=[{"name": "seed"}])


class Run:
    """Two weights, of which tensor parallelism would cut one, and two steps of their optimizer."""

    def __init__(self, steps: int) -> None:
        self.weight = torch.nn.Parameter(torch.arange(12.0).view(3, 4) / 10)
        self.weight.tensor_model_parallel, self.weight.partition_dim = True, 0
        self.bias = torch.nn.Parameter(torch.ones(5))
        self.optimizer = torch.optim.AdamW([self.weight, self.bias], lr=0.1)
        names = {self.weight: "layers.1.weight", self.bias: "layers.1.bias"}
        self.state = TrainingState(names, self.optimizer, alone())
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        for weight in (self.weight, self.bias):
            weight.grad = weight.detach() - 1
        self.optimizer.step()


def save(folder: Path) -> None:
    """Write the checkpoint of two steps."""
    torch.manual_seed(7)
    config = CheckpointConfig(save=str(folder))
    Saver(Run(2).state, config, "seed: 7\n", on_failure=lambda: None, uploader=None).save(PROGRESS)


def test_a_checkpoint_of_format_1_is_read() -> None:
    """FAULTS 38."""
    folder, warnings = newest(GOLDEN, alone())
    assert (folder.name, warnings) == ("global_step2", [])
    run, straight = Run(0), Run(3)
    torch.manual_seed(8)
    assert restore(run.state, folder) == PROGRESS
    assert torch.initial_seed() == 7, "the random state is restored"
    run.step()
    torch.testing.assert_close((run.weight, run.bias), (straight.weight, straight.bias))


def test_what_is_written_today_a_reader_of_that_format_understands(tmp_path: Path) -> None:
    """Where this fails, the format needs another number, and a golden checkpoint of its own. More facts do no harm."""
    save(tmp_path)
    old, new = (root / "global_step2" for root in (GOLDEN, tmp_path))
    assert (new / "index.json").read_text() == (old / "index.json").read_text()
    for name in ("manifest.json", "progress.json"):
        before, now = (json.loads((folder / name).read_text()) for folder in (old, new))
        assert before.keys() <= now.keys()
    before, now = (load_file(folder / "state_00000.safetensors") for folder in (old, new))
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in before.items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in now.items()
    }


@pytest.mark.parametrize("number", [2, "1", None])
def test_a_format_that_is_not_known_is_refused_and_not_passed_over(tmp_path: Path, number: object) -> None:
    """FAULTS 38: an older checkpoint is there, and going back to it would lose what lies between."""
    shutil.copytree(GOLDEN, tmp_path, dirs_exist_ok=True)
    shutil.copytree(GOLDEN / "global_step2", tmp_path / "global_step1")
    path = tmp_path / "global_step2" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": number}))
    with pytest.raises(
        CheckpointError, match=r"global_step2/manifest.json: a checkpoint of format .* the version that wrote it"
    ):
        newest(tmp_path, alone())
