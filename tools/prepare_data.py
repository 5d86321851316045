"""Bring a small corpus with a free licence, or the files of a tokenizer, into a folder, ready to train on.

    python tools/prepare_data.py shakespeare [-d data]
    python tools/prepare_data.py pile-like          # seven kinds of text, mixed, with meta as in the Pile

A corpus becomes NAME.jsonl, and tokens of it by GPT-2's tokenizer, which comes with it. All is in packages, by name and version,
from whatever index pip, npm and apt are set up with; nothing is installed. A second run finds everything there and does nothing.
Exit codes: 0 done, 1 a package could not be had or is not what it was, 2 a wrong command line.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# `python tools/prepare_data.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import neox  # noqa: F401 (first: it tells what this interpreter lacks)

# isort: split
import orjson

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.data.files import write_durably
from neox.data.preprocess import PreprocessJob, preprocess
from neox.data.progress import summary
from neox.data.store import check_store
from neox.launch.cores import usable_processors
from tools.corpora.packages import PreparationError, archived_files, fetch, verified
from tools.corpora.sets import BLENDS, CORPORA, TOKENIZERS, Corpus, mix


def prepare_tokenizer(name: str, folder: Path) -> None:
    """The files of a tokenizer."""
    tokenizer = TOKENIZERS[name]
    missing = {member: file for file, (member, _) in tokenizer.files.items() if not (folder / file).is_file()}
    if not missing:
        return
    for member, content in archived_files(fetch(tokenizer.package)):
        if member in missing:
            file = missing.pop(member)
            publish(folder / file, verified(content, tokenizer.files[file][1], member))
    if missing:
        raise PreparationError(f"{tokenizer.package.requirement} has no {', '.join(missing)}")


def prepare_corpus(name: str, folder: Path) -> None:
    """`NAME.jsonl`, the GPT-2 files, and the tokens of the one by the other; for a blend, `NAME.LICENCES` too."""
    prepare_tokenizer("gpt2-tokenizer", folder)
    corpus = folder / f"{name}.jsonl"
    if not corpus.is_file():
        documents = documents_of(CORPORA[name]) if name in CORPORA else blend(name, folder)
        publish(corpus, b"".join(orjson.dumps(document) + b"\n" for document in documents))
    prefix = folder / name
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
        workers=usable_processors(),
    )
    say(f"tokenizing {corpus}")
    for line in summary(preprocess(job)):
        say(line)


def documents_of(corpus: Corpus) -> list[dict]:
    """The documents of one corpus, fetched."""
    return corpus.documents(archived_files(fetch(corpus.package)))


def blend(name: str, folder: Path) -> list[dict]:
    """The documents of several corpora, mixed; their licences are written first, so that the blend is never without."""
    documents, licences = [], []
    for member in BLENDS[name]:
        corpus = CORPORA[member]
        found = documents_of(corpus)
        megabytes = sum(len(document["text"].encode()) for document in found) / 1e6
        licences.append(
            f"{member} (pile_set_name {corpus.subset}): {len(found):,} documents, {megabytes:.1f} MB\n"
            f"    {corpus.package.licence}\n"
            f"    {corpus.package.manager} {corpus.package.requirement}, SHA-256 {corpus.package.sha256}\n"
        )
        documents += found
    for line in licences:
        say(line.rstrip())
    publish(folder / f"{name}.LICENCES", "".join(licences).encode())
    return mix(documents)


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


def main(arguments: list[str]) -> int:
    """Run the tool; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*CORPORA, *BLENDS, *TOKENIZERS], help="the corpus or tokenizer")
    parser.add_argument("-d", "--data-dir", type=Path, default=Path("data"), help="folder to put it into (data)")
    given = parser.parse_args(arguments)
    try:
        given.data_dir.mkdir(parents=True, exist_ok=True)
        prepare = prepare_tokenizer if given.name in TOKENIZERS else prepare_corpus
        prepare(given.name, given.data_dir)
    except (PreparationError, ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
