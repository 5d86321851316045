"""fp32 masters of fp16 or bf16 weights at ZeRO 0."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import torch
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from torch import Tensor, nn

from neox.model.moe import is_shared_out
from neox.parallel.topology import Topology
from neox.training.gradients import divisor, global_norm


class MasterOptimizer(FP16_UnfusedOptimizer):
    """Takes the place of the wrapper that `deepspeed.initialize` put around the optimizer, and takes over what it holds.

    DeepSpeed's own (0.19.8) makes an update from zero gradients when it is built, which decays the masters and counts as
    Adam's first step; it leaves the loss of fp16 unscaled but divides by the scale; of a tensor-parallel model it takes the
    norm of one rank's shard; and it reads the gradients three times more often. The caller scales the loss by `loss_scale`.

    A replica adds up the gradients of its micro-batches in fp32: a sum in bf16 loses what is less than 1/256 of it. DeepSpeed's
    engine averages the sums over the replicas. It sends them in the weights' type, unless `fp32_allreduce` is given: half the
    bytes, for one rounding in a step instead of one with each micro-batch.
    """

    def __init__(self, wrapper: FP16_UnfusedOptimizer, topology: Topology):
        vars(self).update(vars(wrapper))
        self._topology = topology
        self.optimizer.state.clear()
        self.refresh_fp32_params()
        for weight, master in zip(self._weights(), self._masters()):
            weight.register_post_accumulate_grad_hook(partial(_hand_over, master))

    def get_grads_for_reduction(self) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
        """What DeepSpeed's engine averages over the replicas in place: the sums, and those of experts by the group that holds them."""
        everywhere, experts = [], defaultdict(list)
        for weight, gradients in zip(self._weights(), self._sums()):
            (experts[weight.group_name] if is_shared_out(weight) else everywhere).append(gradients)
        return everywhere, experts

    @torch.no_grad()
    def step(self, closure: None = None) -> bool:
        """Update the masters, then the weights, from the sums of gradients; True where an fp16 overflow forbade it."""
        assert closure is None
        weights, masters = self._weights(), self._masters()
        norm = global_norm(zip(weights, self._sums()), self._topology)
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

    def _sums(self) -> list[Tensor]:
        """The masters' gradients; zero for weights that no token of the step came by."""
        for master in self._masters():
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        return [master.grad for master in self._masters()]


def _hand_over(master: nn.Parameter, weight: nn.Parameter) -> None:
    """Add a weight's gradient to its master's.

    Autograd could add up in fp32 itself (`grad_dtype`), but torch.compile takes no weight whose gradient has another type.
    """
    if master.grad is None:
        master.grad = weight.grad.float()
    else:
        master.grad += weight.grad
    weight.grad = None


def _let_go(masters: list[nn.Parameter]) -> None:
    for master in masters:
        master.grad = None
