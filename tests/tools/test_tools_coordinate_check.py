"""Widths with and without muP, on real updates: what grows with the width, and what the tool writes."""

import json
from pathlib import Path

import pytest
from support.runs import write_config

from tools import coordinate_check, learning_rates
from tools.scaling.coordinates import slope

WIDTHS = ["32", "64", "128", "256"]
SMALL = {
    "num_layers": 2,
    "train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "train_iters": 8,
    "optimizer": {"params": {"lr": 4e-3}},
}


@pytest.mark.parametrize("tied", [False, True])
def test_activations_keep_their_size_with_mup_alone(tied: bool, char_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, char_data, **SMALL, no_weight_tying=not tied, save=None)
    output = tmp_path / "coordinates"
    assert coordinate_check.main([str(config), "--widths", *WIDTHS, "--output", str(output), "--steps", "5"]) == 0
    assert (output / "coordinates.png").read_bytes().startswith(b"\x89PNG")
    table = json.loads((output / "coordinates.json").read_text())
    slopes = {
        name: {
            kind: slope({int(width): sizes for width, sizes in by_width.items()}, kind) for kind in ("MLP", "logits")
        }
        for name, by_width in table.items()
    }
    assert all(abs(slope) < 0.2 for slope in slopes["muP"].values()), slopes
    assert all(slope > 0.4 for slope in slopes["standard"].values()), slopes


def test_learning_rates_are_compared_on_equal_samples(
    char_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = write_config(tmp_path, char_data, **SMALL, save=None)
    output = tmp_path / "rates.json"
    rates = ["--rates", "1e-3", "1e-2", "--steps", "4", "--output", str(output)]
    assert learning_rates.main([str(config), "--widths", "32", "64", *rates]) == 0
    table = json.loads(output.read_text())
    assert table["standard"]["32"] == table["muP"]["32"], "the base is the standard parametrisation"
    assert table["standard"]["64"] != table["muP"]["64"]
    assert capsys.readouterr().out.count("width") == 4


@pytest.mark.parametrize(
    ("keys", "widths", "output", "words"),
    [
        ({"ffn_hidden_size": 96}, ["32", "64"], "new", "ffn_hidden_size: leave it out"),
        ({}, ["32"], "new", "--widths: give two at least"),
        ({}, ["32", "63"], "new", "4 heads do not divide hidden_size 63"),
        ({"optimizer": {"type": "SGD"}}, ["32", "64"], "new", "the learning rates of use_mup are those of Adam"),
        ({}, ["32", "64"], "config.yml", "--output: "),
    ],
)
def test_what_cannot_be_compared_is_said_before_the_work(
    keys: dict, widths: list[str], output: str, words: str, char_data: Path, tmp_path: Path, capsys
) -> None:
    config = write_config(tmp_path, char_data, **keys)
    assert coordinate_check.main([str(config), "--widths", *widths, "--output", str(tmp_path / output)]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
