"""The run of `bench checkpoint`: steps without a save, saves while training waits and behind its back, and plain writes, in turns.

Prints the medians as a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from neox.checkpoint import layout
from neox.checkpoint.publish import Progress
from neox.checkpoint.saver import Saver
from neox.config.sections import CheckpointConfig
from neox.data.files import flush_to_disk
from neox.parallel import topology as parallel
from neox.parallel.seeding import seed_everything
from neox.training.engine import Engine
from tools.benchmarks.batches import engine_batches
from tools.benchmarks.shapes import SHAPES, bench_config

WARMUP_STEPS = 2
LEARNING_RATE = 1e-4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("device", "shape", "precision", "folder"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("steps", "saves"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    config = bench_config(options.shape, precision=options.precision, device=options.device)
    topology = parallel.initialize(config.parallel, config.run.distributed_backend)
    seed_everything(config.run.seed, topology)
    vocab_size = SHAPES[options.shape].vocab_size
    engine = Engine(config, topology, vocab_size)
    samples = engine_batches(config, vocab_size)

    def train(steps: int = options.steps) -> None:
        for _ in range(steps):
            result = engine.train_step(samples, LEARNING_RATE)
        float(result.loss)  # waits for the device

    folder = Path(options.folder)
    savers = {
        asynchronous: Saver(
            engine.state,
            CheckpointConfig(
                save=str(folder / str(asynchronous)), checkpoint_asynchronous=asynchronous, keep_last_n_checkpoints=1
            ),
            "",
            on_failure=lambda: None,
            uploader=None,
        )
        for asynchronous in (False, True)
    }
    train(WARMUP_STEPS)
    savers[True].save(Progress(iteration=0))  # the buffers of the copy are made at the first save, and kept
    savers[True].wait()
    times: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], None]) -> float:
        started = time.perf_counter()
        work()
        times.setdefault(name, []).append(time.perf_counter() - started)
        return times[name][-1]

    for step in range(1, options.saves + 1):
        timed("interval_seconds", train)
        timed("save_seconds", lambda: savers[False].save(Progress(iteration=step)))  # noqa: B023 (called here)
        files = layout.read_manifest(folder / "False" / layout.step_name(step))["files"]
        checkpoint_bytes = sum(size_bytes for size_bytes, _ in files.values())
        data = memoryview(bytearray(os.urandom(1 << 20)) * (checkpoint_bytes // (1 << 20) + 1))[:checkpoint_bytes]
        timed("plain_write_seconds", lambda: plain_write(folder / "plain", data))  # noqa: B023
        copy = timed("copy_seconds", lambda: savers[True].save(Progress(iteration=step)))  # noqa: B023
        times.setdefault("asynchronous_interval_seconds", []).append(copy + timed("steps_while_saving_seconds", train))
        timed("left_seconds", savers[True].wait)
    parallel.shutdown()
    print(json.dumps({"checkpoint_bytes": checkpoint_bytes} | {name: median(all_) for name, all_ in times.items()}))


def plain_write(path: Path, data: memoryview) -> None:
    """Write bytes that are in memory already, and wait for the disk."""
    with path.open("wb") as file:
        file.write(data)
        flush_to_disk(file)
    path.unlink()


if __name__ == "__main__":
    main()
