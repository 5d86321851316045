"""Look into token files.

    python tools/inspect_dataset.py data/mine_text_document                        # counts, shares, lengths
    python tools/inspect_dataset.py data/mine_text_document --check                # every byte against the manifest
    python tools/inspect_dataset.py data/mine_text_document --documents 0 17 --sample 3 --seq-length 2048 \\
        --tokenizer-type HFTokenizer --vocab-file 20B_tokenizer.json
    python tools/inspect_dataset.py --configs mine.yml local.yml --html data.html  # what a run reads, and the mixture as it is drawn

Exit codes: 0 done, 2 the files are damaged or the question does not make sense.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

# `python tools/inspect_dataset.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import neox  # noqa: F401 (first: it tells what this interpreter lacks)

# isort: split
from rich.console import Console
from rich.table import Table

from neox.config.errors import ConfigError
from neox.config.read import read_config
from neox.config.sections import Config, TokenizerConfig
from neox.data.files import write_durably
from neox.data.inspection import document_tokens, inspect_store, learned_runs, packed_sample
from neox.data.manifest import check_hashes
from neox.tokenizer.tokenizer import build_tokenizer
from tools.dataset_look import Blend, Look, Text
from tools.refusal import refuse

BAR = 40  # letters of the longest bar
SAMPLES_LOOKED_AT = 10_000_000  # of a mixture, at most, unless the user says another number
SEQ_LENGTH = 2048
TOKENIZER_TYPES = get_args(TokenizerConfig.model_fields["tokenizer_type"].annotation)


def main(arguments: list[str]) -> int:
    """Run the tool; the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if not given.prefix and not given.configs:
        parser.error("name token files, or a configuration with --configs")
    console = Console(soft_wrap=True, highlight=False, markup=False)
    try:
        config = read_config(given.configs, None, [], "train.py", dry_run=True).config if given.configs else None
        prefixes = [name.removesuffix(".idx") for name in given.prefix] or _training_prefixes(config)
        looks = []
        for prefix in prefixes:
            looks.append(_look(prefix, given, config))
            _show(looks[-1], console)
        blend = None if config is None else _blend(config, given.first)
        if blend is not None:
            _show_blend(blend, console)
        if given.html is not None:
            from tools.dataset_page import page  # noqa: PLC0415 (matplotlib takes a second to import)

            write_durably(given.html, page(looks, blend).encode())
            console.print(f"{given.html} written")
    except ConfigError as error:
        return refuse(error)
    except OSError as error:
        return refuse(ConfigError(str(error)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("prefix", nargs="*", metavar="PREFIX", help="token files, with or without .idx; those of --configs if none")
    add("--configs", nargs="+", metavar="FILE", help="a run's configuration: its mixture, tokenizer and seq_length")
    add(
        "--first", type=_positive, metavar="N", help="samples of the mixture to look at (the run's, at most 10 million)"
    )
    add("--check", action="store_true", help="read all bytes and compare their SHA-256 with the manifest")
    add("--documents", type=int, nargs="+", default=[], metavar="N", help="decode these documents, from 0")
    add(
        "--labels",
        metavar="PREFIX",
        help="of these documents, show what is learned: the label files made beside the tokens",
    )
    add("--sample", type=int, metavar="N", help="decode a packed sample, from 0, with its document boundaries")
    add("--seq-length", type=_positive, metavar="N", help=f"tokens of a sample ({SEQ_LENGTH}, or that of --configs)")
    add("--tokenizer-type", choices=TOKENIZER_TYPES, help="needed to decode, unless --configs names it")
    add("--vocab-file", metavar="PATH", help="vocabulary of the tokenizer")
    add("--merge-file", metavar="FILE", help="merges of GPT2BPETokenizer")
    add("--html", type=Path, metavar="FILE", help="write all of it as one page with plots")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _training_prefixes(config: Config) -> list[str]:
    return list(dict.fromkeys(config.data.training_paths or [config.data.data_path]))


def _look(prefix: str, given: argparse.Namespace, config: Config | None) -> Look:
    """All that is asked about one pair of token files."""
    found = inspect_store(prefix)
    if given.check:
        if found.manifest is None:
            raise ConfigError(f"{prefix}.json: there is no manifest to check the files against")
        check_hashes(prefix, found.manifest)
    return Look(prefix, found, given.check, list(_texts(prefix, given, config)))


def _texts(prefix: str, given: argparse.Namespace, config: Config | None):
    if not given.documents and given.sample is None:
        return
    if given.tokenizer_type is not None:
        files = {"vocab_file": given.vocab_file, "merge_file": given.merge_file}
        tokenizer = build_tokenizer(TokenizerConfig(tokenizer_type=given.tokenizer_type, **files))
    elif config is not None:
        tokenizer = build_tokenizer(config.tokenizer)
    else:
        raise ConfigError("--documents and --sample need the tokenizer: --tokenizer-type and its files, or --configs")
    for number, tokens in zip(given.documents, document_tokens(prefix, given.documents)):
        yield Text(f"document {number:,}, {tokens.size:,} tokens", tokenizer.decode(tokens.tolist()))
    for number, labels in zip(given.documents, document_tokens(given.labels, given.documents) if given.labels else ()):
        learned = learned_runs(labels)
        count = sum(run.size for run in learned)
        texts = (tokenizer.decode(run.tolist()) for run in learned)
        yield Text(f"learned of document {number:,}, {count:,} tokens", "\n".join(texts))
    if given.sample is not None:
        length = given.seq_length or (SEQ_LENGTH if config is None else config.model.seq_length)
        yield Text(
            f"sample {given.sample:,} of {length:,} tokens", packed_sample(prefix, given.sample, length, tokenizer)
        )


def _blend(config: Config, first: int | None) -> Blend:
    from neox.data.blend import drawn_blend  # noqa: PLC0415 (it brings torch, which takes seconds to import)

    samples = first or min(config.batch.train_iters * config.batch.train_batch_size, SAMPLES_LOOKED_AT)
    return Blend(samples, config.model.seq_length, drawn_blend(config.data, config.model.seq_length, samples))


def _show(look: Look, console: Console) -> None:
    found, facts = look.found, look.found.facts
    console.print(look.headline)
    table = Table("tokens", "documents", "", title="length of documents", title_justify="left")
    for name, count in look.lengths:
        table.add_row(name, f"{count:,}", "#" * round(BAR * count / max(count for _, count in look.lengths)))
    console.print(table)
    if found.manifest is None:
        console.print("no manifest: sources, tokenizer and subsets are not known")
    else:
        console.print(*look.origin, sep="\n")
        table = Table("subset", "documents", "tokens", "share", "bytes a token", title="subsets", title_justify="left")
        for name, share in look.subsets:
            table.add_row(
                name,
                f"{share['documents']:,}",
                f"{share['tokens']:,}",
                f"{share['tokens'] / facts.tokens:.1%}",
                f"{share['text_bytes'] / share['tokens']:.2f}",
            )
        console.print(table)
    if look.checked:
        console.print("every byte is as the manifest says")
    for text in look.texts:
        console.print(f"--- {text.title}")
        console.print(text.plain)


def _show_blend(blend: Blend, console: Console) -> None:
    table = Table("store", "asked for", "drawn", "times read", title=blend.title, title_justify="left")
    for row in blend.rows:
        table.add_row(row.prefix, f"{row.share:.3%}", f"{row.drawn:.3%}", f"{row.times:.3g}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
