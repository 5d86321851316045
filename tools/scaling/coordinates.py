"""The sizes of a model's activations, step by step, and how they grow with its width."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy
from torch import Tensor, nn

from neox.config.sections import Config
from neox.data.batches import Batch
from neox.model.gpt import GPT
from tools.scaling.widths import Run

KINDS = ("embedding", "attention", "MLP", "logits")
Sizes = list[dict[str, float]]  # step by step, mean absolute activation by kind
Table = dict[str, dict[int, Sizes]]  # by parametrisation and width


def coordinates(config: Config, vocab_size: int, batch: Batch, steps: int) -> Sizes:
    """Sizes before each of `steps` updates, and after the last, at the configuration's peak learning rate."""
    run = Run(config, vocab_size)
    sizes: Sizes = []
    watch(run.model, sizes)
    for _ in range(steps + 1):
        sizes.append(dict.fromkeys(KINDS, 0.0))
        run.step(batch, config.optimization.lr)
    return sizes


def watch(model: GPT, sizes: Sizes) -> None:
    """Add the mean absolute size of activations to the last of `sizes` as they come about; blocks count for their mean."""
    blocks = model.layers[1 : 1 + model.config.num_layers]

    def add(kind: str, share: float, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes[-1][kind] += share * output.detach().abs().mean().item()

    model.layers[0].register_forward_hook(partial(add, "embedding", 1.0))
    model.register_forward_hook(partial(add, "logits", 1.0))
    for block in blocks:
        block.attention.register_forward_hook(partial(add, "attention", 1 / len(blocks)))
        block.mlp.register_forward_hook(partial(add, "MLP", 1 / len(blocks)))


def slope(by_width: Mapping[int, Sizes], kind: str) -> float:
    """d log(size) / d log(width) after the last update, by least squares: 0 where the size does not depend on the width."""
    sizes = [sizes[-1][kind] for sizes in by_width.values()]
    return float(numpy.polyfit(numpy.log(list(by_width)), numpy.log(sizes), 1)[0])
