"""A process of a run of `bench scale`: steps on random tokens, and what each process spends on them.

Rank 0 writes the figures of all processes to --result as a JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

import torch
from torch import distributed

from neox.config.handover import config_from_argv
from neox.config.step_time import all_reduce_bytes
from neox.parallel import topology as parallel
from neox.parallel.agreement import gather_objects
from neox.parallel.seeding import seed_everything
from neox.tokenizer.vocabulary import CHARACTER_VOCAB_SIZE
from neox.training.engine import Engine
from tools.benchmarks.batches import engine_batches

WARMUP_STEPS = 2
LEARNING_RATE = 1e-4
SUMMED_BYTES, SUMS = 4 << 20, 10  # to find the rate of the links


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    options, _ = parser.parse_known_args()
    config = config_from_argv(sys.argv)
    topology = parallel.initialize(config.parallel, config.run.distributed_backend)
    seed_everything(config.run.seed, topology)
    engine = Engine(config, topology, CHARACTER_VOCAB_SIZE)
    samples = engine_batches(config, CHARACTER_VOCAB_SIZE)
    seconds, cpu_seconds = [], []
    for _ in range(WARMUP_STEPS + options.steps):
        distributed.barrier()
        began, cpu_began = time.perf_counter(), time.process_time()
        float(engine.train_step(samples, LEARNING_RATE).loss)
        cpu_seconds.append(time.process_time() - cpu_began)
        distributed.barrier()  # a step is over when it is over for the slowest
        seconds.append(time.perf_counter() - began)
    figures = {
        "cpu_seconds": gather_objects(median(cpu_seconds[WARMUP_STEPS:])),  # of each process
        "seconds": median(seconds[WARMUP_STEPS:]),
        "link_gb_per_second": _link_gb_per_second(topology.world_size),
    }
    if topology.is_main:
        options.result.write_text(json.dumps(figures))
    parallel.shutdown()


def _link_gb_per_second(processes: int) -> float | None:
    """What a process sends to the others while all sum a tensor; None where it is alone."""
    if processes == 1:
        return None
    tensor, times = torch.ones(SUMMED_BYTES // 4), []
    for _ in range(SUMS):
        distributed.barrier()
        began = time.perf_counter()
        distributed.all_reduce(tensor)
        times.append(time.perf_counter() - began)
    return all_reduce_bytes(SUMMED_BYTES, processes) / median(times) / 1e9


if __name__ == "__main__":
    main()
