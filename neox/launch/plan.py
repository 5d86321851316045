"""What will run, as one record: sizes, layout, steps, memory, time, disk and commands.

Knows nothing about how processes are started or how the plan is printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from neox.config.draft import updated
from neox.config.gpus import GPUS
from neox.config.memory import Memory, memory
from neox.config.mup import width_multiplier
from neox.config.sections import Config
from neox.config.shapes import head_width, kv_heads, tokens_per_sample
from neox.config.sizes import (
    ParameterCounts,
    blocks_of_stage,
    flops_per_token,
    parameter_counts,
    stage_parameters,
)
from neox.config.step_time import Cluster, StepTime, step_time
from neox.config.zero_memory import FP16, FP32, moment_bytes


@dataclass(frozen=True)
class Stage:
    """One pipeline stage of the layout."""

    number: int
    blocks: range  # from 0
    ranks: range  # replica by replica, and the tensor-parallel group within each
    parts: tuple[str, ...]  # what it holds beside the blocks


@dataclass(frozen=True)
class Plan:
    """A run before it starts."""

    script: str
    config: Config
    vocab_size: int
    gpu: str | None  # short name of the GPUs that it is planned for, where they are known
    on_gpu: bool
    free_disk_bytes: int | None  # where checkpoints are saved
    commands: Sequence[Sequence[str]]
    given_notes: Sequence[str] = ()
    machine_bytes: int | None = None  # memory of this machine, where all processes run on its CPU

    @cached_property
    def parameters(self) -> ParameterCounts:
        """Parameters of the whole model."""
        return parameter_counts(self.config.model, self.vocab_size)

    @cached_property
    def parameters_per_gpu(self) -> int:
        """Parameters that the fullest process holds; ZeRO 3 divides them over the replicas."""
        parallel = self.config.parallel
        most = max(stage_parameters(self.config, self.vocab_size, stage) for stage in range(parallel.pipe_size))
        return -(-most // parallel.data_size) if self.config.optimization.zero_stage == 3 else most

    @cached_property
    def memory(self) -> Memory:
        """Memory of the fullest process."""
        return memory(self.config, self.vocab_size, self.on_gpu)

    @property
    def fits(self) -> bool | None:
        """Whether the memory suffices; None where the GPU is not known."""
        return None if self.gpu is None else self.memory.total <= GPUS[self.gpu].memory_bytes

    @cached_property
    def cluster(self) -> Cluster | None:
        """What the step time is reckoned with; None where the GPU is not known."""
        return self.gpu and Cluster(GPUS[self.gpu], peak_tflops=self.config.monitor.peak_theoretical_tflops)

    @cached_property
    def step_time(self) -> StepTime | None:
        """Expected time of a step; None where the GPU is not known."""
        return self.cluster and step_time(self.config, self.vocab_size, self.cluster)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step, over all processes."""
        return self.config.batch.train_batch_size * tokens_per_sample(self.config.model)

    @property
    def flops_per_token(self) -> float:
        """Floating-point operations for one token, forward and backward, recomputation not counted."""
        return flops_per_token(self.config.model, self.vocab_size)

    @property
    def flops(self) -> float:
        """Floating-point operations of the whole run."""
        return self.flops_per_token * self.tokens_per_step * (self.config.batch.train_iters or 0)

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of one checkpoint: weights and moments in fp32, each once, and frozen weights as the model computes with them."""
        trained = self.parameters.trainable
        frozen = self.parameters.total - trained
        return (FP32 + moment_bytes(self.config)) * trained + self._number_bytes * frozen

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights alone, as the model computes with them."""
        return self._number_bytes * self.parameters.total

    @property
    def cache_bytes(self) -> int:
        """Most bytes of the keys and values of all texts that are written together."""
        model = self.config.model
        numbers = 2 * model.num_layers * kv_heads(model) * head_width(model) * model.max_position_embeddings
        return self._number_bytes * numbers * self.config.generation.generation_batch_size

    @property
    def _number_bytes(self) -> int:
        return FP32 if self.config.precision.precision == "fp32" else FP16

    @property
    def checkpoints(self) -> int:
        """Most checkpoints that the run has on the disk at once; one is removed only after the next is written."""
        checkpoint, steps = self.config.checkpoint, self.config.batch.train_iters
        if checkpoint.save is None or steps is None:
            return 0
        regular = steps // checkpoint.checkpoint_factor if checkpoint.checkpoint_factor else 0
        others = {*checkpoint.extra_save_iters, steps}
        written = regular + sum(
            not (checkpoint.checkpoint_factor and step and step % checkpoint.checkpoint_factor == 0) for step in others
        )
        kept = checkpoint.keep_last_n_checkpoints
        return written if kept is None else min(written, kept + 1)

    @property
    def disk_bytes(self) -> int:
        """Most bytes that the run's checkpoints take."""
        return self.checkpoints * self.checkpoint_bytes

    @property
    def cannot_save(self) -> str | None:
        """Why not even the first checkpoint can be written; None where it can, or where nothing is saved."""
        free, needed = self.free_disk_bytes, self.checkpoint_bytes
        if free is None or needed <= free:
            return None
        return f"save: a checkpoint takes {needed:,} bytes, and the disk of {self.config.checkpoint.save} has {free:,} free"

    @property
    def stages(self) -> list[Stage]:
        """The layout, stage by stage."""
        parallel, layers = self.config.parallel, self.config.model.num_layers
        stages, first = [], 0
        for number in range(parallel.pipe_size):
            blocks = range(first, first + blocks_of_stage(layers, parallel.pipe_size, number))
            each = parallel.tensor_size * parallel.data_size
            ends = (("embedding",) if number == 0 else ()) + (
                ("final norm", "output layer") if number == parallel.pipe_size - 1 else ()
            )
            stages.append(Stage(number, blocks, range(number * each, (number + 1) * each), ends))
            first = blocks.stop
        return stages

    @property
    def notes(self) -> list[str]:
        """What the user should know, the plan's own findings last."""
        return [*self.given_notes, *_notes(self)]

    def as_json(self) -> dict[str, Any]:
        """The plan as the JSON object that `--dry-run --json` prints."""
        config, parallel, batch = self.config, self.config.parallel, self.config.batch
        return {
            "parameters": {**asdict(self.parameters), "per_gpu": self.parameters_per_gpu},
            "width_multiplier": width_multiplier(config.model),
            "flops_per_token": self.flops_per_token,
            "flops": self.flops,
            "parallel": {
                "world_size": parallel.world_size,
                "tensor": parallel.tensor_size,
                "pipeline": parallel.pipe_size,
                "data": parallel.data_size,
                "zero_stage": config.optimization.zero_stage,
                **({"expert": parallel.expert_size} if config.model.moe_num_experts > 1 else {}),
            },
            "layout": [
                {
                    "stage": stage.number,
                    "blocks": [stage.blocks.start, stage.blocks.stop - 1],
                    "ranks": [stage.ranks.start, stage.ranks.stop - 1],
                    "parts": list(stage.parts),
                }
                for stage in self.stages
            ],
            "batch": {
                "train_batch_size": batch.train_batch_size,
                "micro_batch_size": batch.train_micro_batch_size_per_gpu,
                "gradient_accumulation_steps": batch.gradient_accumulation_steps,
                "tokens_per_step": self.tokens_per_step,
            },
            "memory": {"per_gpu_bytes": self.memory.total, **self.memory.parts()},
            "fullest_moment": self.memory.moment,
            "gpu": self.gpu and {"name": self.gpu, "memory_bytes": GPUS[self.gpu].memory_bytes, "fits": self.fits},
            "steps": batch.train_iters or 0,
            "time": self.step_time and self._time(self.step_time),
            "checkpoint": {
                "bytes": self.checkpoint_bytes,
                "most_at_once": self.checkpoints,
                "disk_bytes": self.disk_bytes,
                "free_disk_bytes": self.free_disk_bytes,
            },
            "commands": [list(command) for command in self.commands],
            "config": config.model_dump(mode="json"),
            "vocab_size": self.vocab_size,
            "notes": self.notes,
        }

    def _time(self, step: StepTime) -> dict[str, float]:
        return {
            "seconds_per_step": step.total,
            **asdict(step),
            "tokens_per_second": self.tokens_per_step / step.total,
            "seconds": step.total * (self.config.batch.train_iters or 0),
            "efficiency": self.cluster.efficiency,
        }


def _notes(plan: Plan) -> Iterator[str]:
    if plan.fits is False:
        needed, room = plan.memory.total / 2**30, GPUS[plan.gpu].memory_gib
        yield f"DOES NOT FIT: {needed:.1f} GiB on each GPU, and {plan.gpu} has {room:g} GiB; {_advice(plan)}"
    needed = plan.memory.total * plan.config.parallel.world_size
    if plan.machine_bytes is not None and needed > plan.machine_bytes:
        yield (
            f"DOES NOT FIT: this machine has no GPU, and {plan.machine_bytes / 2**30:.1f} GiB of memory for the "
            f"{needed / 2**30:.1f} GiB of all processes: take a smaller model or batch, or GPUs (gpu=KIND plans for them)"
        )
    if plan.free_disk_bytes is not None and plan.disk_bytes > plan.free_disk_bytes:
        yield (
            f"save: the checkpoints come to {plan.disk_bytes / 1e9:.1f} GB ({plan.checkpoints} of "
            f"{plan.checkpoint_bytes / 1e9:.1f} GB), and the disk of {plan.config.checkpoint.save} has "
            f"{plan.free_disk_bytes / 1e9:.1f} GB free: lower keep_last_n_checkpoints, or save elsewhere"
        )


def _advice(plan: Plan) -> str:
    """Single changes that would make the run fit, or where to look for more."""
    mended = [
        f"{words} makes it {needed / 2**30:.1f} GiB"
        for words, config in smaller(plan.config)
        if (needed := memory(config, plan.vocab_size).total) <= GPUS[plan.gpu].memory_bytes
    ]
    search = f"python tools/plan.py CONFIG... --gpus {plan.config.parallel.world_size} --gpu {plan.gpu}"
    return f"{'; or '.join(mended) or 'no single change suffices'}; other layouts: {search}"


def _highest_stage(config: Config) -> int:
    if config.parallel.pipe_size > 1:
        return 1
    return 2 if config.model.moe_num_experts > 1 or config.model.lora_rank is not None else 3


def smaller(config: Config) -> Iterator[tuple[str, Config]]:
    """Single changes of a configuration that take less memory, in words, and what it is with each."""
    batch, zero = config.batch, config.optimization.zero_optimization
    if not config.recompute.checkpoint_activations:
        yield "checkpoint_activations: true", updated(config, {"checkpoint_activations": True})
    elif config.recompute.recompute_num_layers is not None:
        yield "recompute_num_layers: null", updated(config, {"recompute_num_layers": None})
    if config.parallel.data_size > 1 and zero.stage < _highest_stage(config):
        further = zero.model_copy(update={"stage": zero.stage + 1})
        yield f"zero_optimization.stage: {zero.stage + 1}", updated(config, {"zero_optimization": further})
    micro, steps = batch.train_micro_batch_size_per_gpu, batch.gradient_accumulation_steps
    if micro % 2 == 0:
        halved = {"train_micro_batch_size_per_gpu": micro // 2, "gradient_accumulation_steps": 2 * steps}
        yield f"train_micro_batch_size_per_gpu: {micro // 2}", updated(config, halved)
