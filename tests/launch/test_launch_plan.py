"""The plan as a record and as a page: what it says of layout, memory, time and disk."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from support.shapes import NEOX_20B

from neox.config.read import config_from_values
from neox.launch.plan import Plan
from neox.launch.plan_page import print_plan

VOCAB = 50_277


def plan_of(gpu=None, free=None, **keys):
    config = config_from_values({**NEOX_20B, **keys})
    return Plan("train.py", config, VOCAB, gpu=gpu, on_gpu=True, free_disk_bytes=free, commands=())


def page(plan, trains=True):
    console = Console(file=io.StringIO(), width=80)
    print_plan(plan, console, trains=trains, commands=False)
    return console.file.getvalue()


def test_the_picture_shows_who_holds_what():
    text = page(plan_of())
    for row in (
        "layout      96 processes = 2 tensor x 4 pipeline x 12 data",
        "         replica 0    replica 1    replica 2    ...  replica 11   holds",
        "stage 0  ranks 0-1    ranks 2-3    ranks 4-5    ...  ranks 22-23  embedding, blocks 0-10",
        "stage 2  ranks 48-49  ranks 50-51  ranks 52-53  ...  ranks 70-71  blocks 22-32",
        "stage 3  ranks 72-73  ranks 74-75  ranks 76-77  ...  ranks 94-95  blocks 33-43, final norm, output layer",
        "each matrix of a stage is split over the 2 ranks of a field",
        "each replica holds 1/12 of a stage's optimizer (ZeRO 1)",
    ):
        assert row in text


def test_the_picture_of_a_thousand_ranks_is_small():
    text = page(plan_of(global_num_gpus=1056, model_parallel_size=1, pipe_parallel_size=44))
    rows = [line for line in text.splitlines() if line.strip().startswith(("stage", "..."))]
    assert len(rows) == 8
    assert rows[-1].split() == [
        "stage",
        "43",
        "rank",
        "1032",
        "rank",
        "1033",
        "rank",
        "1034",
        "...",
        "rank",
        "1055",
        "block",
        "43,",
        "final",
        "norm,",
        "output",
        "layer",
    ]


def test_every_block_and_rank_is_on_one_stage():
    plan = plan_of(num_layers=10, pipe_parallel_size=4)
    assert [block for stage in plan.stages for block in stage.blocks] == list(range(10))
    assert [rank for stage in plan.stages for rank in stage.ranks] == list(range(96))
    (alone,) = plan_of(model_parallel_size=1, pipe_parallel_size=0, global_num_gpus=1).stages
    assert alone.parts == ("embedding", "final norm", "output layer")


def test_a_known_gpu_gives_time_and_room():
    plan = plan_of("a100-40gb")
    record = json.loads(json.dumps(plan.as_json()))
    assert record["gpu"] == {"name": "a100-40gb", "memory_bytes": 40 * 2**30, "fits": True}
    assert record["memory"]["per_gpu_bytes"] == sum(
        size for name, size in record["memory"].items() if name != "per_gpu_bytes"
    )
    time = record["time"]
    assert time["tokens_per_second"] * time["seconds_per_step"] == pytest.approx(1536 * 2048)
    assert time["seconds"] == pytest.approx(150_000 * time["seconds_per_step"])
    # gpt-neox reports 117 TFLOP/s of each A100 for this run, recomputation counted (Black et al. 2022)
    assert 4 / 3 * record["flops_per_token"] * time["tokens_per_second"] / 96 == pytest.approx(117e12, rel=0.1)
    text = page(plan)
    assert "GiB of 40 GiB (a100-40gb) for each process: weights 4.93 GiB" in text
    assert "with matrix products at 45% of the peak of 312 TFLOP/s" in text
    assert "DOES NOT FIT" not in text


def test_an_unknown_gpu_gives_none():
    plan = plan_of()
    record = plan.as_json()
    assert (record["gpu"], record["time"], plan.fits) == (None, None, None)
    assert "TFLOP/s" not in page(plan)


def test_a_configured_peak_is_used():
    slow, fast = plan_of("a100-40gb", peak_theoretical_tflops=100), plan_of("a100-40gb")
    assert slow.step_time.products == pytest.approx(3.12 * fast.step_time.products)


def test_what_does_not_fit_is_said_with_what_to_change():
    (note,) = plan_of("a100-40gb", checkpoint_activations=False).notes
    assert note.startswith("DOES NOT FIT: ")
    assert "GiB on each GPU, and a100-40gb has 40 GiB; checkpoint_activations: true makes it " in note
    assert "python tools/plan.py CONFIG... --gpus 96 --gpu a100-40gb" in note
    hopeless = plan_of("t4", model_parallel_size=1, pipe_parallel_size=1, zero_optimization={"stage": 0})
    assert "no single change suffices" in hopeless.notes[0]
    assert "DOES NOT FIT" in page(hopeless)


@pytest.mark.parametrize(
    ("keys", "most"),
    [
        ({}, 0),  # nothing is saved
        ({"save": "s"}, 1),
        ({"save": "s", "checkpoint_factor": 10_000}, 15),
        ({"save": "s", "checkpoint_factor": 40_000}, 4),  # and the last step
        ({"save": "s", "checkpoint_factor": 10_000, "extra_save_iters": [0, 1, 20_000]}, 17),
        ({"save": "s", "checkpoint_factor": 10_000, "keep_last_n_checkpoints": 4}, 5),
        ({"save": "s", "checkpoint_factor": 100_000, "keep_last_n_checkpoints": 4}, 2),
    ],
)
def test_checkpoints_on_the_disk(keys, most):
    plan = plan_of(**keys)
    assert plan.checkpoints == most
    assert plan.checkpoint_bytes == 12 * plan.parameters.total
    assert plan.disk_bytes == most * plan.checkpoint_bytes


def test_a_disk_without_room_for_one_checkpoint_is_a_reason_not_to_start():
    needed = plan_of(save="s").checkpoint_bytes
    assert plan_of(save="s", free=needed).cannot_save is None
    assert plan_of().cannot_save is None
    assert plan_of(save="s", free=needed - 1).cannot_save == (
        f"save: a checkpoint takes {needed:,} bytes, and the disk of s has {needed - 1:,} free"
    )


def test_a_disk_without_room_is_said():
    needed = plan_of(save="s").disk_bytes
    assert not plan_of(save="s", free=needed).notes
    (note,) = plan_of(save="s", free=needed - 1).notes
    assert note.startswith(
        "save: the checkpoints come to 246.6 GB (1 of 246.6 GB), and the disk of s has 246.6 GB free"
    )


def test_parameters_of_each_gpu():
    # an eighth of the model; the first and the last stage have an embedding or an output layer more than the others
    plan = plan_of()
    assert plan.parameters.total / 8 < plan.parameters_per_gpu < 1.05 * plan.parameters.total / 8
    third = plan_of(pipe_parallel_size=0, zero_optimization={"stage": 3})
    assert third.parameters_per_gpu == pytest.approx(third.parameters.total / 96, rel=0.001)


def test_the_width_multiplier_of_mup():
    plan = plan_of(use_mup=True, mup_base_hidden_size=32, mup_base_num_attention_heads=4, mup_output_temp=0.5)
    times = plan.config.model.hidden_size // 32
    assert plan.as_json()["width_multiplier"] == times
    assert f"{times} times as wide as the base model (32 wide, 4 heads)" in page(plan)
    assert f"learn at lr / {times}, and logits are divided by {times / 2:g}" in page(plan)
    assert "muP" not in page(plan_of())


def test_a_plan_for_gpus_on_a_machine_without():
    plan = replace(plan_of(), on_gpu=False, machine_bytes=24 * 2**30)
    (note,) = plan.notes
    assert note.startswith("DOES NOT FIT: this machine has no GPU, and 24.0 GiB of memory for the ")
    assert replace(plan, machine_bytes=2**60).notes == []


def test_the_plan_of_a_server_says_where_and_with_what_memory():
    keys = {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_kv_heads": 2, "load": "there"}
    values = {
        **keys,
        "max_position_embeddings": 1024,
        "generation_batch_size": 8,
        "serve_port": 80,
        "precision": "bf16",
    }
    config = config_from_values(values, script="serve.py")
    text = page(
        Plan("serve.py", config, VOCAB, gpu=None, on_gpu=False, free_disk_bytes=None, commands=()), trains=False
    )
    assert "address     http://127.0.0.1:80" in text
    assert "at once     8 texts, and 128 more that wait" in text
    # keys and values of 2 layers of 2 heads of 16, in 2 bytes: 256 bytes a token
    assert "keys and values take up to 2.0 MiB" in text
