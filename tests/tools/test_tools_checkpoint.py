"""Look into a checkpoint, and write it anew in other files: the checkpoint is that of tests/checkpoint."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from neox.checkpoint import rewrite
from neox.checkpoint.inspection import differences
from neox.checkpoint.publish import Progress, read_progress
from neox.checkpoint.tensors import StateReader
from neox.data.fingerprint import Fact
from tools import inspect_checkpoint, reshard

# 3 x 4, which tensor parallelism cuts along its first dimension, and 5
GOLDEN = Path(__file__).parents[1] / "checkpoint" / "golden"
KEYS = ("weight", "exp_avg", "exp_avg_sq")


def test_every_number_stays_and_each_process_has_files_of_its_own(tmp_path: Path, capsys) -> None:
    arguments = ["--checkpoint", str(GOLDEN), "--output", str(tmp_path / "new"), "--tensor-parallel", "3"]
    assert reshard.main(arguments) == 0
    folder = tmp_path / "new" / "global_step2"
    assert capsys.readouterr().out == f"{GOLDEN}/global_step2 written to {folder}\n"
    old, new = StateReader(GOLDEN / "global_step2"), StateReader(folder)
    for name in old.weights:
        assert all(torch.equal(old.shard(name, key, 0, 1), new.shard(name, key, 0, 1)) for key in KEYS)
    pieces = new.weights["layers.1.weight"].pieces
    assert [(piece.tensor_rank, piece.tensor_size) for piece in pieces] == [(0, 3), (1, 3), (2, 3)]
    assert len({piece.file for piece in pieces}) == 3
    assert read_progress(folder) == read_progress(GOLDEN / "global_step2")
    assert (folder / "config.yml").read_bytes() == (GOLDEN / "global_step2" / "config.yml").read_bytes()
    assert reshard.main(arguments) == 2
    assert "holds global_step2 already: give a new folder" in capsys.readouterr().err


def test_a_file_holds_as_much_as_fits_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "FILE_BYTES", 1)
    assert reshard.main(["--checkpoint", str(GOLDEN), "--output", str(tmp_path), "--tensor-parallel", "3"]) == 0
    assert len(list((tmp_path / "global_step2").glob("state_*.safetensors"))) == 4, "three parts and the bias"


def test_weights_alone_are_a_checkpoint_of_step_0(tmp_path: Path) -> None:
    assert reshard.main(["--checkpoint", str(GOLDEN), "--output", str(tmp_path), "--weights-only"]) == 0
    reader = StateReader(tmp_path / "global_step0")
    assert (reader.moments, read_progress(reader.folder)[0]) == ([], Progress())
    old = StateReader(GOLDEN / "global_step2")
    assert all(torch.equal(old.shard(name, "weight", 0, 1), reader.shard(name, "weight", 0, 1)) for name in old.weights)


def test_what_cannot_be_is_refused_and_leaves_nothing(tmp_path: Path, capsys) -> None:
    arguments = ["--checkpoint", str(GOLDEN), "--output", str(tmp_path / "new")]
    assert reshard.main([*arguments, "--tensor-parallel", "2"]) == 2
    assert "layers.1.weight, [3, 4], cannot be cut for 2 processes along its dimension 0" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        reshard.main([*arguments, "--tensor-parallel", "0"])
    shutil.copytree(GOLDEN, tmp_path / "damaged")
    file = tmp_path / "damaged" / "global_step2" / "state_00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    arguments[1] = str(tmp_path / "damaged")
    assert reshard.main(arguments) == 2
    assert f"{file}: its SHA-256 is not the manifest's" in capsys.readouterr().err
    assert reshard.main(["--checkpoint", str(tmp_path), "--output", str(tmp_path / "new")]) == 2
    assert "no checkpoint there" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_page_tells_what_a_checkpoint_holds(tmp_path: Path, capsys) -> None:
    draft = tmp_path / "draft"
    shutil.copytree(GOLDEN / "global_step2", draft)
    facts = json.loads((draft / "progress.json").read_bytes()) | {"data": [asdict(Fact("seed", "1234"))]}
    (draft / "progress.json").write_text(json.dumps(facts))
    folder = rewrite.rewrite(draft, tmp_path / "new")
    assert inspect_checkpoint.main([str(tmp_path / "new"), "--weights", "--against", str(folder)]) == 0
    page = capsys.readouterr().out
    assert "iteration 2, 16 samples, 512 tokens; 2 updates" in page
    assert "2, 17 numbers" in page
    assert "exp_avg, exp_avg_sq" in page
    assert "seed: 1234" in page
    assert "layers.1.weight  3 x 4" in page
    assert "0 weights differ, 2 are equal to the bit" in page


def test_differences_are_told_the_most_first(tmp_path: Path) -> None:
    old, new = GOLDEN / "global_step2", tmp_path / "global_step2"
    shutil.copytree(old, new)
    file = new / "state_00000.safetensors"
    tensors = load_file(file)
    tensors["weight/layers.1.weight"][0] += 1e-3
    tensors["weight/layers.1.bias"] += 1
    save_file(tensors, file)
    (weight, words), (second, _) = differences(new, old)[0]
    assert (weight, second) == ("layers.1.bias", "layers.1.weight")
    assert words.endswith("no number by more than 1")

    index = json.loads((new / "index.json").read_bytes())
    index["weights"]["layers.2.bias"] = index["weights"].pop("layers.1.bias")
    index["weights"]["layers.1.weight"]["shape"] = [4, 3]
    (new / "index.json").write_text(json.dumps(index))
    assert set(differences(new, old)[0]) == {
        ("layers.1.bias", f"only in {old}"),
        ("layers.2.bias", f"only in {new}"),
        ("layers.1.weight", f"4 x 3 in {new}, 3 x 4 in {old}"),
    }
