"""Write weights from elsewhere as a normal `save` folder: global_step0, latest, and a config.yml that loads it.

One layer is in memory at a time, and each has a state file of its own. Knows nothing about where the weights come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import yaml
from torch import Tensor

from neox.checkpoint import layout
from neox.checkpoint.publish import CONFIG, Counters, Progress, publish_state
from neox.checkpoint.tensors import WEIGHT, Piece, Weight, write_tensors
from neox.config.errors import ConfigError
from neox.config.sections import ModelConfig, TokenizerConfig
from neox.model.gpt import GPT
from neox.parallel.topology import alone


@dataclass(frozen=True)
class Result:
    """What was written: its folder, the parameters in it, and what the user should know."""

    folder: Path
    parameters: int  # of the true vocabulary
    notes: tuple[str, ...]


class Weights(Protocol):
    """Weights from elsewhere, by our names. Both methods raise ConfigError that names what is wrong."""

    def whole(self, name: str) -> Tensor:
        """A weight as the whole model has it, fp32, its vocabulary without padding."""

    def refuse_the_rest(self) -> None:
        """Complain about weights that nobody has asked for: the model is not the one that was saved."""


def skeleton(model: ModelConfig, vocab_size: int) -> GPT:
    """The model without memory for its weights: names, shapes, and how each is split."""
    with torch.device("meta"):
        return GPT(model, vocab_size=vocab_size, topology=alone())


def write_import(
    draft: Path, output: Path, model: ModelConfig, tokenizer: TokenizerConfig | None, weights: Weights, rows: int
) -> int:
    """Fill `draft`, which will be called `output`; the number of parameters. rows: of the vocabulary, without padding."""
    values = model.model_dump(mode="json", exclude_defaults=True)
    if tokenizer is not None:
        values |= tokenizer.model_dump(mode="json", exclude_none=True)
    values |= {"load": str(output.absolute()), "finetune": True}
    text = yaml.safe_dump(values, sort_keys=False, width=120)
    parameters = _write_checkpoint(draft, text, model, weights, rows)
    (draft / CONFIG).write_text(text)
    return parameters


def _write_checkpoint(save: Path, config_text: str, model: ModelConfig, weights: Weights, rows: int) -> int:
    folder = layout.start(save, 0)
    entries, index, parameters = [], {}, 0
    for number, layer in skeleton(model, rows).indexed_layers():
        file, tensors = f"state_{number:05d}.safetensors", {}
        for path, parameter in layer.named_parameters():
            name = f"layers.{number}.{path}"
            whole = weights.whole(name)
            parameters += whole.numel()
            whole = _fitted(whole, parameter, rows, name)
            split = parameter.partition_dim if parameter.tensor_model_parallel else None
            index[name] = Weight(tuple(whole.shape), split, (Piece(file, 0, 1, 0, whole.numel()),))
            tensors[f"{WEIGHT}/{name}"] = whole.flatten()
        if tensors:
            entries.append(write_tensors(folder / file, tensors))
    weights.refuse_the_rest()
    publish_state(
        save,
        Progress(),
        Counters(optimizer_steps=0, loss_scaler={}),
        entries=entries,
        weights=index,
        moments=[],
        config_text=config_text,
        written_by={},
    )
    return parameters


def _fitted(whole: Tensor, parameter: Tensor, rows: int, name: str) -> Tensor:
    """The weight in the shape of our parameter: a vocabulary of `rows` gets rows of zeros as padding."""
    if whole.shape != parameter.shape and whole.shape[0] == rows and whole.shape[1:] == parameter.shape[1:]:
        padded = whole.new_zeros(parameter.shape)
        padded[:rows] = whole
        return padded
    if whole.shape != parameter.shape:
        raise ConfigError(
            f"{name}: the weights make {list(whole.shape)}, and the configuration asks for {list(parameter.shape)}"
        )
    return whole
