"""Weights of transformers on disk: read tensor by tensor, from safetensors or old pickles; written in shards."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neox.config.errors import ConfigError

CONFIG_FILE = "config.json"
# what holds the weights, in the order of preference
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ConfigError that names the file where there is none."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is not a JSON object")
    return content


class WeightSource:
    """The tensors of a folder, by name; one file at a time is open, and one tensor at a time is read."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._file: str | None = None
        self._get: Callable[[str], Tensor] | None = None
        for name in WEIGHT_FILES:
            index = folder / f"{name}.index.json"
            if index.is_file():
                self.files = self._indexed(index)
                return
            if (folder / name).is_file():
                names, _ = self._opened(name)
                self.files = dict.fromkeys(names, name)
                return
        raise ConfigError(f"{folder}: holds no weights: neither {' nor '.join(WEIGHT_FILES)}, nor an index of shards")

    def tensor(self, name: str) -> Tensor:
        """One tensor, in fp32."""
        file = self.files[name]
        if file != self._file:
            names, self._get = self._opened(file)
            self._file = file
            if name not in names:
                raise ConfigError(f"{self.folder / file}: lacks {name}, which the index says is there")
        tensor = self._get(name)
        if not tensor.is_floating_point():
            raise ConfigError(f"{self.folder / file}: {name} is {tensor.dtype}: quantised weights are not supported")
        return tensor.float()

    def _indexed(self, index: Path) -> dict[str, str]:
        files = read_json(index).get("weight_map")
        if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
            raise ConfigError(f"{index}: has no weight_map of names and files")
        for file in set(files.values()):
            if Path(file).name != file:
                raise ConfigError(f"{index}: {file!r} is not a plain file name")
            if not (self.folder / file).is_file():
                raise ConfigError(f"{index}: {file} is not there: the download is not complete")
        return files

    def _opened(self, file: str) -> tuple[set[str], Callable[[str], Tensor]]:
        path = self.folder / file
        try:
            if path.suffix == ".safetensors":
                opened = safe_open(path, framework="pt")
                return set(opened.keys()), opened.get_tensor
            # tensors only: a pickle could run any code
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except (SafetensorError, OSError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"{path}: cannot be read as weights ({reason})") from error
        if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
            raise ConfigError(f"{path}: holds more than tensors by name")
        return set(loaded), loaded.__getitem__


def write_shards(
    folder: Path, groups: Sequence[Callable[[], dict[str, Tensor]]], sizes: Sequence[int], shard_bytes: int
) -> None:
    """Write groups of tensors, each made when it is its turn, to model.safetensors or to shards with an index.

    sizes: bytes of each group. A shard holds consecutive groups up to `shard_bytes`, and one at least.
    """
    shards: list[list[int]] = []
    room = 0
    for index, size in enumerate(sizes):
        if not shards or size > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(index)
        room -= size
    weight_map: dict[str, str] = {}
    for number, members in enumerate(shards, start=1):
        single = len(shards) == 1
        file = "model.safetensors" if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: tensor for index in members for name, tensor in groups[index]().items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        content = {"metadata": {"total_size": sum(sizes)}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / "model.safetensors.index.json", content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as transformers does."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to write into that gets its name when all is written, or vanishes.

    Raises ConfigError where there is something under that name already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: is there already: give a new or an empty folder")
    draft = folder.with_name(f".{folder.name}.draft")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if draft.exists():
            rmtree(draft)
        draft.mkdir()
        yield draft
        if folder.exists():
            folder.rmdir()
        os.replace(draft, folder)
    except BaseException:
        rmtree(draft, ignore_errors=True)
        raise
