"""Clean a corpus before it is tokenized: remove what is not worth training on, and what should not be learned.

    python tools/curate.py --input pile/*.jsonl.zst --output data/pile-clean --eval lambada.jsonl --exempt Github ArXiv

writes data/pile-clean/part-*.jsonl.zst, for tools/preprocess_data.py, with report.json and report.md: what each stage removed, how much,
and examples. The folder appears when it is complete; until then all is in data/pile-clean.partial, from where the same command goes on
if it was stopped. docs/curation.md says what the stages do.
Exit codes: 0 done, 1 the run failed, 2 the input is wrong and nothing was written, 75 stopped by a signal.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import get_args

# `python tools/curate.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from neox.config.errors import ConfigError
from neox.data.records import KNOWN_SUFFIXES, TextUnit
from neox.launch.cores import usable_processors
from tools.refusal import UNFINISHED, refuse, unfinished

STAGES = ("language", "gopher", "c4", "decontaminate", "redact", "exact", "near")
NOT_BY_DEFAULT = ("c4", "decontaminate")  # the one is for web pages; the other needs --eval, which turns it on
SECONDS_BETWEEN_LINES = 10.0


def main(arguments: list[str]) -> int:
    """Run the tool; the exit code."""
    given = parse(arguments)
    try:
        from tools.curation.job import CurationJob, curate  # noqa: PLC0415 (the packages of an optional extra)
        from tools.curation.report import summary  # noqa: PLC0415
    except ModuleNotFoundError as error:
        print(f"error: there is no package {error.name}: pip install -r requirements-curate.txt", file=sys.stderr)
        return 2
    job = CurationJob(
        inputs=given.input,
        output=given.output,
        stages=given.stages,
        languages=tuple(given.languages),
        evaluations=tuple(given.eval),
        exempt=tuple(given.exempt),
        phone_region=given.phone_region,
        key=given.jsonl_key,
        text_unit=given.text_unit,
        workers=given.workers,
        skip_bad_records=given.on_error == "skip",
        overwrite=given.overwrite,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's way to say Ctrl-C
    try:
        stages = curate(job, Lines())
    except ConfigError as error:
        return refuse(error)
    except UNFINISHED as error:
        return unfinished(error)
    print(*summary(stages), f"{job.output}/report.md tells more", sep="\n")
    return 0


class Lines:
    """A line of progress every few seconds."""

    def __init__(self):
        self.last = time.monotonic()

    def __call__(self, progress) -> None:
        if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            speed = progress.session_text_bytes / 1e6 / progress.seconds
            share = progress.read_bytes / max(progress.total_bytes, 1)
            print(f"{share:.0%}  {progress.records:,} documents read, {speed:.2f} MB/s", flush=True)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; argparse exits with 2 where it does not make sense."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="PATH", help=f"files, folders and patterns: {KNOWN_SUFFIXES}")
    add("--output", type=Path, required=True, metavar="FOLDER", help="the folder to make")
    default = [name for name in STAGES if name not in NOT_BY_DEFAULT]
    add(
        "--stages",
        type=lambda text: text.split(","),
        metavar="NAME,...",
        help=f"of {','.join(STAGES)}, which run in this order ({','.join(default)}; with --eval decontaminate too)",
    )
    add("--eval", nargs="+", default=[], metavar="PATH", help="evaluation sets: texts that overlap them are removed")
    add("--languages", nargs="+", default=["en"], metavar="CODE", help="languages to keep, by ISO 639-1 (en)")
    add(
        "--exempt",
        nargs="+",
        default=[],
        metavar="SUBSET",
        help="pass these through language, gopher and c4: code, tables",
    )
    add(
        "--phone-region",
        default="US",
        metavar="CODE",
        help="where phone numbers without a country's code are from (US)",
    )
    add("--jsonl-key", default="text", metavar="KEY", help="key of the text (text); it is `text` in the output")
    add("--text-unit", choices=get_args(TextUnit), default="file", help="what of a .txt is one document (file)")
    add(
        "--workers",
        type=int,
        default=usable_processors(),
        metavar="N",
        help="processes (one for each processor it may use)",
    )
    add("--on-error", choices=("stop", "skip"), default="stop", help="at a record that cannot be read (stop)")
    add("--overwrite", action="store_true", help="start over where another job was stopped")
    given = parser.parse_args(arguments)
    if given.stages is None:
        given.stages = default + (["decontaminate"] if given.eval else [])
    if unknown := set(given.stages) - set(STAGES):
        parser.error(f"--stages: {', '.join(sorted(unknown))} is none of {', '.join(STAGES)}")
    if ("decontaminate" in given.stages) != bool(given.eval):
        parser.error("the stage decontaminate and --eval need each other")
    if given.workers < 1:
        parser.error("--workers: at least 1")
    given.stages = tuple(name for name in STAGES if name in given.stages)
    return given


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
