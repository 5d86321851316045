"""Cross entropy over a vocabulary that may be split over the tensor-parallel group and padded at its end.

Works through the logits a few rows at a time: fp32 exists only for the rows at hand, and the probabilities are computed
again in the backward pass instead of being kept. Compiled, it reads all rows in one pass and fp32 exists in registers alone. Padded
columns take no part and get no gradient, so the loss does not depend on the padding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor

from neox.config.shapes import LOSS_CHUNK
from neox.parallel.topology import Topology


def cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor, *, vocab_size: int, topology: Topology, compiled: bool = False
) -> Tensor:
    """Sum over the tokens of weight times loss, an fp32 scalar that is the same on every tensor rank.

    Weights that sum to 1 give a mean. logits: (seq, batch, padded vocabulary / tensor_size). labels: (batch, seq)
    int64. weights: (batch, seq); where one is 0, any label will do. vocab_size: without padding. compiled: by torch.compile.
    Every rank of the tensor group calls this: it reduces over it.
    """
    losses = token_losses(logits, labels, vocab_size=vocab_size, topology=topology, compiled=compiled).flatten()
    return losses @ weights.t().reshape(-1).to(losses.dtype)


def token_losses(
    logits: Tensor, labels: Tensor, *, vocab_size: int, topology: Topology, compiled: bool = False
) -> Tensor:
    """Loss of each token, minus the log of its probability: fp32 (seq, batch). Arguments as in `cross_entropy`."""
    seq, batch, width = logits.shape
    losses = _CrossEntropy.apply(logits.reshape(-1, width), labels.t().reshape(-1), vocab_size, topology, compiled)
    return losses.view(seq, batch)


class _CrossEntropy(torch.autograd.Function):
    """Loss of each token, fp32 (tokens,); logits (tokens, width) of this tensor rank."""

    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor, vocab_size: int, topology: Topology, compiled: bool) -> Tensor:
        width = logits.shape[1]
        start = topology.tensor_rank * width
        ctx.columns = max(0, min(width, vocab_size - start))
        ctx.compiled = compiled and ctx.columns > 0
        labels = labels - start
        elsewhere = (labels < 0) | (labels >= ctx.columns)
        labels = labels.masked_fill(elsewhere, 0)
        sums = _compiled(_sums_at_once) if ctx.compiled else _sums
        log_sums, chosen = sums(logits, labels, ctx.columns)
        chosen.masked_fill_(elsewhere, 0.0)
        if topology.tensor_size > 1:
            log_sums, chosen = _combine(log_sums, chosen, topology.tensor_group)
        ctx.save_for_backward(logits, labels, elsewhere, log_sums)
        return log_sums - chosen

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, labels, elsewhere, log_sums = ctx.saved_tensors
        at_label = gradient.masked_fill(elsewhere, 0.0)
        gradients = _compiled(_gradients_at_once) if ctx.compiled else _gradients
        return gradients(logits, labels, ctx.columns, log_sums, gradient, at_label), None, None, None, None


def _sums(logits: Tensor, labels: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Log of the sum of exponentials over the columns, and the label's logit, fp32 (tokens,) each."""
    log_sums = logits.new_full(logits.shape[:1], -torch.inf, dtype=torch.float32)
    chosen = torch.zeros_like(log_sums)
    for rows in _chunks(logits) if columns else ():
        part = logits[rows, :columns].float()
        log_sums[rows] = part.logsumexp(-1)
        chosen[rows] = part.gather(1, labels[rows, None]).squeeze(1)
    return log_sums, chosen


def _gradients(
    logits: Tensor, labels: Tensor, columns: int, log_sums: Tensor, gradient: Tensor, at_label: Tensor
) -> Tensor:
    """Gradient of the logits: each token's times the probabilities, less `at_label` where its label is."""
    result = torch.empty_like(logits)
    result[:, columns:] = 0
    for rows in _chunks(logits) if columns else ():
        part = (logits[rows, :columns] - log_sums[rows, None]).exp_().mul_(gradient[rows, None])
        part.scatter_add_(1, labels[rows, None], -at_label[rows, None])
        result[rows, :columns] = part
    return result


def _sums_at_once(logits: Tensor, labels: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """`_sums` as the compiler makes one pass of it."""
    chosen = logits.gather(1, labels[:, None]).squeeze(1).float()
    return logits[:, :columns].float().logsumexp(-1), chosen


def _gradients_at_once(
    logits: Tensor, labels: Tensor, columns: int, log_sums: Tensor, gradient: Tensor, at_label: Tensor
) -> Tensor:
    """`_gradients` as the compiler makes one pass of it."""
    column = torch.arange(logits.shape[1], device=logits.device)
    part = (logits.float() - log_sums[:, None]).exp() * gradient[:, None]
    part = torch.where(column == labels[:, None], part - at_label[:, None], part)
    return torch.where(column < columns, part, 0).to(logits.dtype)


@lru_cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False)


def _chunks(logits: Tensor) -> list[slice]:
    tokens, width = logits.shape
    step = max(1, LOSS_CHUNK["cuda" if logits.is_cuda else "cpu"] // width)
    return [slice(first, first + step) for first in range(0, tokens, step)]


def _combine(log_sums: Tensor, chosen: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Log of the sum over all ranks' columns, and the label's logit from the one rank that holds it."""
    largest = log_sums.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    sums = torch.stack([(log_sums - largest).exp(), chosen])
    dist.all_reduce(sums, group=group)
    return sums[0].log() + largest, sums[1]
