"""LoRA in every layout: the same losses, a base that stays as it is, checkpoints that move, and an export that is merged."""

from pathlib import Path

import pytest
import torch
from support.models import topology_of
from support.runs import assert_same_curve, curve, run_rows, weights
from transformers import AutoModelForCausalLM

from neox.checkpoint.layout import CheckpointError
from neox.checkpoint.newest import newest
from neox.checkpoint.tensors import StateReader, check_names
from neox.checkpoint.weights import load_weights
from neox.config.read import read_config
from neox.interop.huggingface import export_folder
from neox.model.gpt import GPT
from neox.model.lora import is_adapter

LORA = {
    "lora_rank": 4,
    "lora_alpha": 32.0,
    "lora_targets": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
}
METRICS = ("train/lm_loss", "train/grad_norm")


def zero(stage: int, **keys) -> dict:
    return {"zero_optimization": {"stage": stage}, **keys}


# of two processes: keys, and the layout whose steps 1 and 2 its steps 3 and 4 go on from
LAYOUTS = {
    "dp2-zero0": (zero(0), "dp2-zero2"),
    "dp2-zero1": (zero(1, checkpoint_activations=True), "tp2"),
    "dp2-zero2": (zero(2), "dp2-zero1"),
    "tp2": ({"model_parallel_size": 2, "sequence_parallel": True}, "dp2-zero0"),
}
FP16 = {"precision": "fp16", "fp16": {"initial_scale_power": 8}}  # a scale that does not overflow in the first steps
HALF = {
    "dp2-zero0-bf16": zero(0, precision="bf16"),
    "dp2-zero2-bf16": zero(2, precision="bf16"),
    "dp2-zero0-fp16": zero(0, **FP16),
    "dp2-zero2-fp16": zero(2, **FP16),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, char_data: Path) -> Path:
    """The folder of all runs: `base`, from which each layout begins, `straight` of four steps, `<layout>` of the first two,
    `<layout>-on` of the others."""
    root = tmp_path_factory.mktemp("lora")
    begin = {**LORA, "load": str(root / "base" / "checkpoints"), "finetune": True, "extra_save_iters": [0]}
    pair = {name: {**begin, **keys, "exit_interval": 2} for name, (keys, _) in LAYOUTS.items()}
    pair |= {name: {**begin, **keys} for name, keys in HALF.items()}
    pair |= {
        f"{name}-on": {**LORA, **keys, "load": str(root / old / "checkpoints"), "save": None}
        for name, (keys, old) in LAYOUTS.items()
    }
    for processes, runs in ((1, {"base": {"train_iters": 2}, "straight": begin}), (2, pair)):
        run_rows(root, char_data, {name: {"num_gpus": processes, **keys} for name, keys in runs.items()})
    return root


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_changes_nothing(name: str, root: Path) -> None:
    for metrics in (METRICS, ("validation/lm_loss",)):
        measured, straight = curve(root / name, *metrics), curve(root / "straight", *metrics)
        assert_same_curve(measured, straight[: len(measured)])


@pytest.mark.parametrize("name", LAYOUTS)
def test_training_goes_on_from_another_layout(name: str, root: Path) -> None:
    went_on, straight = curve(root / f"{name}-on", *METRICS), curve(root / "straight", *METRICS)
    assert len(went_on) == 2
    assert_same_curve(went_on, straight[2:])


@pytest.mark.parametrize("name", [*LAYOUTS, *HALF])
def test_only_adapters_change(name: str, root: Path) -> None:
    base, first, last = (
        weights(root / "base", 2),
        weights(root / name, 0),
        weights(root / name, 4 if name in HALF else 2),
    )
    assert base.keys() == {weight for weight in last if not is_adapter(weight)}
    for weight, value in last.items():
        if is_adapter(weight):
            assert not torch.equal(first[weight], value), weight
            assert weight.endswith("down") or not first[weight].any()
        else:
            held = base[weight]
            if name in HALF:
                held = held.to(torch.float16 if name.endswith("fp16") else torch.bfloat16).float()
            assert torch.equal(first[weight], held) and torch.equal(value, held), weight


def test_training_in_16_bits_is_close(root: Path) -> None:
    for name in HALF:
        assert_same_curve(curve(root / name, *METRICS), curve(root / "straight", *METRICS), tolerance=2e-2)


def test_an_export_is_merged(root: Path, tmp_path: Path) -> None:
    """Logits of the adapted model, as generation loads it, are those of the folder that transformers loads."""
    config = read_config([root / "straight" / "config.yml"]).config
    gpt = GPT(config.model, vocab_size=512, topology=topology_of())
    load_weights(gpt, newest(root / "straight" / "checkpoints", topology_of())[0], topology_of())
    export_folder(root / "straight" / "checkpoints", tmp_path / "theirs")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", attn_implementation="eager").eval()
    tokens = torch.randint(512, (2, 24), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found, plain = theirs(tokens).logits, gpt.eval()(tokens).transpose(0, 1)
    torch.testing.assert_close(found, plain, rtol=0, atol=2e-5)


def test_adapters_do_not_vanish_and_do_not_appear(root: Path) -> None:
    base = StateReader(root / "base" / "checkpoints" / "global_step2")
    adapted = StateReader(root / "straight" / "checkpoints" / "global_step4")
    with pytest.raises(CheckpointError, match="has no adapters, which lora_rank asks for.*finetune: true"):
        check_names(set(adapted.weights), base, whole_model=True)
    with pytest.raises(CheckpointError, match="which the model lacks"):
        check_names(set(base.weights), adapted, whole_model=False)
