"""DPO in every layout: the same losses and rewards, a reference that stays, and a run that goes on exactly."""

import math
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from support.references import logits_and_share
from support.runs import TINY, assert_same_curve, curve, run, run_rows, write_config
from support.workers import run_workers

from neox.checkpoint.layout import CheckpointError
from neox.checkpoint.source import Source
from neox.config.read import config_from_values
from neox.config.sections import TokenizerConfig
from neox.data.reading import NO_LABEL
from neox.data.store import StoreWriter
from neox.parallel.topology import alone
from neox.tokenizer.tokenizer import build_tokenizer
from neox.training.reference import read_reference

METRICS = ("train/lm_loss", "train/grad_norm", "train/reward_margin", "train/reward_accuracy", "train/chosen_reward")
VALIDATION = ("validation/lm_loss", "validation/reward_margin", "validation/reward_accuracy")
LORA = {"lora_rank": 4, "lora_alpha": 32.0, "optimizer": {"type": "Adam", "params": {"lr": 1.0e-2}}}


def zero(stage: int, **keys) -> dict:
    return {"zero_optimization": {"stage": stage}, **keys}


TP2 = {"model_parallel_size": 2, "sequence_parallel": True, "checkpoint_activations": True}
# of two processes: keys, and the run of one process that they are compared with
LAYOUTS = {
    "dp2-zero0": (zero(0), "straight"),
    "dp2-zero1": (zero(1), "straight"),
    "dp2-zero2": (zero(2), "straight"),
    "dp2-zero3": (zero(3), "straight"),
    "tp2": (TP2, "straight"),
    "lora-dp2": (LORA | zero(1), "lora"),
    "lora-tp2": (LORA | TP2, "lora"),
}


def begin(root: Path) -> dict:
    """The keys of a run on the pairs, from the weights of `base`."""
    kinds = {
        f"{side}_{kind}": [str(root / f"{side}_{kind}")] for side in ("pos", "neg") for kind in ("data", "label_data")
    }
    paths = {
        name.replace("_", f"_{use}_", 1) + "_paths": path for name, path in kinds.items() for use in ("train", "valid")
    }
    return paths | {
        "data_path": None,
        "train_impl": "dpo",
        "pack_impl": "unpacked",
        "load": str(root / "base" / "checkpoints"),
        "finetune": True,
        "gradient_clipping": 1.0,
        "eval_interval": 2,
    }


def write_pairs(folder: Path) -> None:
    """Questions of one to ten letters; the preferred answer says them again, the other one says something else."""
    tokenizer, random = (
        build_tokenizer(TokenizerConfig(tokenizer_type="CharLevelTokenizer")),
        numpy.random.default_rng(3),
    )
    questions = [random.integers(97, 110, random.integers(1, 11)) for _ in range(40)]
    for side in ("pos", "neg"):
        for kind, dtype in (("data", numpy.uint16), ("label_data", numpy.int32)):
            with StoreWriter(folder / f"{side}_{kind}", dtype) as store:
                for question in questions:
                    answer = [*(question if side == "pos" else question + 13), tokenizer.eod]
                    asked = question if kind == "data" else numpy.full_like(question, NO_LABEL)
                    tokens = numpy.append(asked, answer).astype(dtype)
                    store.add(tokens, numpy.array([tokens.size]))
                store.finish()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, char_data: Path) -> Path:
    """The folder of all runs: `base`, from which each begins, `straight` and `lora` of one process, `<layout>` of two steps, and
    `<layout>-on` which goes on from them in another layout."""
    root = tmp_path_factory.mktemp("preferences")
    write_pairs(root)
    keys = begin(root)
    single = {
        "base": {"train_iters": 1},
        "straight": keys,
        "lora": keys | LORA,
        "long": keys | {"train_iters": 16, "optimizer": {"type": "Adam", "params": {"lr": 5.0e-3}}, "save": None},
    }
    run_rows(root, char_data, {name: {"num_gpus": 1, **keys} for name, keys in single.items()})
    pair = {name: keys | layout | {"exit_interval": 2} for name, (layout, _) in LAYOUTS.items()}
    pair |= {"half": keys | zero(1, precision="bf16")}
    moves = (("dp2-zero2", TP2), ("tp2", zero(1)), ("lora-dp2", LORA | TP2))
    pair |= {f"{old}-on": keys | layout | {"save": str(root / old / "checkpoints")} for old, layout in moves}
    run_rows(root, char_data, {name: {"num_gpus": 2, **keys} for name, keys in pair.items()})
    return root


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_changes_nothing(name: str, root: Path) -> None:
    for metrics in (METRICS, VALIDATION):
        measured, straight = curve(root / name, *metrics), curve(root / LAYOUTS[name][1], *metrics)
        assert len(measured) == (2 if metrics is METRICS else 1)
        assert_same_curve(measured, straight[: len(measured)])


@pytest.mark.parametrize("name", ["dp2-zero2", "tp2", "lora-dp2"])
def test_training_goes_on_in_another_layout(name: str, root: Path) -> None:
    """The reference is that of the beginning: margins do not start at zero again."""
    went_on, straight = curve(root / f"{name}-on", *METRICS), curve(root / LAYOUTS[name][1], *METRICS)
    assert len(went_on) == 2
    assert_same_curve(went_on, straight[2:])


@pytest.mark.parametrize("name", ["straight", "lora", "half"])
def test_the_first_step_finds_no_difference(name: str, root: Path) -> None:
    loss, norm, *rewards = curve(root / name, *METRICS)[0]
    assert loss == pytest.approx(math.log(2), abs=1e-6) and norm > 0 and rewards == [0, 0, 0]


def test_preferences_are_learned(root: Path) -> None:
    first, *_, last = curve(root / "long", "train/lm_loss", "train/reward_accuracy", *VALIDATION)
    assert last[1] > 0.9 and last[4] > 0.9 and last[0] < first[0] / 2
    assert not curve(root / "long", "validation/lm_loss_ppl")


def test_the_reference_stays(root: Path, char_data: Path, tmp_path: Path) -> None:
    """A run that goes on beside other weights in `load` is refused."""
    shutil.copytree(root / "straight" / "checkpoints", tmp_path / "checkpoints")
    other = {"load": str(root / "dp2-zero0" / "checkpoints"), "train_iters": 5, "num_gpus": 1}
    output = run("train.py", write_config(tmp_path, char_data, **(begin(root) | other)), expect=2)
    assert "- reference (load): global_step1, SHA-256" in output
    assert "+ reference (load): global_step2, SHA-256" in output


def test_zero_3_shares_the_reference_out(root: Path, tmp_path: Path) -> None:
    """Its logits are those of the whole, and what a forward pass gathers it lets go again."""
    keys = TINY | begin(root)
    whole, _ = logits_and_share(alone(), keys=keys | {"num_gpus": 1})
    none_is_small = {"deepspeed_extra_args": {"zero_optimization": {"stage3_param_persistence_threshold": 0}}}
    shared = keys | zero(3, num_gpus=2, **none_is_small)
    for logits, share in run_workers(logits_and_share, tmp_path, processes=2, keys=shared):
        torch.testing.assert_close(logits, whole, rtol=0, atol=1e-5)
        assert share == 0.5


def test_adapters_are_no_reference(root: Path) -> None:
    keys = TINY | begin(root) | LORA | {"load": str(root / "lora" / "checkpoints")}
    with pytest.raises(
        CheckpointError, match="global_step4 has adapters, and dpo with lora_rank compares with the weights"
    ):
        config = config_from_values(keys | {"num_gpus": 1})
        read_reference(config, 512, Source("load", config.checkpoint.load, alone()), alone())
