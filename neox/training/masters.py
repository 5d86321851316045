"""fp32 masters of fp16 or bf16 weights at ZeRO 0."""

from __future__ import annotations

from functools import partial

import torch
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from torch import nn

from neox.parallel.topology import Topology
from neox.training.gradients import divisor, global_norm


class MasterOptimizer(FP16_UnfusedOptimizer):
    """Takes the place of the wrapper that `deepspeed.initialize` put around the optimizer, and takes over what it holds.

    DeepSpeed's own (0.19.8) makes an update from zero gradients when it is built, which decays the masters and counts as
    Adam's first step; it leaves the loss of fp16 unscaled but divides by the scale; of a tensor-parallel model it takes the
    norm of one rank's shard; and it reads the gradients three times more often. The caller scales the loss by `loss_scale`.

    One replica adds up the gradients of its micro-batches in fp32: a sum in bf16 loses what is less than 1/256 of it. Several
    replicas reduce the sums of each in the weights' type, as DeepSpeed does.
    """

    def __init__(self, wrapper: FP16_UnfusedOptimizer, topology: Topology):
        vars(self).update(vars(wrapper))
        self._topology = topology
        self.optimizer.state.clear()
        self.refresh_fp32_params()
        if topology.data_size == 1:
            for weight, master in zip(self._weights(), self._masters()):
                weight.register_post_accumulate_grad_hook(partial(_hand_over, master))

    @torch.no_grad()
    def step(self, closure: None = None) -> bool:
        """Update the masters, then the weights, from the weights' gradients; True where an fp16 overflow forbade it."""
        assert closure is None
        weights, masters = self._weights(), self._masters()
        for weight, master in zip(weights, masters):
            if weight.grad is not None:
                _hand_over(master, weight)
            elif master.grad is None:
                master.grad = torch.zeros_like(master)
        norm = global_norm(((weight, master.grad) for weight, master in zip(weights, masters)), self._topology)
        norm /= self.loss_scale
        if self.loss_scale_config.use_grad_scaling:
            if not norm.isfinite():
                _let_go(masters)
                return self._skip_invalid_grad_norm()
            # the gradients at hand still have the scale that the next line may change
            self.optimizer.grad_scale = divisor(norm, self.clip_grad) * self.loss_scale
            self._update_scale(False)
        else:
            self.optimizer.grad_scale = divisor(norm, self.clip_grad)
        self.overflow = False
        self._global_grad_norm = norm
        self.optimizer.step()
        _let_go(masters)
        torch._foreach_copy_(weights, masters)
        return False

    def _weights(self) -> list[nn.Parameter]:
        return [weight for group in self.fp16_groups for weight in group]

    def _masters(self) -> list[nn.Parameter]:
        return [master for group in self.fp32_groups for master in group]


def _hand_over(master: nn.Parameter, weight: nn.Parameter) -> None:
    """Add a weight's gradient to its master's."""
    if master.grad is None:
        master.grad = weight.grad.float()
    else:
        master.grad += weight.grad
    weight.grad = None


def _let_go(masters: list[nn.Parameter]) -> None:
    for master in masters:
        master.grad = None
