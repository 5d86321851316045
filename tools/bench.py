"""Measure the product: its speed against its peers, and its memory against the plan, in one run on one machine.

    python tools/bench.py train                                  # the quickstart's model and 125M, fp32 and bf16
    python tools/bench.py train --shape 125M --precision bf16 --steps 20 --json
    python tools/bench.py memory                                 # what the plan says of memory against real runs
    python tools/bench.py launch                                 # from Enter to the first step
    python tools/bench.py checkpoint --shape 125M --steps 20     # what saving costs the loop, and against the disk's speed
    python tools/bench.py generate                               # tokens a second, against transformers and the memory
    python tools/bench.py scale                                  # 1, 2 and 4 processes: efficiency, bubble, the plan's times
    python tools/bench.py data --workers 1 2 4                   # preprocessing, 100 MB of the sample corpus

Speed on a shared machine swings: the contestants take turns, medians are compared, and CPU-seconds stand beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

# `python tools/bench.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import neox  # noqa: F401 (first: it tells what this interpreter lacks)

# isort: split
from rich.console import Console

from neox.config.errors import ConfigError
from neox.config.resolve import cuda_devices
from neox.config.sections import TokenizerConfig
from neox.launch.cores import usable_cores
from tools.benchmarks.checkpoint import CheckpointBench, bench_checkpoint, print_checkpoint
from tools.benchmarks.data import DataBench, bench_data, print_data_result
from tools.benchmarks.generate import GenerateBench, bench_generate, print_generate
from tools.benchmarks.launch import LaunchBench, bench_launch, print_launch
from tools.benchmarks.memory import CASES, bench_memory, print_memory
from tools.benchmarks.scale import PROCESSES, ScaleBench, bench_scale, print_scale
from tools.benchmarks.shapes import PRECISIONS, SHAPES
from tools.benchmarks.train import TrainBench, bench_train, print_result

# by device: what is measured where nothing is said
DEFAULT_SHAPES = {"cpu": ("quickstart", "125M"), "cuda": ("125M", "350M", "1.3B", "2.7B")}
DEFAULT_PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("bf16",)}
ROUNDS = 8
TABLE_WIDTH = 130
WRONG_INPUT = 2


def main(arguments: list[str]) -> int:
    """Run the tool; the exit code."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=options.json, soft_wrap=True)
    if not console.is_terminal:  # a file has no width
        console.width = TABLE_WIDTH
    try:
        if getattr(options, "device", "cpu") == "cuda" and not cuda_devices():
            raise ConfigError("--device cuda: this machine shows no CUDA device")
        result = options.run(options, console)
    except ConfigError as error:
        console.print(str(error), style="red", markup=False)
        return WRONG_INPUT
    if options.json:
        print(json.dumps(result))
    else:
        options.show(result, console)
    return 0


def _memory(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    return bench_memory(options.runs, options.device, console)


def _train(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    bench = TrainBench(
        device=options.device,
        shapes=tuple(options.shape or DEFAULT_SHAPES[options.device]),
        precisions=tuple(options.precision or DEFAULT_PRECISIONS[options.device]),
        compiled=(options.device == "cuda",) if options.compiled is None else (False, True)[: 1 + options.compiled],
        local=options.device == "cuda" if options.local is None else options.local,
        rounds=ROUNDS if options.steps is None else min(ROUNDS, options.steps),
        steps_per_turn=None if options.steps is None else -(-options.steps // ROUNDS),
        seq_length=options.seq,
        micro_batch_size=options.micro_batch,
    )
    return bench_train(bench, console)


def _launch(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    return bench_launch(LaunchBench(processes=tuple(options.processes), rounds=options.rounds), console)


def _checkpoint(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    bench = CheckpointBench(
        device=options.device,
        shape=options.shape or DEFAULT_SHAPES[options.device][0],
        precision=options.precision or DEFAULT_PRECISIONS[options.device][0],
        steps=options.steps,
        saves=options.saves,
        folder=options.folder,
    )
    return bench_checkpoint(bench, console)


def _generate(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    bench = GenerateBench(
        device=options.device,
        shape=options.shape,
        precisions=tuple(options.precision or DEFAULT_PRECISIONS[options.device]),
        batches=tuple(options.batch),
        prompt_tokens=options.prompt,
        new_tokens=options.new,
        rounds=options.rounds,
    )
    return bench_generate(bench, console)


def _scale(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    return bench_scale(ScaleBench(tuple(options.processes), options.steps, options.rounds), console)


def _data(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    bench = DataBench(
        inputs=tuple(options.input),
        tokenizer=TokenizerConfig(
            tokenizer_type=options.tokenizer_type, vocab_file=options.vocab_file, merge_file=options.merge_file
        ),
        megabytes=options.megabytes,
        workers=tuple(options.workers),
        rounds=options.rounds,
    )
    return bench_data(bench, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    train = commands.add_parser("train", help="training steps against a plain PyTorch loop", allow_abbrev=False)
    memory = commands.add_parser("memory", help="the plan's memory against real runs", allow_abbrev=False)
    checkpoint = commands.add_parser("checkpoint", help="saves against the disk's speed", allow_abbrev=False)
    generate = commands.add_parser("generate", help="generation against transformers'", allow_abbrev=False)
    for command in (train, memory, checkpoint, generate):
        command.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
        command.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda_devices() else "cpu")
    memory.set_defaults(run=_memory, show=print_memory)
    memory.add_argument(
        "--run", dest="runs", choices=CASES, nargs="+", default=list(CASES), help="runs to compare; all by default"
    )
    checkpoint.set_defaults(run=_checkpoint, show=print_checkpoint)
    checkpoint.add_argument("--shape", choices=SHAPES, help="model to save")
    checkpoint.add_argument("--precision", choices=PRECISIONS, help="number format of the model; what is saved is fp32")
    checkpoint.add_argument("--steps", type=_positive, default=20, metavar="N", help="steps between two saves (20)")
    checkpoint.add_argument("--saves", type=_positive, default=5, metavar="N", help="saves of each kind (5)")
    checkpoint.add_argument(
        "--folder", metavar="FOLDER", help="where to save; the folder of temporary files by default"
    )
    generate.set_defaults(run=_generate, show=print_generate)
    generate.add_argument("--shape", choices=SHAPES, default="125M", help="model (125M)")
    generate.add_argument("--precision", choices=PRECISIONS, nargs="+", help="number formats to measure")
    generate.add_argument(
        "--batch", type=_positive, nargs="+", default=[1, 8], metavar="N", help="prompts at once (1 8)"
    )
    generate.add_argument("--prompt", type=_positive, default=256, metavar="N", help="tokens of each prompt (256)")
    generate.add_argument("--new", type=_at_least_two, default=64, metavar="N", help="tokens to generate (64)")
    generate.add_argument("--rounds", type=_positive, default=3, metavar="N", help="turns of each contestant (3)")
    train.add_argument("--shape", choices=SHAPES, nargs="+", help="models to measure")
    train.add_argument("--precision", choices=PRECISIONS, nargs="+", help="number formats to measure")
    train.add_argument("--steps", type=_positive, help="timed steps of each contestant, in up to 8 turns")
    train.add_argument("--seq", type=_positive, help="tokens in a sample; the config's by default")
    train.add_argument("--micro-batch", type=_positive, help="samples in a step; by shape and device by default")
    train.add_argument(
        "--compiled",
        action=argparse.BooleanOptionalAction,
        help="measure both under torch.compile too (on a GPU they are only measured so by default)",
    )
    train.add_argument(
        "--local",
        action=argparse.BooleanOptionalAction,
        help="measure the product with windows in every other layer too (by default on a GPU)",
    )
    train.set_defaults(run=_train, show=print_result)

    launch = commands.add_parser("launch", help="from Enter to the first step, on the CPU", allow_abbrev=False)
    launch.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    launch.add_argument("--processes", type=_positive, nargs="+", default=[1, 4], metavar="N", help="numbers to try")
    launch.add_argument("--rounds", type=_positive, default=5, metavar="N", help="turns of each contestant (5)")
    launch.set_defaults(run=_launch, show=print_launch)

    scale = commands.add_parser("scale", help="several processes against one, on the CPU", allow_abbrev=False)
    scale.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    scale.add_argument(
        "--processes", type=int, choices=PROCESSES, nargs="+", default=list(PROCESSES), help="numbers to try, beside 1"
    )
    scale.add_argument("--steps", type=_positive, default=8, metavar="N", help="timed steps of each run (8)")
    scale.add_argument("--rounds", type=_positive, default=2, metavar="N", help="runs of each layout (2)")
    scale.set_defaults(run=_scale, show=print_scale)

    data = commands.add_parser("data", help="preprocessing against the peers' loops", allow_abbrev=False)
    data.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    data.add_argument("--input", nargs="+", default=["data/shakespeare.jsonl"], metavar="PATH", help="corpora")
    data.add_argument("--tokenizer-type", choices=("GPT2BPETokenizer", "HFTokenizer"), default="GPT2BPETokenizer")
    data.add_argument(
        "--vocab-file", default="data/gpt2-vocab.json", metavar="FILE", help="vocab.json or tokenizer.json"
    )
    data.add_argument("--merge-file", default="data/gpt2-merges.txt", metavar="FILE", help="merges of GPT2BPETokenizer")
    data.add_argument("--megabytes", type=float, default=100.0, metavar="MB", help="text to encode (100)")
    data.add_argument(
        "--workers", type=_positive, nargs="+", default=[1, usable_cores()], metavar="N", help="numbers to try"
    )
    data.add_argument("--rounds", type=_positive, default=3, metavar="N", help="turns of each contestant (3)")
    data.set_defaults(run=_data, show=print_data_result)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _at_least_two(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError(f"{text} is not at least 2: the first token comes with the prompt")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
