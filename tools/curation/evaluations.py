"""Make the index of evaluation sets that training texts are held against: the hashes of every 13 words in a row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy
import orjson
from datatrove.utils.hashing import create_hash_func
from datatrove.utils.text import ngrams, simplify_text

from neox.config.errors import ConfigError
from neox.data.corpus import corpus_name, open_corpus
from neox.data.records import Record, Unpacking, read_records
from tools.curation.stages import DECONTAMINATION
from tools.curation.words import HASHES, WORDS


def write_index(evaluations: list[Path], folder: Path) -> None:
    """One file of hashes for each evaluation set, as datatrove's NGramsDecontFilter reads them (its own indexer wants lighteval,
    and fetches the sets). Raises ConfigError for a set that cannot be read or has no text of 13 words."""
    folder.mkdir(exist_ok=True)
    hash_of = create_hash_func(HASHES)
    for path in evaluations:
        hashes = set()
        with open_corpus(path) as file:
            for record in read_records(corpus_name(path), file, Unpacking()):
                for text in texts_of(record):
                    words = WORDS.word_tokenize(simplify_text(text, DECONTAMINATION.norm_config))
                    hashes.update(hash_of(" ".join(run)) for run in ngrams(words, DECONTAMINATION.n_grams))
        if not hashes:
            raise ConfigError(
                f"--eval {path}: no text in it has {DECONTAMINATION.n_grams} words, so nothing can be found"
            )
        name = str(path).strip("/").replace("/", "_")
        numpy.array(sorted(hashes), dtype=HASHES.np_descr).tofile(folder / f"{name}.index.hashes")


def texts_of(record: Record) -> Iterator[str]:
    """Every text in a record, whatever the evaluation set calls it: question, context, answers."""
    if record.kind == "fault":
        raise ConfigError(f"--eval {record.place}: {record.content.decode()}")
    try:
        yield from _texts_in(orjson.loads(record.content) if record.kind == "json" else record.content.decode())
    except ValueError as error:
        raise ConfigError(f"--eval {record.place}: it is neither JSON nor UTF-8 ({error})") from error


def _texts_in(value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(part)
