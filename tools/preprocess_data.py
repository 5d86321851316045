"""Turn raw text into the token files that training reads.

    python tools/preprocess_data.py --input data/corpus.jsonl.zst --output-prefix data/corpus \\
        --tokenizer-type GPT2BPETokenizer --vocab-file data/gpt2-vocab.json --merge-file data/gpt2-merges.txt --append-eod

writes data/corpus_text_document.bin, .idx and .json (the manifest), which appear under these names only when they are complete.
Until then all is in data/corpus.partial, from where the same command goes on if it was stopped.
On a Ray cluster: --ray ADDRESS. Exit codes: 0 done, 1 the run failed, 2 the input is wrong and nothing was written, 75 stopped by a signal.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import get_args

# `python tools/preprocess_data.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import neox  # noqa: F401 (first: it tells what this interpreter lacks)

# isort: split
from rich.console import Console

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.data.cluster_job import ShardError, preprocess_on_ray
from neox.data.preprocess import PreprocessJob, preprocess
from neox.data.progress import joined_summary, shown, summary
from neox.data.records import KNOWN_SUFFIXES, TextUnit
from neox.data.shards import Shard
from neox.launch.cores import usable_processors
from tools.refusal import AGAIN, FAILED, UNFINISHED, refuse, unfinished

TOKENIZER_TYPES = get_args(TokenizerConfig.model_fields["tokenizer_type"].annotation)


def main(arguments: list[str]) -> int:
    """Run the tool; the exit code."""
    job, given = parse(arguments)
    console = Console(soft_wrap=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's way to say Ctrl-C
    try:
        if given.ray is not None:
            command = [sys.executable, __file__, *_without(arguments, "--ray", "--shards")]
            prefixes = preprocess_on_ray(job, command, given.ray, given.shards, console.print)
            print(*joined_summary(prefixes), sep="\n")
            return 0
        with shown(console) as report:
            result = preprocess(job, report)
    except ConfigError as error:
        return refuse(error)
    except ShardError as error:
        print(f"error: {error}\n{AGAIN}", file=sys.stderr)
        return FAILED
    except UNFINISHED as error:
        return unfinished(error)
    print(*summary(result), sep="\n")
    return 0


def parse(arguments: list[str]) -> tuple[PreprocessJob, argparse.Namespace]:
    """The job that the command line asks for, and its options; argparse exits with 2 where it does not make sense."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help=f"files, folders and patterns to read, in order, or - for JSON lines on standard input: {KNOWN_SUFFIXES}",
    )
    add("--output-prefix", required=True, metavar="PREFIX", help="files are PREFIX_<key>_document.bin, .idx and .json")
    add(
        "--jsonl-keys",
        nargs="+",
        metavar="KEY",
        help="keys of the text, each with its own files (text)",
    )
    add(
        "--chat-key",
        metavar="KEY",
        help="instead of a text, the chat under this key: a list of messages with role and content, written with the labels of what "
        "the assistant says",
    )
    add(
        "--chat-template",
        type=Path,
        metavar="FILE",
        help="Jinja, or a tokenizer_config.json that has it (the one beside the tokenizer's file)",
    )
    add("--text-unit", choices=get_args(TextUnit), default="file", help="what of a .txt is one document (file)")
    add("--tokenizer-type", required=True, choices=TOKENIZER_TYPES, help="kind of tokenizer")
    add(
        "--vocab-file",
        metavar="PATH",
        help="vocab.json, tokenizer.json, folder of a Hugging Face tokenizer, .model file or name of an encoding",
    )
    add("--merge-file", metavar="FILE", help="merges of GPT2BPETokenizer")
    add("--append-eod", action="store_true", help="end every document with the end-of-document token")
    add("--ftfy", action="store_true", help="mend wrongly decoded text first")
    add(
        "--workers",
        type=_positive,
        default=usable_processors(),
        metavar="N",
        help="processes that encode (one for each processor it may use)",
    )
    add("--num-docs", type=_positive, metavar="N", help="stop after so many records")
    add(
        "--shard",
        type=Shard.parse,
        default=Shard(),
        metavar="I/N",
        help="do part I of N of the input, into PREFIX_0000I-of-0000N_...; tools/merge_datasets.py joins them",
    )
    add("--ray", metavar="ADDRESS", help="do the shards on a Ray cluster (auto: the one joined here) and join them")
    add("--shards", type=_positive, metavar="N", help="number of shards with --ray (as many as run there at once)")
    add("--on-error", choices=("stop", "skip"), default="stop", help="at a record that cannot be read (stop)")
    add("--overwrite", action="store_true", help="start over where another job was stopped")
    given = parser.parse_args(arguments)
    if given.chat_key is None and given.chat_template is not None:
        parser.error("--chat-template is for chats: give --chat-key too")
    if given.chat_key is not None and (given.ftfy or given.jsonl_keys is not None):
        parser.error("--chat-key reads chats: --ftfy and --jsonl-keys are for texts")
    if given.ray is not None and given.shard.count > 1:
        parser.error("--shard is one machine's work, and --ray does all of it: give one of the two")
    if given.shards is not None and given.ray is None:
        parser.error("--shards goes with --ray; without Ray, each machine has its --shard I/N")
    job = PreprocessJob(
        inputs=given.input,
        output_prefix=given.output_prefix,
        tokenizer=TokenizerConfig(
            tokenizer_type=given.tokenizer_type, vocab_file=given.vocab_file, merge_file=given.merge_file
        ),
        jsonl_keys=tuple(given.jsonl_keys or ["text"]),
        chat_key=given.chat_key,
        chat_template=given.chat_template,
        text_unit=given.text_unit,
        append_eod=given.append_eod,
        ftfy=given.ftfy,
        num_docs=given.num_docs,
        shard=given.shard,
        workers=given.workers,
        skip_bad_records=given.on_error == "skip",
        overwrite=given.overwrite,
    )
    return job, given


def _without(arguments: list[str], *options: str) -> list[str]:
    """The command line without these options and their values."""
    kept, skipping = [], False
    for argument in arguments:
        name, has_value, _ = argument.partition("=")
        if not skipping and name not in options:
            kept.append(argument)
        skipping = not skipping and name in options and not has_value
    return kept


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
