"""Every shipped config passes a dry run, alone or on the config that it is an overlay for, and counts what was published."""

import json
from pathlib import Path

import numpy
import pytest
import yaml

import deepy
from neox.data.store import StoreWriter

CONFIGS = Path(deepy.ROOT, "configs")
OVERLAYS = {  # overlay -> a config that it goes with
    "2xcpu": "125M",
    "bf16": "shakespeare",
    "cpu": "125M",
    "efficiency": "shakespeare_student",
    "local_setup": "125M",
    "lora": "125M",
    "pdsh": "125M",
    "slurm": "20B",
    "speed": "shakespeare_student",
    "wandb": "125M",
    "zero3_offload": "gpt3/13B",
}
# Parameters: in all with the padded vocabulary, and without embeddings; those of gpt-neox's own configs, whose 20B and 12B
# (tensor parallel) pad the vocabulary further than we do.
PUBLISHED = {
    "19M": (70.4e6, 18.9e6),
    "49M": (113.6e6, 49.2e6),
    "125M": (162.3e6, 85.1e6),
    "350M": (405.3e6, 302.3e6),
    "760M": (834.5e6, 680.0e6),
    "800M": (1011.8e6, 805.7e6),
    "1-3B": (1414.6e6, 1208.6e6),
    "2-7B": (2775.2e6, 2517.6e6),
    "6-7B": (6856.3e6, 6444.2e6),
    "13B": (13.10e9, 12.59e9),
    "20B": (20.55e9, 19.93e9),
    "175B": (175.2e9, 174.0e9),
    "pythia/14M": (14.07e6, 1.19e6),
    "pythia/31M": (30.5e6, 4.74e6),
    "pythia/70M": (70.4e6, 18.9e6),
    "pythia/160M": (162.3e6, 85.1e6),
    "pythia/410M": (405.3e6, 302.3e6),
    "pythia/1B": (1011.8e6, 805.7e6),
    "pythia/1-4B": (1414.6e6, 1208.6e6),
    "pythia/2-8B": (2775.2e6, 2517.6e6),
    "pythia/6-9B": (6857.3e6, 6444.2e6),
    "pythia/12B": (11.85e9, 11.33e9),
    "llama/7B": (6.738e9, 6.476e9),
    "llama/13B": (13.016e9, 12.688e9),
    "llama/30B": (32.529e9, 32.103e9),
    "llama/65B": (65.286e9, 64.761e9),
    "llama2/7B": (6.739e9, 6.476e9),
    "llama2/13B": (13.017e9, 12.688e9),
    "llama2/70B": (68.977e9, 68.452e9),
    "llama2/codellama_7B": (6.739e9, 6.476e9),
    "llama2/codellama_34B": (33.744e9, 33.220e9),
    "llama3/8B": (8.030e9, 6.980e9),
    "llama3/70B": (70.554e9, 68.452e9),
    "llemma/7B": (6.739e9, 6.476e9),
    "llemma/34B": (33.744e9, 33.220e9),
    "mistral/7B": (7.242e9, 6.980e9),
    "gpt_neo/125M": (125_198_592, 85_028_352),
    "gpt_neo/1-3B": (1_315_575_808, 1_208_455_168),
    "gpt_neo/2-7B": (2_651_307_520, 2_517_406_720),
    # GPT-3's paper rounds: 125M, 350M, 760M, 1.3B, 2.7B, 6.7B, 13B, 175B
    "gpt3/125M": (125.3e6, 85.1e6),
    "gpt3/350M": (355.9e6, 302.3e6),
    "gpt3/760M": (760.4e6, 680.0e6),
    "gpt3/1-3B": (1315.8e6, 1208.6e6),
    "gpt3/2-7B": (2651.7e6, 2517.7e6),
    "gpt3/6-7B": (6658.6e6, 6444.2e6),
    "gpt3/13B": (12.85e9, 12.59e9),
    "gpt3/175B": (174.6e9, 174.0e9),
    "moe/125M-8e": (360.7e6, 283.4e6),  # 125M, and 7 further MLPs of 4.7M parameters in every other layer
    "shakespeare": (0.924e6, 0.793e6),
    "shakespeare_student": (0.319e6, 0.250e6),
}
SHIPPED = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yml"))


def dry_run(capsys, *names: str) -> dict:
    assert deepy.main(["train.py", *names, "-d", str(CONFIGS), "--dry-run", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_shipped_config_is_in_a_table():
    assert sorted([*PUBLISHED, *OVERLAYS, "dpo", "finetune"]) == SHIPPED


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name, capsys):
    parameters = dry_run(capsys, name)["parameters"]
    total, non_embedding = PUBLISHED[name]
    assert parameters["total"] == pytest.approx(total, rel=1e-3)
    assert parameters["non_embedding"] == pytest.approx(non_embedding, rel=2e-3)


@pytest.mark.parametrize(("overlay", "base"), OVERLAYS.items())
def test_overlays_take_effect(overlay, base, capsys):
    config = dry_run(capsys, base, overlay)["config"]
    values = {key: value for section in config.values() for key, value in section.items()}
    for key, value in yaml.safe_load((CONFIGS / f"{overlay}.yml").read_text()).items():
        if isinstance(value, dict):
            assert {name: values[key][name] for name in value}.keys() == value.keys()
        else:
            assert values[key] == value


@pytest.mark.parametrize(("overlay", "epochs"), [("finetune", 3), ("dpo", 1)])
def test_overlays_for_imported_weights_take_effect(overlay, epochs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    given = yaml.safe_load((CONFIGS / f"{overlay}.yml").read_text())
    for key in given:
        if key.endswith("_data_paths"):
            with StoreWriter(given[key][0], numpy.int32) as store:
                store.add(numpy.ones(64 * 20, dtype=numpy.int32), numpy.full(64, 20))
                store.finish()
    imported = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "max_position_embeddings": 16}
    weights = {"tokenizer_type": "CharLevelTokenizer", "load": str(tmp_path), "finetune": True}
    (tmp_path / "config.yml").write_text(yaml.safe_dump(imported | weights))
    path = str(CONFIGS / f"{overlay}.yml")
    assert deepy.main(["train.py", "config.yml", path, "--dry-run", "--json", "--set", "num_gpus=1"]) == 0
    config = json.loads(capsys.readouterr().out)["config"]
    assert config["batch"]["train_iters"] == epochs * 64 // 32
    assert config["data"]["pack_impl"] == "unpacked"
    assert config["model"]["train_impl"] == given.get("train_impl", "normal")


@pytest.mark.parametrize("name", SHIPPED)
def test_editors_find_the_schema(name):
    path = CONFIGS / f"{name}.yml"
    first = path.read_text().splitlines()[0]
    prefix = "# yaml-language-server: $schema="
    assert first.startswith(prefix)
    assert (path.parent / first.removeprefix(prefix)).resolve() == (CONFIGS / "schema.json").resolve()
