"""One configuration at several widths, with and without muP, trained in this process on the CPU.

Gradients are not clipped: Adam does not depend on their size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from neox.config.errors import ConfigError
from neox.config.mup import width_multiplier
from neox.config.read import read_config
from neox.config.sections import Config
from neox.config.sizes import true_vocab_size
from neox.data.batches import Batch, batches
from neox.data.datasets import build_datasets
from neox.model.gpt import GPT
from neox.model.loss import cross_entropy
from neox.parallel.topology import alone
from neox.tokenizer.tokenizer import build_tokenizer
from neox.training.optimizer import build_optimizer, set_learning_rate

PARAMETRISATIONS = ("standard", "muP")


def at_widths(paths: Sequence[str], overrides: Sequence[str], widths: Sequence[int]) -> dict[tuple[str, int], Config]:
    """The configuration by parametrisation and width, with as many heads everywhere; the first width is muP's base.

    Raises ConfigError, also where the MLP's width is given, which has to follow.
    """
    given = read_config(paths, overrides=overrides, dry_run=True).config.model
    for key in ("intermediate_size", "ffn_hidden_size"):
        if getattr(given, key) is not None:
            raise ConfigError(f"{key}: leave it out: the MLP has to widen with the rest")
    base = [f"mup_base_hidden_size={widths[0]}", f"mup_base_num_attention_heads={given.num_attention_heads}"]
    keys = {"standard": ["use_mup=false"], "muP": ["use_mup=true", *base]}
    return {
        (name, width): read_config(paths, overrides=[*overrides, f"hidden_size={width}", *more], dry_run=True).config
        for name, more in keys.items()
        for width in widths
    }


@dataclass(frozen=True)
class Samples:
    """What all widths are trained on."""

    vocab_size: int
    batches: tuple[Batch, ...]


def read_samples(config: Config, steps: int) -> Samples:
    """The batches of the first steps of a run of this configuration. Raises ConfigError where its data cannot be read."""
    tokenizer = build_tokenizer(config.tokenizer)
    size, accumulation = config.batch.train_batch_size, config.batch.gradient_accumulation_steps
    length, seed = config.model.seq_length, config.run.seed
    datasets = build_datasets(config.data, length, (steps * size, 0, 0), tokenizer, seed, alone())
    taken = islice(batches(datasets.train, 0, config.batch, alone()), steps * accumulation)
    return Samples(true_vocab_size(config.model, tokenizer.vocab_size), tuple(taken))


class Run:
    """A model and its optimizer, step by step."""

    def __init__(self, config: Config, vocab_size: int):
        self._vocab_size = vocab_size
        self.model = GPT(config.model, vocab_size=vocab_size, topology=alone(), seed=config.run.seed)
        self._optimizer = build_optimizer(config.optimization, self.model, width_multiplier(config.model))

    def step(self, batch: Batch, learning_rate: float) -> float:
        """Forward, backward and update; the loss before the update."""
        logits = self.model(batch.tokens)
        weights = batch.loss_mask / batch.loss_mask.sum()
        loss = cross_entropy(logits, batch.labels, weights, vocab_size=self._vocab_size, topology=alone())
        loss.backward()
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.item()


def losses(config: Config, samples: Samples, learning_rates: Iterator[float]) -> list[float]:
    """The loss of each batch in turn, before the update that it makes; one that is no number ends the run."""
    torch.manual_seed(config.run.seed)
    run, found = Run(config, samples.vocab_size), []
    for batch, rate in zip(samples.batches, learning_rates):
        found.append(run.step(batch, rate))
        if found[-1] != found[-1]:
            break
    return found
