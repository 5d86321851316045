"""One optimizer step, and one evaluation step, whatever the layout. The only caller of DeepSpeed's engines.

The loss of a step is that of the global batch, whatever the layout: neox/training/objectives.py weighs the labels of each
micro-batch such that the averages over micro-batches and replicas that DeepSpeed takes give exactly that.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import deepspeed
import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import distributed

from neox.checkpoint.fragments import base_optimizer
from neox.checkpoint.state import TrainingState
from neox.config.deepspeed import deepspeed_config
from neox.config.mup import width_multiplier
from neox.config.sections import Config
from neox.config.shapes import mixture_layers
from neox.data.batches import Batch
from neox.model import pipeline
from neox.model.compiled import compile_blocks
from neox.model.documents import Documents
from neox.model.dtypes import DTYPES
from neox.model.gpt import GPT
from neox.monitor.timers import Timers
from neox.parallel.mpu import MpuAdapter
from neox.parallel.topology import Topology
from neox.training.experts import announce_experts
from neox.training.gradients import divisor, global_norm
from neox.training.masters import MasterOptimizer
from neox.training.objectives import MicroBatch, build_objective
from neox.training.optimizer import build_optimizer, import_muon_uncompiled, set_learning_rate
from neox.training.stage3 import sharing_out, without_compiler

logging.getLogger("DeepSpeed").setLevel(logging.WARNING)

# For sums in fp32 at ZeRO 1 DeepSpeed has an optimizer for bf16 alone, which makes the host wait for the norm at each step, and
# holds all gradients in 16 bits beside the sums. Its optimizer of stages 1 and 2, which fp16 gets, does the same work in bf16.
DeepSpeedEngine._configure_bf16_optimizer = DeepSpeedEngine._configure_zero_optimizer


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step measured; the tensors stay on the device until somebody asks for a number."""

    loss: torch.Tensor  # mean over the tokens of the global batch, before the update
    measures: dict[str, torch.Tensor]  # further means over the global batch, by the names of their metrics
    grad_norm: float | torch.Tensor  # global norm before clipping
    skipped: bool  # DeepSpeed made no update: an overflow of fp16, or a gradient that is not finite
    loss_scale: float | None  # of fp16


class Engine:
    """The model, its optimizer, and DeepSpeed around them."""

    def __init__(
        self,
        config: Config,
        topology: Topology,
        vocab_size: int,
        reference: GPT | None = None,
        from_checkpoint: bool = False,
    ):
        """reference: a frozen copy of the weights that the run begins with, for the objective that compares with it.
        from_checkpoint: a checkpoint is restored into `state` next, so that no weights are drawn, but those of adapters."""
        self.device = topology.device
        self.synchronous = topology.device.type == "cpu"  # reading a result costs nothing
        self.timers = Timers(topology.device, config.monitor.wall_clock_breakdown or config.monitor.profile)
        self._topology = topology
        self._accumulation = config.batch.gradient_accumulation_steps
        self._scaled = config.precision.precision == "fp16"
        self._clip = config.optimization.gradient_clipping
        self._balances = any(mixture_layers(config.model))
        self._balancing = config.model.moe_loss_coeff
        settings = deepspeed_config(config)
        self._pipelined = topology.pipe_size > 1
        stage = settings["zero_optimization"]["stage"]
        plain = stage == 0 and not self._pipelined
        # at ZeRO 0 in fp32 DeepSpeed clips without telling the norm, so the step does both itself
        self._owns_norm = plain and config.precision.precision == "fp32"
        # elsewhere DeepSpeed tells it, but would make the host wait for it to clip; the update clips in passing, unless it is the host's
        self._clips = not plain and not config.optimization.zero_optimization.offloads_optimizer
        if self._owns_norm or self._clips:
            settings["gradient_clipping"] = 0.0
        model_arguments = {
            "recompute": config.recompute,
            "vocab_size": vocab_size,
            "sequence_parallel": config.parallel.sequence_parallel,
            "topology": topology,
            "seed": config.run.seed,
            "from_checkpoint": from_checkpoint,
        }
        self._compiled = config.run.compile_blocks
        build = partial(pipeline.pipeline_module, compiled=self._compiled) if self._pipelined else GPT
        if stage == 3:
            dtype = DTYPES[config.precision.precision]
            model_arguments["finish"] = sharing_out(settings=settings, dtype=dtype, topology=topology)
        module = build(config.model, **model_arguments)
        self._objective = build_objective(config, vocab_size, topology, module, reference)
        if topology.expert_size > 1:
            announce_experts(module, topology)
        import_muon_uncompiled()
        with without_compiler() if stage == 3 else nullcontext():
            self._engine, *_ = deepspeed.initialize(
                model=module,
                optimizer=build_optimizer(config.optimization, module, width_multiplier(config.model)),
                config=settings,
                mpu=None if self._pipelined else MpuAdapter(topology),
                dist_init_required=False,
            )
        self._owns_scale = plain and self._scaled
        if plain and not self._owns_norm:
            self._engine.optimizer = MasterOptimizer(self._engine.optimizer, topology)
        if plain and topology.data_size == 1:
            # nothing to average: DeepSpeed would copy all gradients to a buffer and back
            self._engine.enable_backward_allreduce = False
        layers = list(pipeline.indexed_layers(module) if self._pipelined else module.indexed_layers())
        if self._compiled:
            compile_blocks(layer for _, layer in layers)
        names = {
            parameter: f"layers.{index}.{name}"
            for index, layer in layers
            for name, parameter in layer.named_parameters()
        }
        self.state = TrainingState(names, self._engine.optimizer, topology)
        self._ask_before_updates()
        if self._pipelined:
            pipeline.time_instructions(self._engine, self.timers)

    def train_step(
        self,
        batches: Iterator[Batch],
        learning_rate: float,
        admits: Callable[[float, float | None], bool] | None = None,
    ) -> StepResult:
        """Forward, backward and update over one global batch. Every rank calls this.

        admits: called once with the loss and the gradient norm (None in an fp16 overflow), tells whether to make the update. It
        makes the host wait for the device.
        """
        self._admits, self._admitted = admits, None
        self._engine.train()
        set_learning_rate(self._engine.optimizer, learning_rate)
        with self.timers.step():
            return self._train_step(batches)

    def _train_step(self, batches: Iterator[Batch]) -> StepResult:
        part = self.timers.part
        with part("data"):
            micro_batches = self._weighted(batches)
        measures: dict[str, torch.Tensor] = {}
        if self._pipelined:
            loss = self._engine.train_batch(self._piped(micro_batches)).detach()
        else:
            self._loss_so_far = loss = torch.zeros((), device=self._topology.device)
            measured = []
            for micro_batch in micro_batches:
                auxiliary: list[torch.Tensor] = []
                with part("forward"):
                    micro_loss, micro_measures = self._objective(self._engine, micro_batch, auxiliary)
                loss += micro_loss.detach() / self._accumulation
                measured.append(micro_measures)
                if self._balances:
                    imbalance = torch.stack(auxiliary).sum()
                    micro_measures["moe_auxiliary_loss"] = imbalance.detach()
                    micro_loss = micro_loss + self._balancing * imbalance
                scale = self._engine.optimizer.loss_scale if self._owns_scale else 1
                with part("backward"):
                    self._engine.backward(micro_loss * scale)
                with part("optimizer"):
                    if self._owns_norm and self._engine.is_gradient_accumulation_boundary():
                        self._set_norm()
                    self._engine.step()
            loss, measures = self._mean_over_replicas(loss), self._means(measured)
        if (
            self._admits is not None and self._admitted is None
        ):  # DeepSpeed left the update out before the question came
            self._admits(float(loss), None if self._scaled else math.inf)
        return StepResult(
            loss=loss,
            measures=measures,
            grad_norm=self._engine.get_global_grad_norm(),
            skipped=not self._engine.was_step_applied(),
            loss_scale=float(self._engine.optimizer.loss_scale) if self._scaled else None,
        )

    def _set_norm(self) -> None:
        """Find the norm of the gradients where DeepSpeed does not, and have the update clip by it."""
        trained = (weight for weight in self._engine.module.parameters() if weight.requires_grad)
        grad_norm = global_norm(((weight, weight.grad) for weight in trained), self._topology)
        self._engine.optimizer.grad_scale = divisor(grad_norm, self._clip)
        self._engine.optimizer._global_grad_norm = grad_norm  # where DeepSpeed's own keep theirs

    @torch.no_grad()
    def eval_step(self, batches: Iterator[Batch]) -> dict[str, torch.Tensor]:
        """Means over one global batch by name: `lm_loss`, and what else the objective measures. Every rank calls this."""
        self._engine.eval()
        micro_batches = self._weighted(batches)
        if self._pipelined:
            return {"lm_loss": self._engine.eval_batch(self._piped(micro_batches), compute_loss=True)}
        measured = [self._objective(self._engine, micro_batch, None) for micro_batch in micro_batches]
        return self._means([{"lm_loss": loss, **measures} for loss, measures in measured])

    def _ask_before_updates(self) -> None:
        """Have the torch optimizer, which is innermost in every wrapper, ask `admits` once a step before it changes anything, and
        clip where nobody else does."""
        optimizer = base_optimizer(self._engine.optimizer)
        update = optimizer.step

        def step(closure: None = None) -> None:
            if self._admits is not None and self._admitted is None:
                if self._pipelined:
                    loss = self._engine._aggregate_total_loss()
                else:
                    loss = self._mean_over_replicas(self._loss_so_far.clone())
                self._admitted = self._admits(float(loss), float(self._engine.optimizer._global_grad_norm))
            if self._admitted is not False:
                if self._clips:
                    norm = torch.as_tensor(self._engine.optimizer._global_grad_norm, dtype=torch.float32)
                    optimizer.grad_scale = divisor(norm, self._clip)
                update(closure)

        optimizer.step = step

    def _piped(self, batches: list[MicroBatch]) -> Iterator[tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]]:
        """The micro-batches as DeepSpeed's pipeline takes them; the documents go to the stage beside it."""
        self._engine.module.documents = iter([batch.documents for batch in batches])
        return iter([(batch.tokens, (batch.labels, batch.weights)) for batch in batches])

    def _weighted(self, batches: Iterator[Batch]) -> list[MicroBatch]:
        """The micro-batches of one step on the device."""
        device = self._topology.device
        taken = [next(batches) for _ in range(self._accumulation)]
        masks = [batch.loss_mask.to(device, non_blocking=True) for batch in taken]
        return [
            MicroBatch(
                tokens=batch.tokens.to(device, non_blocking=True),
                labels=batch.labels.to(device, non_blocking=True),
                weights=weights,
                documents=_documents(batch, device),
            )
            for batch, weights in zip(taken, self._objective.weights(masks))
        ]

    def _means(self, measured: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Over the micro-batches, and over the replicas."""
        return {
            name: self._mean_over_replicas(torch.stack([measures[name] for measures in measured]).mean())
            for name in measured[0]
        }

    def _mean_over_replicas(self, loss: torch.Tensor) -> torch.Tensor:
        if self._topology.data_size > 1:
            distributed.all_reduce(loss, group=self._topology.data_group)
        return loss / self._topology.data_size


def _documents(batch: Batch, device: torch.device) -> Documents | None:
    """Where the documents of a micro-batch lie, None where the run does not tell them apart."""
    if batch.documents is None and batch.positions is None:
        return None
    numbers, positions = (
        None if part is None else part.to(device, non_blocking=True) for part in (batch.documents, batch.positions)
    )
    return Documents(numbers, positions)
