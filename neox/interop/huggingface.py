"""Import a folder of transformers as a checkpoint, and export a checkpoint as such a folder; one layer in memory at a time.

A checkpoint of any layout is read, and one without a layout is written: what an import leaves is a normal `save` folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor, nn

from neox.checkpoint import layout
from neox.checkpoint.layout import CheckpointError
from neox.checkpoint.newest import newest
from neox.checkpoint.publish import CONFIG, Counters, Progress, publish_state
from neox.checkpoint.tensors import WEIGHT, Piece, StateReader, Weight, check_names, check_shape, write_tensors
from neox.config.errors import ConfigError
from neox.config.sections import ModelConfig, TokenizerConfig
from neox.interop import tokenizers
from neox.interop.files import CONFIG_FILE, WeightSource, appearing, read_json, write_json, write_shards
from neox.interop.keys import differences, read_model, write_config
from neox.interop.names import FAMILIES, Family, their_parts
from neox.interop.shards import Row
from neox.model.gpt import GPT
from neox.parallel.topology import alone
from neox.tokenizer.vocabulary import read_vocab_size

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SHARD_BYTES = 5_000_000_000
TOKENIZER_FOLDER = "tokenizer"
# buffers that old versions of transformers saved beside the weights
BUFFERS = re.compile(r"\.(attn|attention)\.(bias|masked_bias)$|\.rotary_emb\.inv_freq$")


@dataclass(frozen=True)
class Result:
    """What was written: its folder, the parameters in it, and what the user should know."""

    folder: Path
    parameters: int
    notes: tuple[str, ...]


def import_folder(source: Path, output: Path) -> Result:
    """Make a `save` folder (global_step0, latest, config.yml, the tokenizer) of a folder of transformers.

    Raises ConfigError that names the file or key, and leaves nothing behind, where something cannot be read or said here.
    """
    config = read_json(source / CONFIG_FILE)
    family = _family(config, source)
    weights = WeightSource(source)
    with appearing(output) as draft:
        tokenizer = tokenizers.bring_in(source, draft / TOKENIZER_FOLDER, config)
        try:
            model = read_model(config, family.table)
        except ConfigError as error:
            raise ConfigError([f"{source / CONFIG_FILE}: {complaint}" for complaint in error.complaints]) from error
        model, rows = _with_vocabulary(model, config, tokenizer, weights, family)
        text = _config_text(model, tokenizer, draft, output)
        parameters = _write_checkpoint(draft, text, model, rows, weights, family)
        (draft / CONFIG).write_text(text)
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


def _with_vocabulary(
    model: ModelConfig, config: dict[str, Any], tokenizer: TokenizerConfig | None, weights: WeightSource, family: Family
) -> tuple[ModelConfig, int]:
    """The model with `vocab_size` where the tokenizer does not say it, and the rows of the vocabulary."""
    _, (name,) = their_parts(family, model.num_layers, "layers.0.word_embeddings.weight")
    rows = config.get("vocab_size") or len(weights.tensor(_find(name, weights, family)))
    tokens = None if tokenizer is None else read_vocab_size(tokenizer)
    if tokens is not None and tokens > rows:
        raise ConfigError(f"vocab_size: {rows:,} rows are fewer than the tokenizer's {tokens:,} tokens")
    return (model if tokens == rows else model.model_copy(update={"vocab_size": rows})), rows


def _config_text(model: ModelConfig, tokenizer: TokenizerConfig | None, draft: Path, output: Path) -> str:
    """config.yml: the model, the tokenizer's files where they will be, and `load` with `finetune`."""
    values = model.model_dump(mode="json", exclude_defaults=True)
    if tokenizer is not None:
        named = tokenizer.model_dump(mode="json", exclude_none=True)
        old, new = str(draft), str(output.absolute())
        values |= {key: value.replace(old, new, 1) for key, value in named.items()}
    values |= {"load": str(output.absolute()), "finetune": True}
    return yaml.safe_dump(values, sort_keys=False, width=120)


def _write_checkpoint(
    save: Path, config_text: str, model: ModelConfig, rows: int, weights: WeightSource, family: Family
) -> int:
    """Write global_step0 below `save`, a state file for each layer; the number of parameters of the true vocabulary."""
    folder = layout.start(save, 0)
    entries, index, used, parameters = [], {}, set(), 0
    for number, layer in skeleton(model, rows).indexed_layers():
        file, tensors = f"state_{number:05d}.safetensors", {}
        for path, parameter in layer.named_parameters():
            name = f"layers.{number}.{path}"
            row, theirs = their_parts(family, model.num_layers, name)
            found = [_find(part, weights, family) for part in theirs]
            used |= set(found)
            whole = _merged(row, {part: weights.tensor(part) for part in found}, model)
            parameters += whole.numel()
            whole = _fitted(whole, parameter, rows, found[0])
            split = parameter.partition_dim if parameter.tensor_model_parallel else None
            index[name] = Weight(tuple(whole.shape), split, (Piece(file, 0, 1, 0, whole.numel()),))
            tensors[f"{WEIGHT}/{name}"] = whole.flatten()
        if tensors:
            entries.append(write_tensors(folder / file, tensors))
    _refuse_the_rest(weights, used, model)
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


def skeleton(model: ModelConfig, vocab_size: int) -> GPT:
    """The model without memory for its weights: names, shapes, and how each is split."""
    with torch.device("meta"):
        return GPT(model, vocab_size=vocab_size, topology=alone())


def _find(name: str, weights: WeightSource, family: Family) -> str:
    """The name under which a tensor is there: without the prefix in files of the bare network, the head under either name."""
    candidates = [name, name.removeprefix(family.prefix)]
    if name == f"{family.head}.weight":
        candidates.append("lm_head.weight")
    for candidate in candidates:
        if candidate in weights.files:
            return candidate
    raise ConfigError(f"{weights.folder}: its weights lack {name}, which its config.json asks for")


def _merged(row: Row, parts: dict[str, Tensor], model: ModelConfig) -> Tensor:
    try:
        return row.merge(list(parts.values()), model)
    except RuntimeError as error:  # torch refuses shapes that do not go together
        shapes = ", ".join(f"{name} {list(part.shape)}" for name, part in parts.items())
        raise ConfigError(f"{shapes}: these shapes do not fit the heads in config.json") from error


def _fitted(whole: Tensor, parameter: nn.Parameter, rows: int, name: str) -> Tensor:
    """The tensor in the shape of our parameter: a vocabulary of `rows` gets rows of zeros as padding."""
    if whole.shape != parameter.shape and whole.shape[0] == rows and whole.shape[1:] == parameter.shape[1:]:
        padded = whole.new_zeros(parameter.shape)
        padded[:rows] = whole
        return padded
    if whole.shape != parameter.shape:
        raise ConfigError(
            f"{name}: its weights make {list(whole.shape)}, and config.json asks for {list(parameter.shape)}"
        )
    return whole


def _refuse_the_rest(weights: WeightSource, used: set[str], model: ModelConfig) -> None:
    heads = set() if model.no_weight_tying else {"lm_head.weight", "embed_out.weight"}  # the embedding once more
    rest = sorted(name for name in set(weights.files) - used - heads if not BUFFERS.search(name))
    if rest:
        raise ConfigError(
            f"{weights.folder}: {rest[0]} and {len(rest) - 1} more have no place in the model of config.json"
        )


def export_folder(
    checkpoint: Path,
    output: Path,
    *,
    model_type: str | None = None,
    precision: str = "fp32",
    shard_bytes: int = SHARD_BYTES,
) -> Result:
    """Make a folder of transformers of a checkpoint: of a `save` folder's newest, or of one step's folder.

    model_type: the family to write; None takes the first that can say the model. Raises ConfigError that names each key
    that the family cannot say, and CheckpointError; nothing is left behind then.
    """
    folder, notes = _checkpoint(checkpoint)
    model, tokenizer_config = _read_config(folder / CONFIG)
    family = _family_for(model, model_type)
    rows = model.vocab_size or read_vocab_size(tokenizer_config)
    reader = StateReader(folder)
    gpt = skeleton(model, rows)
    check_names({name for name, _ in gpt.named_parameters()}, reader, whole_model=True)
    for name, parameter in gpt.named_parameters():
        check_shape(name, tuple(parameter.shape), reader)
    dtype = DTYPES[precision]
    groups: list[Callable[[], dict[str, Tensor]]] = []
    sizes = []
    for number, layer in gpt.indexed_layers():
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
    return Result(output, sum(parameter.numel() for parameter in gpt.parameters()), (*notes, *filter(None, [warning])))


def _checkpoint(path: Path) -> tuple[Path, list[str]]:
    """The verified folder of one step, and warnings about damaged ones that were passed over."""
    if (path / layout.MANIFEST).is_file():
        layout.verify(path)
        return path, []
    folder, warnings = newest(path, alone())
    if folder is None:
        raise CheckpointError(f"{path}: no checkpoint there: give a save folder, or the folder of one step in it")
    return folder, warnings


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


def _their_tensors(
    reader: StateReader, names: list[str], model: ModelConfig, rows: int, family: Family, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors of one layer under their names."""
    tensors = {}
    for name in names:
        whole = reader.shard(name, WEIGHT, tensor_rank=0, tensor_size=1)
        if name.endswith(("word_embeddings.weight", "final_linear.weight")):
            whole = whole[:rows]
        row, theirs = their_parts(family, model.num_layers, name)
        for part, tensor in zip(theirs, row.split(whole, model)):
            # of its own memory: safetensors refuses tensors that share some
            tensors[part] = tensor.to(dtype).clone(memory_format=torch.contiguous_format)
    return tensors
