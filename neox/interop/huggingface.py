"""Import a folder of transformers as a checkpoint, and export a checkpoint as such a folder; one layer in memory at a time.

A checkpoint of any layout is read, and one without a layout is written: what an import leaves is a normal `save` folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from neox.checkpoint.layout import CheckpointError
from neox.checkpoint.newest import named
from neox.checkpoint.publish import CONFIG
from neox.checkpoint.tensors import WEIGHT, StateReader, check_names, check_shape
from neox.config.errors import ConfigError
from neox.config.sections import ModelConfig, TokenizerConfig
from neox.interop import tokenizers
from neox.interop.files import CONFIG_FILE, WeightSource, appearing, read_json, write_json, write_shards
from neox.interop.imports import Result, skeleton, write_import
from neox.interop.keys import differences, read_model, write_config
from neox.interop.names import FAMILIES, Family, their_parts
from neox.model.dtypes import DTYPES
from neox.model.lora import adapter_names, merged
from neox.tokenizer.vocabulary import read_vocab_size

SHARD_BYTES = 5_000_000_000
TOKENIZER_FOLDER = "tokenizer"
# buffers that old versions of transformers saved beside the weights
BUFFERS = re.compile(r"\.(attn|attention)\.(bias|masked_bias)$|\.rotary_emb\.inv_freq$")


def import_folder(source: Path, output: Path) -> Result:
    """Make a `save` folder (global_step0, latest, config.yml, the tokenizer) of a folder of transformers.

    Raises ConfigError that names the file or key, and leaves nothing behind, where something cannot be read or said here.
    """
    config = read_json(source / CONFIG_FILE)
    family = _family(config, source)
    files = WeightSource(source)
    try:
        model = read_model(config, family.table)
    except ConfigError as error:
        raise ConfigError([f"{source / CONFIG_FILE}: {complaint}" for complaint in error.complaints]) from error
    weights = FamilyWeights(files, family, model)
    rows = config.get("vocab_size") or len(weights.whole("layers.0.word_embeddings.weight"))
    with appearing(output) as draft:
        tokenizer = tokenizers.bring_in(source, draft / TOKENIZER_FOLDER, config)
        tokens = None if tokenizer is None else read_vocab_size(tokenizer)
        if tokens is not None and tokens > rows:
            raise ConfigError(f"vocab_size: {rows:,} rows are fewer than the tokenizer's {tokens:,} tokens")
        if tokens != rows:
            model = model.model_copy(update={"vocab_size": rows})
        if tokenizer is not None:
            tokenizer = tokenizers.moved(tokenizer, output.absolute() / TOKENIZER_FOLDER)
        parameters = write_import(draft, output, model, tokenizer, weights, rows)
    notes = () if tokenizer else (f"{source} has no tokenizer: add tokenizer_type and vocab_file to {output / CONFIG}",)
    return Result(output, parameters, notes)


def _family(config: dict[str, Any], source: Path) -> Family:
    kind = config.get("model_type")
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ConfigError(f"{source / CONFIG_FILE}: model_type: {kind!r} is not supported; known are {known}")
    if config.get("quantization_config"):
        raise ConfigError(f"{source / CONFIG_FILE}: quantization_config: quantised weights are not supported")
    return FAMILIES[kind]


class FamilyWeights:
    """The weights of a family's folder by our names; see imports.Weights."""

    def __init__(self, files: WeightSource, family: Family, model: ModelConfig):
        self._files = files
        self._family = family
        self._model = model
        self._used: set[str] = set()

    def whole(self, name: str) -> Tensor:
        row, theirs = their_parts(self._family, self._model.num_layers, name)
        found = [self._find(part) for part in theirs]
        self._used |= set(found)
        parts = [self._files.tensor(part) for part in found]
        try:
            return row.merge(parts, self._model)
        except RuntimeError as error:  # torch refuses shapes that do not go together
            shapes = ", ".join(f"{part} {list(tensor.shape)}" for part, tensor in zip(found, parts))
            raise ConfigError(f"{shapes}: these shapes do not fit the heads in config.json") from error

    def refuse_the_rest(self) -> None:
        # the embedding once more
        heads = set() if self._model.no_weight_tying else {"lm_head.weight", "embed_out.weight"}
        left = set(self._files.files) - self._used - heads
        rest = sorted(name for name in left if not BUFFERS.search(name))
        if rest:
            raise ConfigError(
                f"{self._files.folder}: {rest[0]} and {len(rest) - 1} more have no place in the model of config.json"
            )

    def _find(self, name: str) -> str:
        """The name under which a tensor is there: without the prefix in files of the bare network, the head under either name."""
        candidates = [name, name.removeprefix(self._family.prefix)]
        if name == f"{self._family.head}.weight":
            candidates.append("lm_head.weight")
        for candidate in candidates:
            if candidate in self._files.files:
                return candidate
        raise ConfigError(f"{self._files.folder}: its weights lack {name}, which its config.json asks for")


def export_folder(
    checkpoint: Path,
    output: Path,
    *,
    model_type: str | None = None,
    precision: str = "fp32",
    shard_bytes: int = SHARD_BYTES,
) -> Result:
    """Make a folder of transformers of a checkpoint: of a `save` folder's newest, or of one step's folder.

    Adapters (LoRA) are merged into the weights that they stand beside. model_type: the family to write; None takes the first that
    can say the model. Raises ConfigError that names each key that the family cannot say, and CheckpointError; nothing is left
    behind then.
    """
    folder, notes = named(checkpoint)
    model, tokenizer_config = _read_config(folder / CONFIG)
    family = _family_for(model, model_type)
    rows = model.vocab_size or read_vocab_size(tokenizer_config)
    reader = StateReader(folder)
    gpt, plain = skeleton(model, rows), skeleton(model.model_copy(update={"lora_rank": None}), rows)
    check_names({name for name, _ in gpt.named_parameters()}, reader, whole_model=True)
    for name, parameter in gpt.named_parameters():
        check_shape(name, tuple(parameter.shape), reader)
    dtype = DTYPES[precision]
    groups: list[Callable[[], dict[str, Tensor]]] = []
    sizes = []
    for number, layer in plain.indexed_layers():
        names = [f"layers.{number}.{path}" for path, _ in layer.named_parameters()]
        if names:
            groups.append(partial(_their_tensors, reader, names, model, rows, family, dtype))
            sizes.append(sum(parameter.numel() for parameter in layer.parameters()) * dtype.itemsize)
    with appearing(output) as draft:
        write_shards(draft, groups, sizes, shard_bytes)
        special, warning = tokenizers.take_out(tokenizer_config, draft)
        word = str(dtype).removeprefix("torch.")
        about = {"architectures": [family.architecture], "model_type": family.model_type}
        about |= {"vocab_size": rows, "dtype": word, "torch_dtype": word, "use_cache": True, **special}
        write_json(draft / CONFIG_FILE, write_config(model, family.table) | about)
    parameters = sum(parameter.numel() for parameter in plain.parameters())
    return Result(output, parameters, (*notes, *filter(None, [warning])))


def _read_config(path: Path) -> tuple[ModelConfig, TokenizerConfig]:
    """The sections of a checkpoint's config.yml that a model is made of."""
    try:
        values = yaml.safe_load(path.read_text())
        sections = (ModelConfig, TokenizerConfig)
        model, tokenizer = (
            section(**{key: values[key] for key in section.model_fields if key in values}) for section in sections
        )
    except (OSError, yaml.YAMLError, ValidationError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be read as a configuration ({error})") from error
    return model, tokenizer


def _family_for(model: ModelConfig, model_type: str | None) -> Family:
    wanted = [FAMILIES[model_type]] if model_type else list(FAMILIES.values())
    complaints = {family.model_type: differences(model, family.table) for family in wanted}
    nearest = min(complaints, key=lambda name: len(complaints[name]))
    if complaints[nearest]:
        raise ConfigError([f"{complaint} (model_type {nearest} of transformers)" for complaint in complaints[nearest]])
    return FAMILIES[nearest]


def _plain(reader: StateReader, name: str, model: ModelConfig) -> Tensor:
    """A whole weight, its adapter merged into it."""

    def whole(name: str) -> Tensor:
        return reader.shard(name, WEIGHT, tensor_rank=0, tensor_size=1)

    down, up = adapter_names(name)
    return merged(whole(name), whole(down), whole(up), model) if down in reader.weights else whole(name)


def _their_tensors(
    reader: StateReader, names: list[str], model: ModelConfig, rows: int, family: Family, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors of one layer under their names."""
    tensors = {}
    for name in names:
        whole = _plain(reader, name, model)
        if name.endswith(("word_embeddings.weight", "final_linear.weight")):
            whole = whole[:rows]
        row, theirs = their_parts(family, model.num_layers, name)
        for part, tensor in zip(theirs, row.split(whole, model)):
            # of its own memory: safetensors refuses tensors that share some
            tensors[part] = tensor.to(dtype).clone(memory_format=torch.contiguous_format)
    return tensors
