"""Look into token files.

    python tools/inspect_dataset.py data/mine_text_document                        # counts, shares, lengths
    python tools/inspect_dataset.py data/mine_text_document --check                # every byte against the manifest
    python tools/inspect_dataset.py data/mine_text_document --documents 0 17 --sample 3 --seq-length 2048 \\
        --tokenizer-type HFTokenizer --vocab-file 20B_tokenizer.json
    python tools/inspect_dataset.py data/a_text_document data/b_text_document --weights 0.7 0.3 --train-tokens 1e9

Exit codes: 0 done, 2 the files are damaged or the question does not make sense.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

# `python tools/inspect_dataset.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.data.inspection import Inspection, blend, document_tokens, inspect_store, packed_sample
from neox.data.manifest import check_hashes
from neox.tokenizer.tokenizer import build_tokenizer
from tools.refusal import refuse

BAR = 40  # letters of the longest bar
TOKENIZER_TYPES = get_args(TokenizerConfig.model_fields["tokenizer_type"].annotation)


def main(arguments: list[str]) -> int:
    """Run the tool; the exit code."""
    given = _parser().parse_args(arguments)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    prefixes = [name.removesuffix(".idx") for name in given.prefix]
    try:
        for prefix in prefixes:
            _show(prefix, inspect_store(prefix), console)
            if given.check:
                _check(prefix, console)
            _show_texts(prefix, given, console)
        if len(prefixes) > 1:
            _show_blend(prefixes, given, console)
    except ConfigError as error:
        return refuse(error)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("prefix", nargs="+", metavar="PREFIX", help="token files, with or without .idx")
    add("--check", action="store_true", help="read all bytes and compare their SHA-256 with the manifest")
    add("--documents", type=int, nargs="+", default=[], metavar="N", help="decode these documents, from 0")
    add("--sample", type=int, metavar="N", help="decode a packed sample, from 0, with its document boundaries")
    add("--seq-length", type=int, default=2048, metavar="N", help="tokens of a sample (2048)")
    add(
        "--weights", type=float, nargs="+", metavar="W", help="of several stores in a mixture; their sizes if not given"
    )
    add("--train-tokens", type=float, metavar="N", help="tokens drawn from the mixture")
    add("--tokenizer-type", choices=TOKENIZER_TYPES, help="needed to decode")
    add("--vocab-file", metavar="FILE", help="vocabulary of the tokenizer")
    add("--merge-file", metavar="FILE", help="merges of GPT2BPETokenizer")
    return parser


def _show(prefix: str, found: Inspection, console: Console) -> None:
    facts = found.facts
    console.print(
        f"{prefix}: {facts.documents:,} documents, {facts.tokens:,} tokens ({facts.dtype.name}), "
        f"{found.shortest:,} to {found.longest:,} tokens long, {facts.tokens / facts.sequences:,.1f} on average"
    )
    console.print(_lengths(found))
    if found.manifest is None:
        console.print("no manifest: sources, tokenizer and subsets are not known")
        return
    tokenizer = found.manifest["tokenizer"]
    console.print(f"tokenizer {tokenizer['type']}, {tokenizer['vocab_size']:,} ids, eod {tokenizer['eod']}")
    console.print(f"from {len(found.manifest['sources']):,} files, the first {found.manifest['sources'][0]['path']}")
    console.print(_subsets(found.manifest))


def _lengths(found: Inspection) -> Table:
    table = Table("tokens", "documents", "", title="length of documents", title_justify="left")
    if found.empty:
        table.add_row("0", f"{found.empty:,}", "")
    used = [index for index, count in enumerate(found.histogram) if count]
    for index in range(used[0], used[-1] + 1):
        count = int(found.histogram[index])
        bar = "#" * round(BAR * count / found.histogram.max())
        table.add_row(f"{2**index:,} - {2 ** (index + 1) - 1:,}", f"{count:,}", bar)
    return table


def _subsets(manifest: dict) -> Table:
    table = Table("subset", "documents", "tokens", "share", "bytes a token", title="subsets", title_justify="left")
    for name, share in sorted(manifest["subsets"].items(), key=lambda item: -item[1]["tokens"]):
        table.add_row(
            name or "(no name)",
            f"{share['documents']:,}",
            f"{share['tokens']:,}",
            f"{share['tokens'] / manifest['tokens']:.1%}",
            f"{share['text_bytes'] / share['tokens']:.2f}",
        )
    return table


def _check(prefix: str, console: Console) -> None:
    found = inspect_store(prefix).manifest
    if found is None:
        raise ConfigError(f"{prefix}.json: there is no manifest to check the files against")
    check_hashes(prefix, found)
    console.print("every byte is as the manifest says")


def _show_texts(prefix: str, given: argparse.Namespace, console: Console) -> None:
    if not given.documents and given.sample is None:
        return
    if given.tokenizer_type is None:
        raise ConfigError("--documents and --sample need the tokenizer: --tokenizer-type and its files")
    tokenizer = build_tokenizer(
        TokenizerConfig(tokenizer_type=given.tokenizer_type, vocab_file=given.vocab_file, merge_file=given.merge_file)
    )
    for number, tokens in zip(given.documents, document_tokens(prefix, given.documents)):
        console.print(f"--- document {number:,}, {tokens.size:,} tokens")
        console.print(tokenizer.decode(tokens.tolist()))
    if given.sample is not None:
        console.print(f"--- sample {given.sample:,} of {given.seq_length:,} tokens")
        console.print(packed_sample(prefix, given.sample, given.seq_length, tokenizer))


def _show_blend(prefixes: list[str], given: argparse.Namespace, console: Console) -> None:
    drawn = None if given.train_tokens is None else int(given.train_tokens)
    table = Table("store", "share", "times read", title="the mixture as it will be drawn", title_justify="left")
    for prefix, share, times in blend(prefixes, given.weights, drawn):
        table.add_row(prefix, f"{share:.2%}", f"{times:.2f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
