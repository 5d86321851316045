"""Cross entropy over a vocabulary that may be split over the tensor-parallel group and padded at its end.

Works through the logits a few rows at a time: fp32 exists only for the rows at hand, and the probabilities are computed
again in the backward pass instead of being kept. Padded columns take no part and get no gradient, so the loss does not
depend on the padding.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from neox.config.shapes import LOSS_CHUNK
from neox.parallel.topology import Topology


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, *, vocab_size: int, topology: Topology) -> Tensor:
    """Sum over the tokens of weight times loss, an fp32 scalar that is the same on every tensor rank.

    Weights that sum to 1 give a mean. logits: (seq, batch, padded vocabulary / tensor_size). labels: (batch, seq)
    int64. weights: (batch, seq); where one is 0, any label will do. vocab_size: without padding. Every rank of the
    tensor group calls this: it reduces over it.
    """
    losses = token_losses(logits, labels, vocab_size=vocab_size, topology=topology).flatten()
    return losses @ weights.t().reshape(-1).to(losses.dtype)


def token_losses(logits: Tensor, labels: Tensor, *, vocab_size: int, topology: Topology) -> Tensor:
    """Loss of each token, minus the log of its probability: fp32 (seq, batch). Arguments as in `cross_entropy`."""
    seq, batch, width = logits.shape
    losses = _CrossEntropy.apply(logits.reshape(-1, width), labels.t().reshape(-1), vocab_size, topology)
    return losses.view(seq, batch)


class _CrossEntropy(torch.autograd.Function):
    """Loss of each token, fp32 (tokens,); logits (tokens, width) of this tensor rank."""

    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor, vocab_size: int, topology: Topology) -> Tensor:
        tokens, width = logits.shape
        start = topology.tensor_rank * width
        ctx.columns = max(0, min(width, vocab_size - start))
        labels = labels - start
        elsewhere = (labels < 0) | (labels >= ctx.columns)
        labels = labels.masked_fill(elsewhere, 0)
        log_sums = logits.new_full((tokens,), -torch.inf, dtype=torch.float32)
        chosen = torch.zeros_like(log_sums)
        for rows in _chunks(logits) if ctx.columns else ():
            part = logits[rows, : ctx.columns].float()
            log_sums[rows] = part.logsumexp(-1)
            chosen[rows] = part.gather(1, labels[rows, None]).squeeze(1)
        chosen.masked_fill_(elsewhere, 0.0)
        if topology.tensor_size > 1:
            log_sums, chosen = _combine(log_sums, chosen, topology.tensor_group)
        ctx.save_for_backward(logits, labels, elsewhere, log_sums)
        return log_sums - chosen

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        logits, labels, elsewhere, log_sums = ctx.saved_tensors
        result = torch.empty_like(logits)
        result[:, ctx.columns :] = 0
        at_label = gradient.masked_fill(elsewhere, 0.0)
        for rows in _chunks(logits) if ctx.columns else ():
            part = (logits[rows, : ctx.columns] - log_sums[rows, None]).exp_().mul_(gradient[rows, None])
            part.scatter_add_(1, labels[rows, None], -at_label[rows, None])
            result[rows, : ctx.columns] = part
        return result, None, None, None


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
