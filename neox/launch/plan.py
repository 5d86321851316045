"""What will run: sizes, layout, steps, memory and commands, as one record, one JSON object or a page of text.

Knows nothing about how processes are started.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from neox.config.sections import Config
from neox.config.sizes import (
    ParameterCounts,
    blocks_of_stage,
    flops_per_token,
    memory_bytes,
    padded_vocab_size,
    parameter_counts,
)

NAME_WIDTH = 12


@dataclass(frozen=True)
class Plan:
    """A run before it starts."""

    script: str
    config: Config
    vocab_size: int
    parameters: ParameterCounts
    flops_per_token: float
    memory: dict[str, int]  # bytes of the fullest GPU by parts, and their total
    commands: Sequence[Sequence[str]]
    notes: Sequence[str]

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step, over all processes."""
        return self.config.batch.train_batch_size * self.config.model.seq_length

    def as_json(self) -> dict[str, Any]:
        """The plan as the JSON object that `--dry-run --json` prints."""
        config, parallel, batch = self.config, self.config.parallel, self.config.batch
        parts = {name: size for name, size in self.memory.items() if name != "total"}
        return {
            "parameters": {
                "total": self.parameters.total,
                "total_unpadded": self.parameters.total_unpadded,
                "non_embedding": self.parameters.non_embedding,
            },
            "flops_per_token": self.flops_per_token,
            "parallel": {
                "world_size": parallel.world_size,
                "tensor": parallel.tensor_size,
                "pipeline": parallel.pipe_size,
                "data": parallel.data_size,
                "zero_stage": config.optimization.zero_stage,
            },
            "batch": {
                "train_batch_size": batch.train_batch_size,
                "micro_batch_size": batch.train_micro_batch_size_per_gpu,
                "gradient_accumulation_steps": batch.gradient_accumulation_steps,
                "tokens_per_step": self.tokens_per_step,
            },
            "memory": {"per_gpu_bytes": self.memory["total"], **parts},
            "steps": batch.train_iters or 0,
            "commands": [list(command) for command in self.commands],
            "config": config.model_dump(mode="json"),
            "vocab_size": self.vocab_size,
            "notes": list(self.notes),
        }


def make_plan(
    script: str, config: Config, vocab_size: int, commands: Sequence[Sequence[str]], notes: Sequence[str] = ()
) -> Plan:
    """The plan of a resolved configuration."""
    return Plan(
        script=script,
        config=config,
        vocab_size=vocab_size,
        parameters=parameter_counts(config.model, vocab_size),
        flops_per_token=flops_per_token(config.model, vocab_size),
        memory=memory_bytes(config, vocab_size),
        commands=commands,
        notes=notes,
    )


def print_plan(plan: Plan, console: Console, trains: bool, commands: bool) -> None:
    """The plan as lines of text; with the commands where they are wanted."""
    for name, words in _lines(plan, trains):
        console.print(Text.assemble((name.ljust(NAME_WIDTH), "bold"), words), soft_wrap=True)
    for note in plan.notes:
        console.print(Text.assemble(("note".ljust(NAME_WIDTH), "yellow"), note), soft_wrap=True)
    for words in _commands(plan.commands) if commands else []:
        console.print(Text.assemble(("command".ljust(NAME_WIDTH), "bold"), words), soft_wrap=True)


def _lines(plan: Plan, trains: bool) -> list[tuple[str, str]]:
    config, model, parallel, batch = plan.config, plan.config.model, plan.config.parallel, plan.config.batch
    padded = padded_vocab_size(model, plan.vocab_size)
    lines = [
        ("script", plan.script),
        (
            "model",
            f"{model.num_layers} layers, {model.hidden_size} wide, {model.num_attention_heads} heads, "
            f"sequence {model.seq_length}, vocabulary {plan.vocab_size:,} (padded to {padded:,})",
        ),
        (
            "parameters",
            f"{plan.parameters.total:,} in all ({_short(plan.parameters.total)}), "
            f"{plan.parameters.non_embedding:,} without embeddings",
        ),
        ("layout", _layout(config)),
    ]
    if not trains:
        return lines
    steps, tokens = batch.train_iters, plan.tokens_per_step
    lines += [
        (
            "batch",
            f"{batch.train_batch_size} = {batch.train_micro_batch_size_per_gpu} per forward pass x "
            f"{batch.gradient_accumulation_steps} accumulated x {parallel.data_size} replicas; "
            f"{tokens:,} tokens a step",
        ),
        ("steps", f"{steps:,}: {tokens * steps:,} tokens ({_short(tokens * steps)}) in all"),
        (
            "compute",
            f"{plan.flops_per_token:.3g} FLOP a token, {plan.flops_per_token * tokens * steps:.3g} in all",
        ),
        ("precision", f"{config.precision.precision}, ZeRO stage {config.optimization.zero_stage}"),
        (
            "memory",
            f"about {_bytes(plan.memory['total'])} for each process: "
            + ", ".join(f"{name} {_bytes(size)}" for name, size in plan.memory.items() if name != "total" and size),
        ),
    ]
    return lines


def _layout(config: Config) -> str:
    parallel, layers = config.parallel, config.model.num_layers
    words = f"{parallel.world_size} process" + ("es" if parallel.world_size > 1 else "")
    if parallel.world_size == 1:
        return words
    words += f" = {parallel.tensor_size} tensor x {parallel.pipe_size} pipeline x {parallel.data_size} data"
    if parallel.pipe_size > 1:
        blocks = [blocks_of_stage(layers, parallel.pipe_size, stage) for stage in range(parallel.pipe_size)]
        words += f"; blocks of each stage: {', '.join(map(str, blocks))}"
    if parallel.sequence_parallel:
        words += "; sequence parallel"
    return words


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
    return f"{count:g}"


def _bytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
