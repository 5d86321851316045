"""Import gpt-neox's own checkpoints: `global_step<N>` folders of any tensor-parallel size, with and without a pipeline.

    pipe_parallel_size >= 1    layer_<index>-model_<rank>-model_states.pt, a file for each layer and rank
    pipe_parallel_size 0       mp_rank_<rank>_model_states.pt, a file for each rank, names `sequential.<index>.`

Index 0 is the embedding, then come a layer without weights, the blocks, another without, the final norm and the head.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy
import torch
from torch import Tensor

from neox.config.errors import ConfigError
from neox.config.read import read_config
from neox.config.sections import Config, ModelConfig
from neox.config.shapes import head_width, is_gated, kv_heads
from neox.interop.files import appearing
from neox.interop.imports import Result, write_import
from neox.interop.shards import Heads

LAYER_FILE = re.compile(r"layer_(\d+)-model_(\d+)-model_states\.pt")
RANK_FILE = re.compile(r"mp_rank_(\d+)_model_states\.pt")
SEQUENTIAL = re.compile(r"sequential\.(\d+)\.(.+)")
# tables of positions and scales that are computed, not learned
BUFFERS = re.compile(r"(\.inv_freq|_extra_state|rotary_emb\..*)$")
# the checkpoint's own layout has no meaning for the import
ONE_PROCESS = ("model_parallel_size=1", "pipe_parallel_size=0", "sequence_parallel=false", "global_num_gpus=1")
# random states that numpy left in the files of a rank; the older names are numpy 1's
_RECONSTRUCT = numpy.ndarray(0).__reduce__()[0]
NUMPY = [
    numpy.ndarray,
    numpy.dtype,
    type(numpy.dtype(numpy.uint32)),
    (_RECONSTRUCT, "numpy.core.multiarray._reconstruct"),
    (_RECONSTRUCT, "numpy._core.multiarray._reconstruct"),
]
# names of modules over the years: the newest first
NAMES = {
    "mlp.dense_h_to_4h": ("mlp.linear1", "mlp.dense_h_to_4h"),
    "mlp.dense_4h_to_h": ("mlp.linear2", "mlp.dense_4h_to_h", "mlp.w2"),
}
NORM_WEIGHTS = {"rmsnorm": "scale", "scalenorm": "g"}


def import_gptneox(checkpoint: Path, configs: Sequence[Path], output: Path) -> Result:
    """Make a `save` folder of one `global_step<N>` folder of gpt-neox and the YAML files of its run.

    Raises ConfigError, and leaves nothing behind, where the files do not hold the model that the configuration describes.
    """
    given = [str(path) for path in configs]
    resolved = read_config(given, overrides=ONE_PROCESS, script="import", dry_run=True)
    config: Config = resolved.config
    model = config.model.model_copy(update={"seq_length": None})
    if model.moe_num_experts > 1:
        raise ConfigError("moe_num_experts: gpt-neox's mixtures of experts cannot be imported")
    if model.use_mup:
        raise ConfigError("use_mup: gpt-neox's muP scales attention in another way: its models cannot be imported")
    weights = RankWeights(checkpoint, model)
    # gpt-neox pads by its tensor-parallel size, and its loss counts the padding: every row is kept
    rows = len(weights.whole("layers.0.word_embeddings.weight"))
    model = model.model_copy(update={"vocab_size": rows})
    with appearing(output) as draft:
        parameters = write_import(draft, output, model, config.tokenizer, weights, rows)
    return Result(output, parameters, resolved.notes)


class RankWeights:
    """The shards of all tensor-parallel ranks by our names; see imports.Weights."""

    def __init__(self, folder: Path, model: ModelConfig):
        self._folder = folder
        self._model = model
        names = [path.name for path in sorted(folder.glob("*.pt"))] if folder.is_dir() else []
        layers = [match for name in names if (match := LAYER_FILE.fullmatch(name))]
        ranks = [match for name in names if (match := RANK_FILE.fullmatch(name))]
        self._by_layer = bool(layers)
        self._ranks = sorted({int(match[2]) for match in layers} or {int(match[1]) for match in ranks})
        if not self._ranks or self._ranks != list(range(len(self._ranks))):
            raise ConfigError(
                f"{folder}: holds no model of gpt-neox: layer_00-model_00-model_states.pt or mp_rank_00_model_states.pt"
            )
        self._indices = {int(match[1]) for match in layers}
        self._loaded: tuple[int, list[Mapping[str, Tensor]]] | None = None
        self._used: set[tuple[int, str]] = set()

    def whole(self, name: str) -> Tensor:
        _, number, path = name.split(".", 2)
        module, _, suffix = path.rpartition(".")
        index = self._their_index(int(number))
        if module == "attention.query_key_value":
            return self._heads(index, f"{module}.{suffix}")
        if module == "mlp.dense_h_to_4h" and is_gated(self._model):
            return self._gated(index, suffix)
        parts = self._parts(index, self._their_name(index, module, suffix))
        if module in ("attention.dense", "mlp.dense_4h_to_h"):
            if suffix == "weight":
                return torch.cat(parts, dim=1)
            # the parallel residual adds every rank's bias before the sum over ranks
            return torch.stack(parts).sum(0) if self._model.gpt_j_residual else torch.stack(parts).mean(0)
        if module in ("mlp.dense_h_to_4h", "word_embeddings", "final_linear"):
            return torch.cat(parts)
        # what all ranks hold drifts a little between them: gpt-neox's own tools take the mean
        return torch.stack(parts).mean(0)

    def refuse_the_rest(self) -> None:
        if self._by_layer:
            indices = sorted(self._indices)
        else:
            indices = sorted({int(match[1]) for name in self._shards(0)[0] if (match := SEQUENTIAL.fullmatch(name))})
        rest = [
            f"{name} of layer {index}"
            for index in indices
            for name in self._names(index)
            if (index, name) not in self._used and not BUFFERS.search(name)
        ]
        if rest:
            raise ConfigError(
                f"{self._folder}: {rest[0]} and {len(rest) - 1} more have no place in the configuration's model"
            )

    def _their_index(self, number: int) -> int:
        depth = self._model.num_layers
        return number + (0 if number == 0 else 1 if number <= depth else 2)

    def _their_name(self, index: int, module: str, suffix: str) -> str:
        if suffix == "weight" and module.endswith("norm"):
            suffix = NORM_WEIGHTS.get(self._model.norm, suffix)
        names = self._names(index)
        candidates = [f"{candidate}.{suffix}" for candidate in NAMES.get(module, (module,))]
        return next((name for name in candidates if name in names), candidates[0])

    def _heads(self, index: int, name: str) -> Tensor:
        """Queries, keys and values: by head as ours, or, where heads share keys, one after the other on each rank."""
        parts = self._parts(index, name)
        heads, groups, dim = self._model.num_attention_heads, kv_heads(self._model), head_width(self._model)
        if heads == groups:
            return torch.cat(parts)
        if "mlp.w1.weight" in self._names(index):
            raise ConfigError(
                f"{self._folder}: num_kv_heads: grouped heads of this old format (mlp.w1) are not supported"
            )
        ranks = len(parts)
        widths = [heads * dim // ranks, groups * dim // ranks, groups * dim // ranks]
        try:
            apart = zip(*(part.split(widths) for part in parts))
        except RuntimeError as error:
            raise ConfigError(
                f"{name}: {list(parts[0].shape)} does not fit {heads} heads that share {groups}"
            ) from error
        return Heads(("", "", "")).merge([torch.cat(shards) for shards in apart], self._model)

    def _gated(self, index: int, suffix: str) -> Tensor:
        """Gate and value: two modules of their own in old files, later the value and then the gate on each rank."""
        if f"mlp.w1.{suffix}" in self._names(index):
            gate, value = (torch.cat(self._parts(index, f"mlp.{module}.{suffix}")) for module in ("w1", "w3"))
        else:
            parts = self._parts(index, self._their_name(index, "mlp.dense_h_to_4h", suffix))
            value, gate = (torch.cat(halves) for halves in zip(*(part.chunk(2) for part in parts)))
        return torch.stack((gate, value))

    def _parts(self, index: int, name: str) -> list[Tensor]:
        """A tensor of each rank in fp32."""
        key = name if self._by_layer else f"sequential.{index}.{name}"
        shards = self._shards(index)
        if any(key not in shard for shard in shards):
            raise ConfigError(f"{self._folder}: layer {index} lacks {name}, which the configuration asks for")
        self._used.add((index, name))
        return [shard[key].float() for shard in shards]

    def _names(self, index: int) -> set[str]:
        shard = self._shards(index)[0]
        if self._by_layer:
            return set(shard)
        matches = (SEQUENTIAL.fullmatch(name) for name in shard)
        return {match[2] for match in matches if match and int(match[1]) == index}

    def _shards(self, index: int) -> list[Mapping[str, Tensor]]:
        """What each rank has saved of a layer, or of the whole model where that is one file."""
        number = index if self._by_layer else 0
        if self._by_layer and number not in self._indices:
            raise ConfigError(f"{self._folder}: has no layer {number}, which the configuration asks for")
        if self._loaded is None or self._loaded[0] != number:
            if self._by_layer:
                files = [f"layer_{number:02d}-model_{rank:02d}-model_states.pt" for rank in self._ranks]
                self._loaded = number, [_load(self._folder / file) for file in files]
            else:
                files = [f"mp_rank_{rank:02d}_model_states.pt" for rank in self._ranks]
                self._loaded = number, [_load(self._folder / file)["module"] for file in files]
        return self._loaded[1]


def _load(path: Path) -> Mapping:
    """A file of torch.save, without running code from it."""
    try:
        with torch.serialization.safe_globals(NUMPY):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path}: cannot be read as weights ({reason})") from error
