"""One configuration at several widths, with and without muP, trained in this process on the CPU.

Always in fp32, without dropout, clipping and accumulation, and with a document a row: what differs is the width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

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
    if len(set(widths)) < 2:
        raise ConfigError("--widths: give two at least")
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
    size, length = config.batch.train_batch_size, config.model.seq_length
    datasets = build_datasets(config.data, length, (steps * size, 0, 0), tokenizer, config.run.seed, alone())
    at_once = {"train_micro_batch_size_per_gpu": size, "gradient_accumulation_steps": 1}
    taken = islice(batches(datasets.train, 0, config.batch.model_copy(update=at_once), alone()), steps)
    return Samples(true_vocab_size(config.model, tokenizer.vocab_size), tuple(taken))


class Run:
    """A model and its optimizer, step by step."""

    def __init__(self, config: Config, vocab_size: int):
        self._vocab_size = vocab_size
        self.model = GPT(config.model, vocab_size=vocab_size, topology=alone(), seed=config.run.seed).eval()
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
    """The loss of each batch in turn, before the update that it makes."""
    run = Run(config, samples.vocab_size)
    return [run.step(batch, rate) for batch, rate in zip(samples.batches, learning_rates, strict=True)]
