"""Find the layouts of a run that fit its GPUs, and rank them by predicted speed.

The global batch, and with it what is trained, stays as it is. Every layout keeps the rules that a configuration is checked with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from neox.config.draft import Draft, updated
from neox.config.gpus import Gpu
from neox.config.memory import Memory, memory
from neox.config.rules import RULES, TRAINING_RULES
from neox.config.rules.layout import vocabulary_fits
from neox.config.sections import Config
from neox.config.sizes import blocks_of_stage
from neox.config.step_time import Cluster, StepTime, step_time

LARGEST_MICRO_BATCH = 64


@dataclass(frozen=True)
class Layout:
    """One way to run the configuration."""

    config: Config
    memory: Memory
    time: StepTime

    @property
    def tokens_per_second(self) -> float:
        """Predicted tokens a second, over all GPUs."""
        return self.config.batch.train_batch_size * self.config.model.seq_length / self.time.total

    @property
    def keys(self) -> dict[str, Any]:
        """The keys that make this layout, as `--set` takes them."""
        config = self.config
        return {
            "model_parallel_size": config.parallel.tensor_size,
            "pipe_parallel_size": config.parallel.pipe_size,
            "sequence_parallel": config.parallel.sequence_parallel,
            "zero_optimization.stage": config.optimization.zero_stage,
            "train_micro_batch_size_per_gpu": config.batch.train_micro_batch_size_per_gpu,
            "gradient_accumulation_steps": config.batch.gradient_accumulation_steps,
            "checkpoint_activations": config.recompute.checkpoint_activations,
            "recompute_num_layers": config.recompute.recompute_num_layers,
        }

    def fits(self, gpu: Gpu) -> bool:
        """Whether the GPU has the memory."""
        return self.memory.total <= gpu.memory_bytes


@dataclass(frozen=True)
class Found:
    """What a search has seen: how many layouts keep the rules, and those of them that fit, the fastest first."""

    tried: int
    fitting: list[Layout]
    smallest: Layout | None  # of all, the one that needs least memory


def search(config: Config, vocab_size: int, cluster: Cluster) -> Found:
    """Try every layout of the configuration on its number of processes."""
    tried, fitting, smallest = 0, [], None
    fits = False
    for candidate in candidates(config, vocab_size, cluster.gpus_per_node):
        layout = reckon(candidate, vocab_size, cluster)
        tried += 1
        if smallest is None or layout.memory.total < smallest.memory.total:
            smallest = layout
        # each layout comes without recomputation first
        needs_recomputation = candidate.recompute.checkpoint_activations and not fits
        fits = layout.fits(cluster.gpu)
        if fits:
            fitting.append(layout)
        if fits and needs_recomputation:
            fitting += _with_fewest_recomputed(layout, vocab_size, cluster)
    # of equally fast ones the one that leaves more room
    fitting.sort(key=lambda layout: (-layout.tokens_per_second, layout.memory.total))
    return Found(tried, fitting, smallest)


def _with_fewest_recomputed(layout: Layout, vocab_size: int, cluster: Cluster) -> list[Layout]:
    """The layout, which recomputes all blocks and fits, with as few of them as still fit; none where it takes all."""
    config, found = layout.config, []
    fewest, enough = (
        config.recompute.checkpoint_num_layers,
        blocks_of_stage(config.model.num_layers, config.parallel.pipe_size, 0),
    )
    while fewest < enough:
        some = (fewest + enough) // 2
        tried = reckon(updated(config, {"recompute_num_layers": some}), vocab_size, cluster)
        if tried.fits(cluster.gpu):
            enough, found = some, [tried]
        else:
            fewest = some + 1
    return found


def reckon(config: Config, vocab_size: int, cluster: Cluster) -> Layout:
    """A configuration with its memory and its time."""
    return Layout(config, memory(config, vocab_size), step_time(config, vocab_size, cluster))


def candidates(config: Config, vocab_size: int, gpus_per_node: int) -> Iterator[Config]:
    """Configurations that keep the rules: tensor x pipeline x data x ZeRO x micro-batch x recomputation."""
    for tensor in divisors(config.parallel.world_size, gpus_per_node):
        for stages in divisors(config.parallel.world_size // tensor, config.model.num_layers):
            replicas = config.parallel.world_size // (tensor * stages)
            if config.batch.train_batch_size % replicas:
                continue
            for zero in range(4):
                layout = _with_layout(config, tensor, stages, zero)
                if keeps_rules(layout, vocab_size):
                    yield from _with_batches(layout)


def keeps_rules(config: Config, vocab_size: int) -> bool:
    """Whether no rule complains about a training run of this configuration."""
    draft = Draft(config, broken=set(), places={}, given=frozenset(), sources=())
    draft.check([*RULES, *TRAINING_RULES])
    stage_is_low = config.parallel.pipe_size > 1 and config.optimization.zero_stage == 0  # resolving would raise it
    return not draft.complaints and not stage_is_low and not list(vocabulary_fits(config, vocab_size))


def divisors(number: int, most: int) -> list[int]:
    """The divisors of a number up to `most`."""
    return [divisor for divisor in range(1, min(number, most) + 1) if number % divisor == 0]


def _with_layout(config: Config, tensor: int, stages: int, zero: int) -> Config:
    split = config.optimization.zero_optimization.model_copy(update={"stage": zero})
    keys = {
        "model_parallel_size": tensor,
        "pipe_parallel_size": stages,
        "sequence_parallel": config.parallel.sequence_parallel and tensor > 1,
        "zero_optimization": split,
    }
    return updated(config, keys)


def _with_batches(layout: Config) -> Iterator[Config]:
    of_replica = layout.batch.train_batch_size // layout.parallel.data_size
    for micro in divisors(of_replica, LARGEST_MICRO_BATCH):
        for recomputes in (False, True):
            keys = {
                "train_micro_batch_size_per_gpu": micro,
                "gradient_accumulation_steps": of_replica // micro,
                "checkpoint_activations": recomputes,
                "recompute_num_layers": None,
            }
            yield updated(layout, keys)
