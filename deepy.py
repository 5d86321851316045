"""Start a run: read YAML files, check them, show the plan, and start the processes.

    python deepy.py train.py configs/125M.yml

Imports no torch: a mistake in a configuration is told in well under a second.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from neox.config.errors import ConfigError
from neox.config.gpus import this_machines_gpu
from neox.config.handover import argument
from neox.config.load import did_you_mean
from neox.config.read import Resolved, read_config
from neox.config.resolve import cuda_devices
from neox.config.rules import vocabulary_fits
from neox.config.sections import Config
from neox.config.surroundings import free_bytes
from neox.launch.argv import local_workers
from neox.launch.plan import Plan
from neox.launch.plan_page import print_plan
from neox.launch.port import free_port
from neox.launch.supervise import supervise
from neox.tokenizer.vocabulary import read_vocab_size

ROOT = Path(__file__).resolve().parent
FAILED, WRONG_INPUT = 1, 2
# GPT-2's, GPT-NeoX-20B's and Llama's: what a plan counts with where the vocabulary's file is not there yet
USUAL_VOCABULARY = {"GPT2BPETokenizer": 50_257, "HFTokenizer": 50_277, "SPMTokenizer": 32_000}

EXAMPLES = """\
examples:
  python deepy.py train.py configs/125M.yml
  python deepy.py train.py -d configs 125M local_setup             # configs/125M.yml and configs/local_setup.yml
  python deepy.py train.py configs/125M.yml --set train_iters=100 optimizer.params.lr=3e-4
  python deepy.py train.py configs/20B.yml --dry-run               # the plan: parameters, memory, steps, commands
  python deepy.py generate.py configs/125M.yml --set load=checkpoints text_gen_type=interactive

exit codes:
  0 done; 1 the run failed; 2 the input is wrong, nothing was started;
  75 stopped by a signal after saving: start again to go on

every key, its type, default and meaning: configs/README.md
"""


def main(argv: Sequence[str]) -> int:
    """Run deepy.py with these arguments; returns the exit code."""
    arguments = _parser().parse_intermixed_args(argv)
    try:
        if arguments.json and not arguments.dry_run:
            raise ConfigError("--json: prints the plan of a dry run; add --dry-run")
        script = _find_script(arguments.script)
        resolved = read_config(
            arguments.config, arguments.conf_dir, arguments.overrides, script.name, arguments.dry_run
        )
        vocab_size, notes = vocabulary(resolved, arguments.dry_run)
    except ConfigError as error:
        return _refuse(error)
    with tempfile.TemporaryDirectory(prefix="neox-") as folder:
        plan = _plan(script, resolved.config, vocab_size, notes, Path(folder), arguments.dry_run)
        if arguments.dry_run:
            _show(plan, arguments.json)
            return 0
        print_plan(plan, Console(stderr=True), trains=script.name == "train.py", commands=False)
        return supervise(plan.workers)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python deepy.py",
        description="Start a run: read YAML files, check them, show the plan, start the processes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("script", metavar="SCRIPT", help="what to run: train.py, generate.py, ...")
    parser.add_argument("config", metavar="CONFIG", nargs="+", help="YAML files, read in order; .yml may be left out")
    parser.add_argument("-d", "--conf-dir", metavar="CONF_DIR", help="folder in which the files are")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="override keys of the files; dots lead into dicts: zero_optimization.stage=2",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and start nothing")
    parser.add_argument("--json", action="store_true", help="print the plan of a dry run as one JSON object")
    return parser


def _find_script(name: str) -> Path:
    """The script in the current folder, or beside this file; `.py` may be left out."""
    for folder in (Path(), ROOT):
        for candidate in (folder / name, folder / f"{name}.py"):
            if candidate.is_file():
                return candidate
    known = [path.name for path in ROOT.glob("*.py") if path.name != Path(__file__).name]
    raise ConfigError(f"{name}: there is no such script{did_you_mean(name, known)} (SCRIPT comes before the files)")


def vocabulary(resolved: Resolved, dry_run: bool) -> tuple[int, list[str]]:
    """The size of the vocabulary, and the notes to show; a dry run does without the tokenizer's files."""
    config, notes = resolved.config, list(resolved.notes)
    tokenizer = config.tokenizer
    absent = tokenizer.vocab_file is not None and not Path(tokenizer.vocab_file).is_file()
    if dry_run and absent and tokenizer.tokenizer_type in USUAL_VOCABULARY:
        size = USUAL_VOCABULARY[tokenizer.tokenizer_type]
        notes.append(f"the vocabulary's file is not there: the plan counts with {size:,} tokens")
    else:
        size = read_vocab_size(tokenizer)
    if complaints := [f"{keys.split()[0]}: {sentence}" for keys, sentence in vocabulary_fits(config, size)]:
        raise ConfigError(complaints)
    return size, notes


def _plan(script: Path, config: Config, vocab_size: int, notes: list[str], folder: Path, dry_run: bool) -> Plan:
    """The plan with the processes to start; a busy port is exchanged for a free one, unless nothing will start."""
    port = config.launch.master_port
    free = port if dry_run and port else free_port(port)
    if port not in (None, free):
        notes.append(f"master_port {port} is taken: the processes meet at {free}")
    workers = local_workers(
        config.launch,
        str(script),
        argument(config, folder),
        root=str(ROOT),
        environ=os.environ,
        cores=len(os.sched_getaffinity(0)),
        port=free,
        devices=cuda_devices(),
    )
    return Plan(
        script=str(script),
        config=config,
        vocab_size=vocab_size,
        gpu=config.launch.gpu or (this_machines_gpu() if cuda_devices() else None),
        free_disk_bytes=free_bytes(config.checkpoint.save) if config.checkpoint.save else None,
        workers=workers,
        given_notes=notes,
    )


def _show(plan: Plan, as_json: bool) -> None:
    if as_json:
        print(json.dumps(plan.as_json()))
    else:
        print_plan(plan, Console(), trains=Path(plan.script).name == "train.py", commands=True)


def _refuse(error: ConfigError) -> int:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for complaint in error.complaints:
        console.print(complaint, style="red", markup=False)
    count = len(error.complaints)
    console.print(f"{count} mistake{'s' if count > 1 else ''}: nothing was started", markup=False)
    return WRONG_INPUT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
