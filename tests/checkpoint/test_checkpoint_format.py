"""The format of checkpoints: today's is read for ever, and one that is not known yet is refused.

`golden/` was written by `save`. It is never written again: where the format changes, a folder beside it shows the new one.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from neox.checkpoint.layout import CheckpointError, encode_manifest
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
    path.write_bytes(encode_manifest(json.loads(path.read_text()) | {"format": number}))
    with pytest.raises(
        CheckpointError, match=r"global_step2/manifest.json: a checkpoint of format .* the version that wrote it"
    ):
        newest(tmp_path, alone())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one checkpoint."""
    folder = tmp_path_factory.mktemp("saved")
    save(folder)
    return folder


def loaded(folder: Path) -> tuple:
    """All that a run has of the newest checkpoint in a folder, comparable."""
    run = Run(0)
    torch.manual_seed(8)
    progress = restore(run.state, newest(folder, alone())[0])
    tensors = [run.weight, run.bias, *(value for state in run.optimizer.state.values() for value in state.values())]
    return progress, torch.get_rng_state().tolist(), [tensor.tolist() for tensor in tensors]


@pytest.fixture(scope="module")
def good(saved: Path) -> tuple:
    return loaded(saved)


def assert_found_or_harmless(path: Path, place: int, bits: int, good: tuple) -> None:
    """Change some bits of one byte of a file, load, and put the byte back."""
    content = path.read_bytes()
    changed = bytearray(content)
    changed[place] ^= bits
    path.write_bytes(changed)
    try:
        assert loaded(path.parents[path.name != "latest"]) == good
    except CheckpointError as error:
        assert path.name in str(error)
    finally:
        path.write_bytes(content)


@settings(max_examples=100)
@given(data=st.data())
def test_a_changed_byte_of_any_file_is_found_or_changes_nothing(saved: Path, good: tuple, data) -> None:
    """FAULTS 6."""
    path = data.draw(st.sampled_from(sorted(path for path in saved.rglob("*") if path.is_file())))
    place, bits = data.draw(st.integers(0, path.stat().st_size - 1)), data.draw(st.integers(1, 255))
    assert_found_or_harmless(path, place, bits, good)


def test_a_changed_byte_of_the_manifest_is_found_or_changes_nothing(saved: Path, good: tuple) -> None:
    """FAULTS 6: it says in which layout the random state is restored."""
    path = saved / "global_step2" / "manifest.json"
    for place in range(path.stat().st_size):
        assert_found_or_harmless(path, place, 1, good)


def test_the_seal_of_a_manifest_is_the_same_for_ever() -> None:
    """Another one would make damaged what has been saved since, and hide the format of what is newer."""
    facts = json.loads((GOLDEN / "global_step2" / "manifest.json").read_text())
    seal = "c2168c56cce2358313c44a5e7afa6a54acbc366ddc4f811fc8a776a84a0b319c"
    assert json.loads(encode_manifest(facts)) == facts | {"sha256": seal}
    assert encode_manifest(facts | {"sha256": seal}) == encode_manifest(facts)
