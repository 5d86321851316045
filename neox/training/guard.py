"""Judge a step by its loss and its gradient before the update is made. The ranks judge together, so all of them do the same.

Loss spikes are told by the ratio to the usual loss, an exponential mean over recent good steps. What to do is PaLM's remedy
(Chowdhery et al., 2022, section 5.1: go back to a checkpoint and leave the data out that did it), its cheap half (leave the update out), or
to stop.
"""

from __future__ import annotations

import math
import sys
from typing import Literal

import torch
from torch import distributed

from neox.config.sections import OptimizerConfig
from neox.parallel.topology import Topology

WEIGHT_OF_A_STEP = 1 / 16  # in the usual loss
MOST_SKIPS = 10  # in a row: what does not pass by itself is no accident of the data
MOST_ROLLBACKS = 3  # without a new checkpoint in between

Fault = Literal["nonfinite", "spike"]
Remedy = Literal["stop", "skip", "rollback"]
CODES: tuple[Fault | None, ...] = (None, "spike", "nonfinite")  # the worst one of any rank counts


class NonFiniteLoss(RuntimeError):
    """The loss or the gradient is not a number any more, or far too large; the last checkpoint is the last good state."""

    def __init__(self, step: int, what: str, save: str | None) -> None:
        """what: was measured at the step, in words. save: the folder of the checkpoints."""
        where = f"the last checkpoint in {save} is kept" if save else "nothing was saved (no save key)"
        super().__init__(
            f"step {step}: {what}; {where}. A lower optimizer.params.lr, a longer warmup, gradient_clipping or "
            "precision: bf16 instead of fp16 usually help"
        )


def unusable(loss: float, grad_norm: float | None) -> str | None:
    """What is not finite, in words. grad_norm: None where it says nothing, as in an overflow of fp16."""
    if not math.isfinite(loss):
        return f"loss {loss}"
    if grad_norm is not None and not math.isfinite(grad_norm):
        return f"gradient norm {grad_norm}"
    return None


class Guard:
    """What the configuration says about bad steps, and the usual loss so far."""

    def __init__(self, config: OptimizerConfig, topology: Topology, usual_loss: float | None) -> None:
        self.usual_loss = usual_loss
        self._factor = config.loss_spike_factor
        self._remedies: dict[Fault, Remedy] = {"nonfinite": config.on_nonfinite, "spike": config.on_loss_spike}
        self._topology = topology
        # the answer is wanted on the host, as for `Signals`
        self._group = distributed.new_group(backend="gloo") if topology.backend == "nccl" else None
        self._fault: Fault | None = None
        self._what = ""
        self._skips = self._rollbacks = 0

    def admits(self, loss: float, grad_norm: float | None) -> bool:
        """Whether the update of a step is to be made; every rank calls this once a step, and all get the same answer."""
        fault, self._what = self._judged(loss, grad_norm)
        code, loss = self._agreed(CODES.index(fault), loss)
        self._fault = CODES[code]
        if self._fault is None:
            usual = loss if self.usual_loss is None else self.usual_loss
            self.usual_loss = usual + (loss - usual) * WEIGHT_OF_A_STEP
        return self._fault is None

    def remedy(self, step: int, save: str | None) -> Remedy | None:
        """What to do about the step that was just judged; None where it was good.

        Raises NonFiniteLoss where it is to stop, or where the remedy has not helped time and again.
        """
        remedy = self._remedies[self._fault] if self._fault else None
        self._skips = self._skips + 1 if remedy == "skip" else 0
        self._rollbacks += remedy == "rollback"
        if remedy is None:
            return None
        if self._skips > MOST_SKIPS:
            raise NonFiniteLoss(step, f"{self._what}, after {MOST_SKIPS} skipped steps in a row", save)
        if self._rollbacks > MOST_ROLLBACKS:
            raise NonFiniteLoss(step, f"{self._what}, after {MOST_ROLLBACKS} rollbacks without a new checkpoint", save)
        if remedy == "stop":
            raise NonFiniteLoss(step, self._what, save)
        if self._topology.is_main:
            print(f"step {step}: {self._what}: its update is left out ({remedy})", file=sys.stderr, flush=True)
        return remedy

    def saved(self) -> None:
        """A checkpoint was made: the rollbacks so far have helped."""
        self._rollbacks = 0

    def _judged(self, loss: float, grad_norm: float | None) -> tuple[Fault | None, str]:
        what = unusable(loss, grad_norm)
        if what is not None:
            return "nonfinite", what
        if self._factor and self.usual_loss is not None and loss > self._factor * self.usual_loss:
            return "spike", f"loss {loss:.4g}, {loss / self.usual_loss:.3g} times the usual {self.usual_loss:.4g}"
        return None, "the loss or the gradient of another rank is bad"

    def _agreed(self, code: int, loss: float) -> tuple[int, float]:
        """The worst code, and the largest loss: ranks may differ in its last bits."""
        if self._topology.world_size == 1:
            return code, loss
        worst = torch.tensor([code, loss if math.isfinite(loss) else 0.0], dtype=torch.float64)
        distributed.all_reduce(worst, op=distributed.ReduceOp.MAX, group=self._group)
        return int(worst[0]), float(worst[1])
