"""A contestant: our own engine, as train.py runs it. Started by tools/benchmarks/contest.py."""

from __future__ import annotations

from collections.abc import Callable

import torch

from neox.config.handover import unpack
from neox.data.batches import ahead
from neox.parallel import topology as parallel
from neox.parallel.seeding import seed_everything
from neox.training.engine import Engine
from tools.benchmarks.batches import engine_batches
from tools.benchmarks.serve import Turn, contestant_parser, serve, timed

LEARNING_RATE = 1e-4


def main() -> None:
    """Serve the engine's training steps."""
    arguments = contestant_parser().parse_args()
    config = unpack(arguments.config)
    device = torch.device("cpu" if config.run.distributed_backend == "gloo" else "cuda")

    def build() -> Callable[[int], Turn]:
        topology = parallel.initialize(config.parallel, config.run.distributed_backend)
        seed_everything(config.run.seed, topology)
        engine = Engine(config, topology, arguments.vocab_size)
        samples = ahead(engine_batches(config, arguments.vocab_size), topology.device)
        return timed(lambda: engine.train_step(samples, LEARNING_RATE).loss)

    serve(arguments.answers, build, device)
    parallel.shutdown()


if __name__ == "__main__":
    main()
