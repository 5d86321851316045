"""The plan as a page of text. Knows nothing about how its numbers come about."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from neox.config.gpus import GPUS
from neox.config.mup import width_multiplier
from neox.config.sections import ModelConfig
from neox.config.shapes import mixture_layers
from neox.config.sizes import padded_vocab_size
from neox.launch.plan import Plan, Stage

NAME_WIDTH = 12
SPLIT = {1: "optimizer", 2: "optimizer and gradients", 3: "optimizer, gradients and weights"}
SHOWN_STAGES, SHOWN_REPLICAS = 6, 3  # of a picture: the first ones, and the last


def print_plan(plan: Plan, console: Console, trains: bool, commands: bool) -> None:
    """The plan as lines of text; with the commands where they are wanted."""
    for name, words in _lines(plan, trains):
        console.print(Text.assemble((name.ljust(NAME_WIDTH), "bold"), words), soft_wrap=True)
    notes = plan.notes if trains else plan.given_notes
    for note in notes:
        console.print(Text.assemble(("note".ljust(NAME_WIDTH), "yellow"), note), soft_wrap=True)
    for words in _commands(plan.commands) if commands else []:
        console.print(Text.assemble(("command".ljust(NAME_WIDTH), "bold"), words), soft_wrap=True)


def _lines(plan: Plan, trains: bool) -> Iterator[tuple[str, str]]:
    config, model = plan.config, plan.config.model
    padded = padded_vocab_size(model, plan.vocab_size)
    yield "script", plan.script
    yield (
        "model",
        f"{model.num_layers} layers, {model.hidden_size} wide, {model.num_attention_heads} heads, "
        f"{_experts(model)}sequence {model.seq_length}, vocabulary {plan.vocab_size:,} (padded to {padded:,})",
    )
    if model.use_mup:
        yield "muP", _mup(model)
    words = (
        f"{plan.parameters.total:,} in all ({_short(plan.parameters.total)}), "
        f"{plan.parameters.non_embedding:,} without embeddings"
    )
    if plan.parameters.active < plan.parameters.total:
        words += f"; a token passes through {plan.parameters.active:,} ({_short(plan.parameters.active)})"
    if plan.parameters.trainable < plan.parameters.total:
        words += f"; {plan.parameters.trainable:,} are trained ({_short(plan.parameters.trainable)})"
    if config.parallel.world_size > 1:
        words += f"; {_short(plan.parameters_per_gpu)} on each process"
    yield "parameters", words
    yield "layout", _layout(plan)
    for line in _picture(plan):
        yield "", line
    if trains:
        yield from _training(plan)
    if Path(plan.script).name == "serve.py":
        yield from _serving(plan)


def _serving(plan: Plan) -> Iterator[tuple[str, str]]:
    serving, rows = plan.config.serving, plan.config.generation.generation_batch_size
    yield "address", f"http://{serving.serve_host}:{serving.serve_port}"
    yield "at once", f"{rows} texts, and {serving.serve_max_waiting} more that wait"
    yield "memory", f"{_bytes(plan.weight_bytes)} of weights; keys and values take up to {_bytes(plan.cache_bytes)}"


def _training(plan: Plan) -> Iterator[tuple[str, str]]:
    config, parallel, batch = plan.config, plan.config.parallel, plan.config.batch
    steps, tokens = batch.train_iters, plan.tokens_per_step
    yield (
        "batch",
        f"{batch.train_batch_size} = {batch.train_micro_batch_size_per_gpu} per forward pass x "
        f"{batch.gradient_accumulation_steps} accumulated x {parallel.data_size} replicas; "
        f"{tokens:,} tokens a step",
    )
    yield "steps", f"{steps:,}: {tokens * steps:,} tokens ({_short(tokens * steps)}) in all"
    yield "compute", f"{plan.flops_per_token:.3g} FLOP a token, {plan.flops:.3g} in all"
    yield "precision", f"{config.precision.precision}, ZeRO stage {config.optimization.zero_stage}"
    sizes = [f"{name} {_bytes(size)}" for name, size in plan.memory.parts().items() if size > 0]
    less = f", less {_bytes(-plan.memory.not_at_once)} not at once" if plan.memory.not_at_once else ""
    room = "" if plan.gpu is None else f" of {GPUS[plan.gpu].memory_gib:g} GiB ({plan.gpu})"
    yield "memory", f"about {_bytes(plan.memory.total)}{room} for each process: {', '.join(sizes)}{less}"
    yield "", f"most of it is held at the time of {plan.memory.moment}"
    if plan.step_time is not None:
        seconds = plan.step_time.total
        peak = plan.cluster.flops_per_second(config.precision.precision) / plan.cluster.efficiency / 1e12
        yield (
            "time",
            f"about {seconds:.3g} s a step, {_short(tokens / seconds)} tokens/s, {_duration(seconds * steps)} in all, with "
            f"matrix products at {plan.cluster.efficiency:.0%} of the peak of {peak:g} TFLOP/s",
        )
    if plan.checkpoints:
        free = "" if plan.free_disk_bytes is None else f"; {_gigabytes(plan.free_disk_bytes)} are free"
        yield (
            "checkpoints",
            f"{_gigabytes(plan.checkpoint_bytes)} each, at most {plan.checkpoints} at once: "
            f"{_gigabytes(plan.disk_bytes)}{free}",
        )


def _experts(model: ModelConfig) -> str:
    """The mixtures of experts, in words."""
    if model.moe_num_experts == 1:
        return ""
    return f"{model.moe_num_experts} experts in {sum(mixture_layers(model))} layers (top {model.moe_top_k}), "


def _mup(model: ModelConfig) -> str:
    times = width_multiplier(model)
    return (
        f"{times:g} times as wide as the base model ({model.mup_base_hidden_size} wide, {model.mup_base_num_attention_heads} "
        f"heads): the matrices of the blocks learn at lr / {times:g}, and logits are divided by {times * model.mup_output_temp:g}"
    )


def _layout(plan: Plan) -> str:
    parallel = plan.config.parallel
    words = f"{parallel.world_size} process" + ("es" if parallel.world_size > 1 else "")
    if parallel.world_size > 1:
        words += f" = {parallel.tensor_size} tensor x {parallel.pipe_size} pipeline x {parallel.data_size} data"
    if parallel.expert_size > 1:
        words += f"; {parallel.expert_size} replicas share the experts"
    return words + ("; sequence parallel" if parallel.sequence_parallel else "")


def _picture(plan: Plan) -> list[str]:
    """A row for each stage, a column for each replica, in each field its ranks; of many, the first and the last."""
    parallel = plan.config.parallel
    if parallel.world_size == 1:
        return []
    replicas = _some(parallel.data_size, SHOWN_REPLICAS)
    rows = [["", *(f"replica {replica}" if replica is not None else "..." for replica in replicas), "holds"]]
    for number in _some(parallel.pipe_size, SHOWN_STAGES):
        if number is None:
            rows.append(["...", *("" for _ in replicas), ""])
            continue
        stage = plan.stages[number]
        fields = ["..." if replica is None else _ranks(stage, replica, parallel.tensor_size) for replica in replicas]
        rows.append([f"stage {number}", *fields, _holds(stage)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(field.ljust(width) for field, width in zip(row, widths)).rstrip() for row in rows]
    if parallel.tensor_size > 1:
        lines.append(f"each matrix of a stage is split over the {parallel.tensor_size} ranks of a field")
    stage = plan.config.optimization.zero_stage
    if stage and parallel.data_size > 1:
        lines.append(f"each replica holds 1/{parallel.data_size} of a stage's {SPLIT[stage]} (ZeRO {stage})")
    return lines


def _some(count: int, shown: int) -> list[int | None]:
    """The first numbers below count and the last one; None for those left out between them."""
    if count <= shown + 1:
        return list(range(count))
    return [*range(shown), None, count - 1]


def _ranks(stage: Stage, replica: int, tensor_size: int) -> str:
    first = stage.ranks.start + replica * tensor_size
    return f"rank {first}" if tensor_size == 1 else f"ranks {first}-{first + tensor_size - 1}"


def _holds(stage: Stage) -> str:
    first, last = stage.blocks.start, stage.blocks.stop - 1
    blocks = f"block {first}" if first == last else f"blocks {first}-{last}"
    before = [part for part in stage.parts if part == "embedding"]
    return ", ".join([*before, blocks, *(part for part in stage.parts if part not in before)])


def _commands(commands: Sequence[Sequence[str]]) -> list[str]:
    """The first command, and how those of the other ranks differ."""
    words = [shlex.join(commands[0])]
    if len(commands) > 1:
        others = "1" if len(commands) == 2 else f"1 to {len(commands) - 1}"
        words.append(f"and for rank {others} the same with RANK and LOCAL_RANK {others}")
    return words


def _short(count: float) -> str:
    """1234567 -> 1.23M."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.3g}"


def _bytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _gigabytes(size: int) -> str:
    """As disks are sold."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    for size, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} s"
