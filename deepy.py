#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Start a run: read YAML files, check them, show the plan, and start the processes.

    python deepy.py train.py configs/125M.yml

Imports no torch: a mistake in a configuration is told in well under a second.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import neox  # noqa: F401 (first: it tells what this interpreter lacks)

# isort: split
import argcomplete
from rich.console import Console
from rich.text import Text

from neox.checkpoint.layout import left_over_bytes
from neox.config.errors import ConfigError
from neox.config.explain import explain, search
from neox.config.gpus import this_machines_gpu
from neox.config.handover import FILE_NAME, argument, pack
from neox.config.load import did_you_mean
from neox.config.read import Resolved, read_config
from neox.config.reference import entries
from neox.config.resolve import cuda_devices
from neox.config.rules.layout import vocabulary_fits
from neox.config.sections import Config
from neox.config.sizes import true_vocab_size
from neox.config.surroundings import free_bytes, memory_bytes
from neox.launch.argv import LOCAL_ADDRESS, Node, launcher_argv, node_workers
from neox.launch.cluster import check_installed, run_on_hosts
from neox.launch.cores import usable_cores
from neox.launch.orders import Orders, orders_folder
from neox.launch.plan import Plan
from neox.launch.plan_page import print_plan
from neox.launch.port import held_port, port_of
from neox.launch.streams import outlive_readers
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
  python deepy.py train.py configs/20B.yml --explain min_lr         # which file and line set it
  python deepy.py --keys rotary                                    # the keys about something
  python deepy.py generate.py configs/125M.yml --set load=checkpoints text_gen_type=interactive
  python deepy.py serve.py configs/125M.yml --set load=checkpoints serve_port=8000     # OpenAI's API

exit codes:
  0 done; 1 the run failed; 2 the input or a machine is not right for it, no step was made;
  75 stopped by a signal after saving: start again to go on

every key, its type, default and meaning: configs/README.md
completion in the shell: activate-global-python-argcomplete, once
"""


def main(argv: Sequence[str]) -> int:
    """Run deepy.py with these arguments; returns the exit code."""
    parser = _parser()
    argcomplete.autocomplete(parser)
    arguments = parser.parse_intermixed_args(argv)
    if arguments.keys:
        return _print_keys(arguments.keys)
    if not arguments.config:
        parser.error("SCRIPT and CONFIG are needed, before --set, as in: python deepy.py train.py configs/125M.yml")
    looks = arguments.dry_run or bool(arguments.explain)
    try:
        if arguments.json and not arguments.dry_run:
            raise ConfigError("--json: prints the plan of a dry run; add --dry-run")
        script = _find_script(arguments.script)
        resolved = read_config(arguments.config, arguments.conf_dir, arguments.overrides, script.name, looks)
        if arguments.explain:
            print("\n".join(line for key in arguments.explain for line in explain(key, resolved)))
            return 0
        vocab_size, notes = vocabulary(resolved, arguments.dry_run)
    except ConfigError as error:
        return _refuse(error)
    with tempfile.TemporaryDirectory(prefix="neox-") as folder:
        try:
            start = _start(script, resolved, notes, Path(folder), arguments.dry_run)
            plan = _plan(script, resolved.config, vocab_size, start.commands, notes)
            if arguments.dry_run:
                _show(plan, arguments.json)
                return 0
            if script.name == "train.py" and plan.cannot_save:
                raise ConfigError(plan.cannot_save)
            print_plan(plan, Console(stderr=True), trains=script.name == "train.py", commands=False)
            outlive_readers()
            return start.run()
        except ConfigError as error:
            return _refuse(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python deepy.py",
        description="Start a run: read YAML files, check them, show the plan, start the processes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run = parser.add_argument_group("what to run")
    scripts = run.add_argument(
        "script", metavar="SCRIPT", nargs="?", help="what to run: train.py, generate.py, serve.py"
    )
    scripts.completer = argcomplete.ChoicesCompleter(_scripts())
    files = run.add_argument(
        "config", metavar="CONFIG", nargs="*", help="YAML files, read in order; .yml may be left out"
    )
    files.completer = argcomplete.FilesCompleter(["yml", "yaml", "json"])
    run.add_argument("-d", "--conf-dir", metavar="CONF_DIR", help="folder in which the files are")
    overrides = run.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="override keys of the files; dots lead into dicts: zero_optimization.stage=2",
    )
    overrides.completer = lambda **_: [f"{entry.key}=" for entry in entries()]
    look = parser.add_argument_group("look before you run")
    look.add_argument("--dry-run", action="store_true", help="print the plan and start nothing")
    look.add_argument("--json", action="store_true", help="print the plan of a dry run as one JSON object")
    ask = parser.add_argument_group("ask about keys")
    explained = ask.add_argument(
        "--explain",
        metavar="KEY",
        nargs="+",
        action="extend",
        help="print the value of keys in this run, the file and line that set it, and what it means; starts nothing",
    )
    explained.completer = lambda **_: [entry.key for entry in entries()]
    ask.add_argument("--keys", metavar="WORD", help="print the keys about a word, and what they mean")
    return parser


def _find_script(name: str) -> Path:
    """The script in the current folder, or beside this file; `.py` may be left out."""
    for folder in (Path(), ROOT):
        for candidate in (folder / name, folder / f"{name}.py"):
            if candidate.is_file():
                return candidate
    raise ConfigError(
        f"{name}: there is no such script{did_you_mean(name, _scripts())} (SCRIPT comes before the files)"
    )


def _scripts() -> list[str]:
    return [path.name for path in ROOT.glob("*.py") if path.name != Path(__file__).name]


def _print_keys(words: str) -> int:
    """The keys that words find, each with its meaning; exit code 2 where there are none."""
    found = search(words)
    if not found:
        print(f"--keys {words}: no key is about that; all of them: configs/README.md", file=sys.stderr)
        return WRONG_INPUT
    console = Console(highlight=False, soft_wrap=True)
    for key, meaning in found:
        console.print(Text.assemble((key, "bold"), f": {meaning}"))
    return 0


def vocabulary(resolved: Resolved, dry_run: bool) -> tuple[int, list[str]]:
    """The size of the vocabulary, and the notes to show; a dry run does without the tokenizer's files."""
    config, notes = resolved.config, list(resolved.notes)
    tokenizer = config.tokenizer
    absent = tokenizer.vocab_file is not None and not Path(tokenizer.vocab_file).exists()
    if dry_run and absent and tokenizer.tokenizer_type in USUAL_VOCABULARY:
        size = USUAL_VOCABULARY[tokenizer.tokenizer_type]
        notes.append(f"the vocabulary's file is not there: the plan counts with {size:,} tokens")
    else:
        size = read_vocab_size(tokenizer)
    if complaints := [f"{keys.split()[0]}: {sentence}" for keys, sentence in vocabulary_fits(config, size)]:
        raise ConfigError(complaints)
    return true_vocab_size(config.model, size), notes


@dataclass(frozen=True)
class Start:
    """How the processes start: the commands to show, and the function that runs them to the exit code."""

    commands: list[list[str]]
    run: Callable[[], int]
    port: socket.socket | None  # where they meet on this machine, held until the run ends


def _start(script: Path, resolved: Resolved, notes: list[str], folder: Path, dry_run: bool) -> Start:
    """The processes of a run on this machine, or the launcher's command for many; a busy port is exchanged for a free one, unless
    nothing will start."""
    config, launch = resolved.config, resolved.config.launch
    port = launch.master_port
    # a port of another machine, or one of a plan, is not looked for here
    holder = None if port and (dry_run or launch.launcher == "torchrun") else held_port(port)
    free = port if holder is None else port_of(holder)
    if port not in (None, free):
        notes.append(f"master_port {port} is taken: the processes meet at {free}")
    if launch.launcher != "local":
        folder = orders_folder(Path.cwd())
    packed = pack(config)
    argv = [str(script), "--config", argument(packed, folder)]
    if launch.launcher != "local":
        orders = Orders(folder / "orders")
        command = launcher_argv(
            launch, resolved.hosts, argv, root=str(ROOT), folder=str(Path.cwd()), orders=str(orders.path), port=free
        )
        if not dry_run:
            check_installed(command[0])
        if launch.launcher == "torchrun":  # which counts the restarts itself
            # killed, its agents elsewhere wait for another in its place; one that ends in order closes the meeting for all
            run = partial(run_on_hosts, command, orders, packed, death_signal=signal.SIGKILL)
            return Start([command] * launch.num_nodes, run, holder)
        run = partial(run_on_hosts, command, orders, packed, launch.max_restarts, hosts=resolved.hosts)
        return Start([command], run, holder)
    (folder / FILE_NAME).write_text(packed)
    processes = config.parallel.world_size
    address = launch.master_addr or LOCAL_ADDRESS
    node = Node(0, tuple(range(processes)), processes, address, free, launch.network_interface)
    workers = node_workers(node, argv, root=str(ROOT), environ=os.environ, cores=usable_cores(), devices=cuda_devices())
    commands = [worker.command() for worker in workers]
    return Start(commands, partial(supervise, workers, max_restarts=launch.max_restarts), holder)


def _plan(script: Path, config: Config, vocab_size: int, commands: list[list[str]], notes: list[str]) -> Plan:
    """The plan, with what this machine tells of GPUs and of the disk."""
    devices = cuda_devices()
    gpu = config.launch.gpu or (this_machines_gpu() if devices else None)
    on_gpu = gpu is not None or devices > 0 or config.launch.launcher != "local"
    save = config.checkpoint.save
    return Plan(
        script=str(script),
        config=config,
        vocab_size=vocab_size,
        gpu=gpu,
        on_gpu=on_gpu,
        free_disk_bytes=free_bytes(save) + left_over_bytes(Path(save)) if save else None,
        commands=commands,
        given_notes=notes,
        machine_bytes=None if on_gpu else memory_bytes(),
    )


def _show(plan: Plan, as_json: bool) -> None:
    if as_json:
        print(json.dumps(plan.as_json()))
    else:
        print_plan(plan, Console(), trains=Path(plan.script).name == "train.py", commands=True)


def _refuse(error: ConfigError) -> int:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for complaint in error.complaints:
        text = Text(complaint)
        text.highlight_regex(r"^\S+:\d+:\d+(?=: )", "cyan")
        text.highlight_regex(r"(?:^|(?<=\d: ))[\w.]+(?=: )", "bold red")
        console.print(text)
    count = len(error.complaints)
    console.print(f"{count} mistake{'s' if count > 1 else ''}: nothing was started", markup=False)
    return WRONG_INPUT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
