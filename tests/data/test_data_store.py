"""Token files: the format to the byte, published whole or not at all, and no damage goes unseen."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neox.config.errors import ConfigError
from neox.data.samples import IndexedDataset
from neox.data.store import HEADER, StoreWriter, check_store, token_dtype

DOCUMENTS = [[5, 6, 7], [8], [], list(range(200)), [65_499, 0]]


def write(prefix: Path, documents=DOCUMENTS, dtype=numpy.uint16) -> None:
    with StoreWriter(prefix, dtype) as store:
        for document in documents:
            store.add(numpy.array(document, dtype=dtype), numpy.array([len(document)]))
        store.finish()


@pytest.mark.parametrize("dtype", [numpy.uint16, numpy.int32])
def test_equal_to_megatron_core_byte_for_byte(tmp_path, dtype):
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder  # noqa: PLC0415 (seconds to import)

    write(tmp_path / "ours", dtype=dtype)
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=dtype)
    for document in DOCUMENTS:
        builder.add_document(torch.tensor(document, dtype=torch.int64), [len(document)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"ours{suffix}").read_bytes() == (tmp_path / f"theirs{suffix}").read_bytes()


def test_read_back_by_megatron_core(tmp_path):
    write(tmp_path / "s")
    store = IndexedDataset(str(tmp_path / "s"))  # its arrays are views of a map that it closes when it goes
    assert [store[index].tolist() for index in range(len(store))] == DOCUMENTS
    facts = check_store(tmp_path / "s")
    assert (facts.sequences, facts.documents, facts.tokens, facts.dtype) == (5, 5, 206, numpy.uint16)


def test_several_documents_in_one_call_are_several_documents(tmp_path):
    write(tmp_path / "one")
    with StoreWriter(tmp_path / "all", numpy.uint16) as store:
        tokens = numpy.array([token for document in DOCUMENTS for token in document], dtype=numpy.uint16)
        store.add(tokens, numpy.array([len(document) for document in DOCUMENTS]))
        store.finish()
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"all{suffix}").read_bytes()


def test_dtype_follows_the_vocabulary():
    assert token_dtype(65_499) == numpy.uint16
    assert token_dtype(65_500) == numpy.int32


@pytest.mark.parametrize("kept", range(len(DOCUMENTS) + 1))
def test_goes_on_after_any_document_and_drops_what_followed(tmp_path, kept):
    write(tmp_path / "whole")
    with StoreWriter(tmp_path / "s", numpy.uint16) as store:
        for document in [*DOCUMENTS[:kept], [1, 2, 3]]:
            store.add(numpy.array(document, dtype=numpy.uint16), numpy.array([len(document)]))
    with StoreWriter(tmp_path / "s", numpy.uint16, kept, sum(map(len, DOCUMENTS[:kept]))) as store:
        for document in DOCUMENTS[kept:]:
            store.add(numpy.array(document, dtype=numpy.uint16), numpy.array([len(document)]))
        hashes = store.finish()
    for suffix in (".bin", ".idx"):
        content = (tmp_path / f"s{suffix}").read_bytes()
        assert content == (tmp_path / f"whole{suffix}").read_bytes()
        assert hashes[suffix] == hashlib.sha256(content).hexdigest()


def test_less_than_was_written_before_is_refused(tmp_path):
    write(tmp_path / "s")
    with pytest.raises(ConfigError, match=r"s\.bin: it is shorter than the 414 bytes"):
        StoreWriter(tmp_path / "s", numpy.uint16, 5, 207)


def test_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(ConfigError, match="it cannot be written"):
        StoreWriter(tmp_path / "absent" / "s", numpy.uint16)


@pytest.mark.parametrize(
    "suffix, damage, complaint",
    [
        (".idx", lambda raw: raw[:20], "not an index of token files"),
        (".idx", lambda raw: b"TNTIDX" + raw[6:], "not an index of token files"),
        (".idx", lambda raw: raw[:9] + b"\x02" + raw[10:], "version 2"),
        (".idx", lambda raw: raw[:17] + b"\x03" + raw[18:], "dtype code 3"),
        (".idx", lambda raw: raw[:-8], "bytes instead of"),
        (".idx", lambda raw: raw + b"\0", "bytes instead of"),
        (".idx", lambda raw: raw[:34] + b"\x04" + raw[35:], "offsets do not follow from the lengths"),
        (".idx", lambda raw: raw[:37] + b"\xff" + raw[38:], "negative length"),
        (".idx", lambda raw: raw[:-8] + bytes(8), "document marks"),
        (".idx", lambda raw: raw[:-48] + b"\x01" + raw[-47:], "document marks"),
        (".idx", lambda raw: raw[:-24] + b"\x09" + raw[-23:], "document marks"),
        (".bin", lambda raw: raw[:-1], "do not belong together"),
        (".bin", lambda raw: raw + b"\0\0", "do not belong together"),
    ],
)
def test_damage_is_named_with_its_file(tmp_path, suffix, damage, complaint):
    """FAULTS 21."""
    write(tmp_path / "s")
    path = tmp_path / f"s{suffix}"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match=rf"s\{suffix}: .*{complaint}"):
        check_store(tmp_path / "s")


def test_no_tokens_is_an_error(tmp_path):
    write(tmp_path / "s", documents=[[], []])
    with pytest.raises(ConfigError, match="no tokens"):
        check_store(tmp_path / "s")


def test_large_index_is_checked_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("neox.data.store.CHECKED_AT_ONCE", 2)
    write(tmp_path / "s")
    assert check_store(tmp_path / "s").sequences == 5
    path = tmp_path / "s.idx"
    raw = path.read_bytes()
    path.write_bytes(raw[:46] + b"\x07" + raw[47:])  # the fourth length
    with pytest.raises(ConfigError, match="offsets do not follow"):
        check_store(tmp_path / "s")


@settings(max_examples=150)
@given(data=st.data())
def test_altered_files_are_refused_or_read_the_same(tmp_path_factory, data):
    """FAULTS 21."""
    folder = tmp_path_factory.mktemp("fuzz")
    write(folder / "s")
    path = folder / data.draw(st.sampled_from(["s.idx", "s.idx", "s.bin"]), label="file")
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="cut"):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1), label="bytes kept")]
    elif path.suffix == ".idx":  # a changed token is one of the things that only a checksum sees
        for _ in range(data.draw(st.integers(1, 3), label="changes")):
            raw[data.draw(st.integers(0, len(raw) - 1), label="at")] = data.draw(st.integers(0, 255), label="byte")
    path.write_bytes(raw)
    try:
        check_store(folder / "s")
    except ConfigError as error:
        assert str(folder / "s") in str(error)
    else:
        store = IndexedDataset(str(folder / "s"))
        assert [store[index].tolist() for index in range(len(store))] == DOCUMENTS


def test_header_of_34_bytes():
    assert HEADER.size == 34
