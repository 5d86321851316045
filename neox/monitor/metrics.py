"""What a step measured, by its public name, and how fast it was. Knows nothing about where metrics go.

The names are a contract (JSON lines, Weights & Biases and TensorBoard carry the same): `train/*`, `validation/*`,
`runtime/*`, `memory/max_allocated`. A number that is not known is left out, never given as zero.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch

LARGEST_EXPONENT = math.log(sys.float_info.max)


def training_metrics(
    *,
    lm_loss: float,
    learning_rate: float,
    grad_norm: float | None,
    loss_scale: float | None,
    consumed_tokens: int,
    measures: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, float]:
    """Metrics of one optimizer step.

    `lm_loss` is the mean over the tokens of the global batch, in nats (of DPO, over its pairs); `grad_norm` the global norm before
    clipping, None where it is not known; `loss_scale` is None except in fp16. `measures` are what only some runs have:
    `moe_auxiliary_loss`, the balancing loss of the mixtures of experts, one for each such layer where it is even, not weighted and
    not part of `lm_loss`; and of DPO `chosen_reward`, `rejected_reward`, `reward_margin` between them, and `reward_accuracy`, the
    share of the pairs whose margin is above 0.
    """
    metrics: dict[str, float] = {
        "train/lm_loss": lm_loss,
        "train/learning_rate": learning_rate,
        "train/consumed_tokens": consumed_tokens,
    }
    if grad_norm is not None:
        metrics["train/grad_norm"] = grad_norm
    if loss_scale is not None:
        metrics["train/loss_scale"] = loss_scale
    return metrics | {f"train/{name}": value for name, value in measures.items()}


def validation_metrics(means: Mapping[str, float], of_tokens: bool = True) -> dict[str, float]:
    """Metrics of one evaluation: `lm_loss`, what else the means hold, and where the loss is that of tokens their perplexity."""
    metrics = {f"validation/{name}": value for name, value in means.items()}
    if of_tokens:
        # a loss that is NaN fails the comparison too, and has no perplexity either
        loss = means["lm_loss"]
        metrics["validation/lm_loss_ppl"] = math.exp(loss) if loss <= LARGEST_EXPONENT else math.inf
    return metrics


def memory_metrics(device: torch.device) -> dict[str, float]:
    """Most bytes held so far: by tensors on a CUDA device, else by the whole process (its peak resident set)."""
    if device.type == "cuda":
        return {"memory/max_allocated": torch.cuda.max_memory_allocated(device)}
    # Linux counts in KiB, macOS in bytes
    unit = 1 if sys.platform == "darwin" else 1024
    return {"memory/max_allocated": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def runtime_metrics(
    *,
    seconds_per_step: float,
    samples_per_step: int,
    tokens_per_sample: int,
    flops_per_token: float,
    processes: int,
    peak_tflops: float | None,
) -> dict[str, float]:
    """Rates of the whole run, and the floating-point rate of one process.

    `samples_per_step` is over all processes; `flops_per_token` is forward plus backward of the whole model,
    recomputation not counted; `peak_tflops` is of one process's device, and where it is None there is no
    `runtime/model_flops_utilization`.
    """
    samples_per_second = samples_per_step / seconds_per_step
    tokens_per_second = samples_per_second * tokens_per_sample
    flops_per_second = tokens_per_second * flops_per_token / processes
    metrics = {
        "runtime/iteration_time": seconds_per_step,
        "runtime/samples_per_sec": samples_per_second,
        "runtime/tokens_per_sec": tokens_per_second,
        "runtime/flops_per_sec_per_gpu": flops_per_second,
    }
    if peak_tflops is not None:
        metrics["runtime/model_flops_utilization"] = flops_per_second / (peak_tflops * 1e12)
    return metrics


class Throughput:
    """A stopwatch over training steps: `step()` after each, `take()` when a line is due.

    Time inside `paused()` (evaluation, saving) is not counted. On CUDA the host runs ahead of the device, so read a
    value of the last step (its loss) before `take()` or `paused()`.
    """

    def __init__(
        self,
        *,
        samples_per_step: int,
        tokens_per_sample: int,
        flops_per_token: float,
        processes: int,
        peak_tflops: float | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.samples_per_step = samples_per_step
        self.tokens_per_sample = tokens_per_sample
        self.flops_per_token = flops_per_token
        self.processes = processes
        self.peak_tflops = peak_tflops
        self._clock = clock
        self._started = clock()
        self._paused_seconds = 0.0
        self._steps = 0

    def step(self) -> None:
        """Count one finished step."""
        self._steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens inside out of the step time."""
        started = self._clock()
        try:
            yield
        finally:
            self._paused_seconds += self._clock() - started

    def take(self) -> dict[str, float]:
        """The `runtime/*` metrics of the steps since the last call, and start again; empty where there was no step."""
        now = self._clock()
        steps, seconds = self._steps, now - self._started - self._paused_seconds
        self._started, self._paused_seconds, self._steps = now, 0.0, 0
        if steps == 0:
            return {}
        return runtime_metrics(
            seconds_per_step=seconds / steps,
            samples_per_step=self.samples_per_step,
            tokens_per_sample=self.tokens_per_sample,
            flops_per_token=self.flops_per_token,
            processes=self.processes,
            peak_tflops=self.peak_tflops,
        )
