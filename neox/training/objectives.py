"""What a run learns from a micro-batch. Each objective weighs the labels and gives the loss; `train_impl` chooses one, once.

A loss is such that its mean over micro-batches and replicas, which DeepSpeed takes, is that of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from neox.config.sections import Config
from neox.config.shapes import has_reference
from neox.model.documents import Documents
from neox.model.gpt import GPT
from neox.model.lora import without_adapters
from neox.model.loss import cross_entropy, token_losses
from neox.parallel.topology import Topology


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch on the device, each (rows, sequence)."""

    tokens: Tensor
    labels: Tensor
    weights: Tensor
    documents: Documents | None


# the loss, and further means by the names of their metrics
Measured = tuple[Tensor, dict[str, Tensor]]


class TokenLoss:
    """Cross entropy, in the mean over the tokens of the global batch that count."""

    def __init__(self, config: Config, vocab_size: int, topology: Topology):
        self._topology = topology
        self._vocab_size = vocab_size
        self._compiled = config.run.compile_blocks
        self._masked = config.data.masks_loss or config.model.train_impl == "mlm"
        self._micro_batches = config.batch.gradient_accumulation_steps * topology.data_size

    def weights(self, masks: list[Tensor]) -> list[Tensor]:
        """What each label of the micro-batches of a step counts. Every rank calls this."""
        if not self._masked:
            return [mask * (1 / mask.numel()) for mask in masks]
        total = torch.stack([mask.sum() for mask in masks]).sum()
        distributed.all_reduce(total, group=self._topology.data_group)
        return [mask * (self._micro_batches / total.clamp(min=1)) for mask in masks]

    def __call__(self, model: Callable[..., Tensor], batch: MicroBatch, auxiliary: list[Tensor] | None) -> Measured:
        """auxiliary: a list that receives the losses of mixtures of experts."""
        logits = model(batch.tokens, documents=batch.documents, losses=auxiliary)
        loss = cross_entropy(
            logits,
            batch.labels,
            batch.weights,
            vocab_size=self._vocab_size,
            topology=self._topology,
            compiled=self._compiled,
        )
        return loss, {}


class PreferenceLoss:
    """Direct preference optimization (DPO: Rafailov et al. 2023, arXiv:2305.18290, equation 7), in the mean over pairs.

    The reward of an answer is beta times how much likelier the model finds it than the reference does; the loss is that of a
    classifier which tells the preferred answer by its reward. A micro-batch has a preferred answer before each rejected one.
    """

    def __init__(
        self, beta: float, vocab_size: int, topology: Topology, reference: GPT | None, *, compiled: bool = False
    ):
        """reference: a frozen model, or the trained one where its adapters are all that is trained; None for no reference."""
        self._beta = beta
        self._compiled = compiled
        self._vocab_size = vocab_size
        self._topology = topology
        self._reference = reference

    def weights(self, masks: list[Tensor]) -> list[Tensor]:
        """An answer is as likely as all of its tokens together."""
        return masks

    def __call__(self, model: Callable[..., Tensor], batch: MicroBatch, auxiliary: list[Tensor] | None) -> Measured:
        """auxiliary: a list that receives the losses of mixtures of experts."""
        usual = self._usual_likelihoods(batch)  # first, so that its logits are gone when those of the model come
        rewards = self._beta * (self._likelihoods(model, batch, auxiliary) - usual)
        chosen, rejected = rewards.view(-1, 2).unbind(1)
        margins = chosen - rejected
        measures = {
            "chosen_reward": chosen.mean(),
            "rejected_reward": rejected.mean(),
            "reward_margin": margins.mean(),
            "reward_accuracy": (margins > 0).float().mean(),
        }
        return -F.logsigmoid(margins).mean(), {name: value.detach() for name, value in measures.items()}

    @torch.no_grad()
    def _usual_likelihoods(self, batch: MicroBatch) -> Tensor | float:
        """Those by the reference."""
        if self._reference is None:
            return 0.0
        with without_adapters(self._reference):
            return self._likelihoods(self._reference, batch)

    def _likelihoods(
        self, model: Callable[..., Tensor], batch: MicroBatch, auxiliary: list[Tensor] | None = None
    ) -> Tensor:
        """Log-probability of each answer, fp32 (rows,)."""
        logits = model(batch.tokens, documents=batch.documents, losses=auxiliary)
        losses = token_losses(
            logits, batch.labels, vocab_size=self._vocab_size, topology=self._topology, compiled=self._compiled
        )
        return -(losses * batch.weights.t()).sum(0)


Objective = TokenLoss | PreferenceLoss


def build_objective(
    config: Config, vocab_size: int, topology: Topology, module: GPT, reference: GPT | None
) -> Objective:
    """What train_impl asks for. reference: a frozen copy of the first weights; without one the module itself, whose adapters can
    be left out, is its own."""
    if config.model.train_impl != "dpo":
        return TokenLoss(config, vocab_size, topology)
    usual = (reference or module) if has_reference(config.model) else None
    return PreferenceLoss(config.model.dpo_beta, vocab_size, topology, usual, compiled=config.run.compile_blocks)
