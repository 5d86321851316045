"""State files: what one layout writes, any other reads."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from neox.checkpoint import tensors as tensors_module
from neox.checkpoint.layout import CheckpointError, file_entry
from neox.checkpoint.tensors import INDEX, Piece, StateReader, Weight, encode_index, write_tensors


def write_layout(
    folder: Path, whole: torch.Tensor, partition_dim: int | None, tensor_size: int, cuts: list[int]
) -> None:
    """Write `whole` as `tensor_size` ranks would, each with its flattened shard cut into ranges at `cuts`."""
    shards = [whole] if partition_dim is None else whole.chunk(tensor_size, partition_dim)
    pieces = []
    for rank, shard in enumerate(shards):
        flat = shard.contiguous().view(-1)
        edges = sorted({0, *(cut for cut in cuts if cut < flat.numel()), flat.numel()})
        for first, last in zip(edges, edges[1:]):
            name = f"state_{rank}_{first}.safetensors"
            write_tensors(folder / name, {"weight/w": flat[first:last]})
            pieces.append(Piece(name, rank, len(shards), first, last - first))
    index = encode_index({"w": Weight(tuple(whole.shape), partition_dim, tuple(pieces))}, [])
    (folder / INDEX).write_bytes(index)


@settings(max_examples=60)
@given(
    partition_dim=st.sampled_from([None, 0, 1]),
    stored=st.sampled_from([1, 2, 4]),
    read=st.sampled_from([1, 2, 4]),
    cuts=st.lists(st.integers(1, 60), max_size=3),
    data=st.data(),
)
def test_any_layout_reads_what_any_other_wrote(tmp_path_factory, partition_dim, stored, read, cuts, data):
    folder = tmp_path_factory.mktemp("state")
    whole = torch.randn(8, 12)
    write_layout(folder, whole, partition_dim, stored, cuts)
    reader = StateReader(folder)
    for rank in range(read):
        shard = whole if partition_dim is None else whole.chunk(read, partition_dim)[rank]
        assert torch.equal(reader.shard("w", "weight", rank, read), shard)
        start = data.draw(st.integers(0, shard.numel() - 1))
        length = data.draw(st.integers(1, shard.numel() - start))
        target = torch.empty(length)
        reader.read_range(target, "w", "weight", rank, read, start)
        assert torch.equal(target, shard.reshape(-1)[start : start + length])


@pytest.mark.parametrize("written_at_once", [1, 20, 1 << 26])
def test_files_are_plain_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written_at_once: int) -> None:
    monkeypatch.setattr(tensors_module, "WRITTEN_AT_ONCE", written_at_once)
    tensors = {"weight/a": torch.randn(5), "random/cpu": torch.arange(7, dtype=torch.uint8), "weight/b": torch.randn(0)}
    entry = write_tensors(tmp_path / "state.safetensors", tensors)
    assert entry == file_entry(tmp_path / "state.safetensors")
    loaded = load_file(tmp_path / "state.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_a_missing_range_is_an_error_not_garbage(tmp_path: Path) -> None:
    write_tensors(tmp_path / "s.safetensors", {"weight/w": torch.ones(4)})
    (tmp_path / INDEX).write_bytes(encode_index({"w": Weight((6,), None, (Piece("s.safetensors", 0, 1, 0, 4),))}, []))
    with pytest.raises(CheckpointError, match="4 of 6 elements"):
        StateReader(tmp_path).shard("w", "weight", 0, 1)


@pytest.mark.parametrize("index", [b"", b"{}", b"[]", b'{"moments": [], "weights": {"w": 3}}', b"\xff"])
def test_a_damaged_index_is_a_clear_error(tmp_path: Path, index: bytes) -> None:
    (tmp_path / INDEX).write_bytes(index)
    with pytest.raises(CheckpointError, match="index.json: cannot be read"):
        StateReader(tmp_path)


def test_an_index_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    outside = Piece("../secret.safetensors", 0, 1, 0, 4)
    (tmp_path / INDEX).write_bytes(encode_index({"w": Weight((4,), None, (outside,))}, []))
    with pytest.raises(CheckpointError, match="not a plain file name"):
        StateReader(tmp_path).shard("w", "weight", 0, 1)
