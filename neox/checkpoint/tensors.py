"""State files: flat tensors in safetensors files, and the index that says which part of which weight each one is.

A weight is cut twice: tensor parallelism splits its shape along one dimension into shards, and ZeRO splits the
flattened shard into ranges. The index describes every piece in these terms, so any layout can read what any other layout
wrote. Knows nothing about DeepSpeed or ranks that talk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from neox.checkpoint.layout import CheckpointError, FileEntry
from neox.data.files import flush_to_disk
from neox.model.lora import is_adapter

INDEX = "index.json"
WEIGHT = "weight"  # the part of a parameter that is not a moment
WRITTEN_AT_ONCE = 1 << 26  # bytes that go to the disk before the next are made ready
DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8"}
_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


@dataclass(frozen=True)
class Piece:
    """Where a flat range of one shard of a weight is stored."""

    file: str
    tensor_rank: int
    tensor_size: int
    start: int  # first element within the flattened shard
    length: int  # elements


@dataclass(frozen=True)
class Weight:
    """A weight as the whole model has it, and its pieces."""

    shape: tuple[int, ...]  # full shape, before tensor parallelism cuts it
    partition_dim: int | None  # dimension that tensor parallelism cuts, None where every rank has all of it
    pieces: tuple[Piece, ...]


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> FileEntry:
    """Write tensors to a safetensors file, one at a time, and wait until they are on the disk.

    The SHA-256 is taken from the bytes that go out, by a thread that goes along: hashing and writing take about as long, and
    neither waits for the other. Raises CheckpointError where a number is not finite: such a state trains to nothing, and the
    older checkpoints are worth more.
    """
    header, offset = {}, 0
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            raise CheckpointError(f"{name} holds a number that is not finite: nothing is saved of it")
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format aligns the data to 8 bytes
    digest, size_bytes = hashlib.sha256(), 0
    with path.open("wb") as file, ThreadPoolExecutor(1, "hasher") as hasher:
        for group in _groups(chain([len(encoded).to_bytes(8, "little"), encoded], map(_bytes, tensors.values()))):
            hashing = hasher.map(digest.update, group)
            size_bytes += sum(map(file.write, group))
            flush_to_disk(file)  # the disk is at work from the first group on
            list(hashing)
    return FileEntry(path.name, size_bytes, digest.hexdigest())


def _is_finite(tensor: torch.Tensor) -> bool:
    """One pass that allocates nothing, at the speed of the memory (a norm, or isfinite, takes as long as the SHA-256)."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    return all(bound.isfinite() for bound in torch.aminmax(tensor.detach()))  # NaN is the least and the greatest


def _groups(parts: Iterable[bytes | memoryview]) -> Iterator[list[bytes | memoryview]]:
    """The parts in order, some together that come to WRITTEN_AT_ONCE or more; a group is made when its turn has come."""
    group, size_bytes = [], 0
    for part in parts:
        group.append(part)
        size_bytes += len(part)
        if size_bytes >= WRITTEN_AT_ONCE:
            yield group
            group, size_bytes = [], 0
    yield group


def _bytes(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())


def encode_index(weights: dict[str, Weight], moments: list[str]) -> bytes:
    """The text of index.json."""
    return json.dumps(
        {"moments": moments, "weights": {name: asdict(weight) for name, weight in weights.items()}}
    ).encode()


class StateReader:
    """Reads weights and moments of a checkpoint for any tensor-parallel rank of any layout."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._files = {}
        try:
            index = json.loads((folder / INDEX).read_bytes())
            self.moments: list[str] = index["moments"]
            self.weights = {
                name: Weight(
                    tuple(weight["shape"]),
                    weight["partition_dim"],
                    tuple(Piece(**piece) for piece in weight["pieces"]),
                )
                for name, weight in index["weights"].items()
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / INDEX}: cannot be read ({error})") from error

    def shard(self, name: str, key: str, tensor_rank: int, tensor_size: int) -> torch.Tensor:
        """One shard of `key` ("weight" or a moment) of a weight, as a rank of `tensor_size` ranks holds it, in fp32."""
        weight = self.weights[name]
        if weight.partition_dim is None:
            return self._stored_shard(name, key, 0, weight.shape)
        stored_size = weight.pieces[0].tensor_size
        stored_shape = list(weight.shape)
        stored_shape[weight.partition_dim] //= stored_size
        if stored_size == tensor_size:
            return self._stored_shard(name, key, tensor_rank, tuple(stored_shape))
        shards = [self._stored_shard(name, key, rank, tuple(stored_shape)) for rank in range(stored_size)]
        return (
            torch.cat(shards, weight.partition_dim).chunk(tensor_size, weight.partition_dim)[tensor_rank].contiguous()
        )

    def read_range(
        self, target: torch.Tensor, name: str, key: str, tensor_rank: int, tensor_size: int, start: int
    ) -> None:
        """Fill a flat tensor with the elements of the flattened shard from start on, straight from the file where the shards are
        the stored ones; else by way of the whole weight."""
        weight = self.weights[name]
        stored_size = weight.pieces[0].tensor_size
        if weight.partition_dim is not None and stored_size != tensor_size:
            shard = self.shard(name, key, tensor_rank, tensor_size).view(-1)
            target.copy_(shard[start : start + target.numel()])
        else:
            self._read_stored(target, name, key, 0 if weight.partition_dim is None else tensor_rank, start)

    def tensor(self, file: str, key: str) -> torch.Tensor:
        """A whole tensor of one state file."""
        try:
            return self._open(file).get_tensor(key)
        except SafetensorError as error:
            raise CheckpointError(f"{self.folder / file}: {error}") from error

    def dtype(self, name: str, key: str) -> torch.dtype | None:
        """How `key` of a weight is stored, None where it is not: what is not trained has no moments."""
        file = self._open(self.weights[name].pieces[0].file)
        if f"{key}/{name}" not in file.keys():  # noqa: SIM118 (a file of safetensors is no dict)
            return None
        return _DTYPES[file.get_slice(f"{key}/{name}").get_dtype()]

    def _stored_shard(self, name: str, key: str, stored_rank: int, shape: tuple[int, ...]) -> torch.Tensor:
        shard = torch.empty(shape, dtype=torch.float32)
        self._read_stored(shard.view(-1), name, key, stored_rank, 0)
        return shard

    def _read_stored(self, target: torch.Tensor, name: str, key: str, stored_rank: int, start: int) -> None:
        """Fill a flat tensor with the elements of a stored shard from start on."""
        end, found = start + target.numel(), 0
        for piece in self.weights[name].pieces:
            first, last = max(start, piece.start), min(end, piece.start + piece.length)
            if piece.tensor_rank != stored_rank or first >= last:
                continue
            try:
                stored = self._open(piece.file).get_slice(f"{key}/{name}")
                target[first - start : last - start] = stored[first - piece.start : last - piece.start]
            except SafetensorError as error:
                raise CheckpointError(f"{self.folder / piece.file}: {key}/{name}: {error}") from error
            found += last - first
        if found != target.numel():
            raise CheckpointError(f"{self.folder}: {key} of {name} has {found:,} of {target.numel():,} elements")

    def _open(self, file: str):
        if file not in self._files:
            if Path(file).name != file:
                raise CheckpointError(f"{self.folder / INDEX}: {file!r} is not a plain file name")
            try:
                self._files[file] = safe_open(self.folder / file, framework="pt")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{self.folder / file}: {error}") from error
        return self._files[file]


def check_names(names: set[str], reader: StateReader, whole_model: bool) -> None:
    """Raise CheckpointError unless the checkpoint has the weights that the model has."""
    missing = sorted(names - set(reader.weights))
    # a model that holds only a part of the weights has no adapters
    surplus = sorted(name for name in set(reader.weights) - names if whole_model or is_adapter(name))
    if any(map(is_adapter, missing)) and not any(map(is_adapter, reader.weights)):
        raise CheckpointError(
            f"{reader.folder} has no adapters, which lora_rank asks for: to train new ones on it, give finetune: true; to read "
            "trained ones, give the folder that they were saved in"
        )
    if missing or surplus:
        what = [f"it lacks {missing[0]} and {len(missing) - 1} more"] if missing else []
        what += [f"it has {surplus[0]} and {len(surplus) - 1} more, which the model lacks"] if surplus else []
        raise CheckpointError(f"{reader.folder} is of another model: {'; '.join(what)}; check the model keys")


def check_shape(name: str, shape: tuple[int, ...], reader: StateReader) -> None:
    """Raise CheckpointError unless the checkpoint's weight has the model's full shape."""
    stored = reader.weights[name].shape
    if stored != shape:
        raise CheckpointError(
            f"{reader.folder} is of another model: {name} is {list(stored)} there and {list(shape)} here; "
            "check the model keys and the tokenizer"
        )


def full_shape(parameter: torch.nn.Parameter, tensor_size: int) -> tuple[int, ...]:
    """The shape of the whole weight of which a process holds a parameter. tensor_size: ranks that it is split over, 1 where it is not."""
    shape = list(getattr(parameter, "ds_shape", parameter.shape))  # ZeRO 3 leaves an empty tensor behind
    if tensor_size > 1:
        shape[parameter.partition_dim] *= tensor_size
    return tuple(shape)
