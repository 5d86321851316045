"""The floor of the benchmark: the model's matrix products alone, forward and backward, in the precision of the run.

Its rate is what the machine gives to matrix products of these shapes; a training step's share of it is comparable between
machines, other than a share of a data sheet's peak. Started by tools/benchmarks/contest.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from neox.config.handover import unpack
from neox.config.sections import ModelConfig
from tools.benchmarks.serve import Turn, contestant_parser, serve
from tools.benchmarks.shapes import layer_products

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def products_turn(
    model: ModelConfig, vocab_size: int, tokens: int, dtype: torch.dtype, device: torch.device
) -> Callable[[int], Turn]:
    """A turn: each shape is timed once a step, and counted as often as the model has it."""
    layers = []
    for inputs, outputs, count in layer_products(model, vocab_size):
        shapes = ((tokens, inputs), (outputs, inputs), (tokens, outputs))
        operands = [torch.randn(shape, device=device).to(dtype) for shape in shapes]
        # results have their place beforehand: the rate is that of the products, not of the allocator
        layers.append((*operands, [torch.empty_like(operand) for operand in operands], count))

    def turn(steps: int) -> Turn:
        seconds = cpu_seconds = 0.0
        for _ in range(steps):
            for hidden, weight, gradient, results, count in layers:
                start, cpu_start = time.perf_counter(), time.process_time()
                # what a linear layer does in a step: the gradients of its input and weight, and its output
                torch.mm(gradient, weight, out=results[0])
                torch.mm(gradient.t(), hidden, out=results[1])
                torch.mm(hidden, weight.t(), out=results[2])
                if device.type == "cuda":
                    torch.cuda.synchronize()
                seconds += count * (time.perf_counter() - start)
                cpu_seconds += count * (time.process_time() - cpu_start)
        return {"seconds": seconds / steps, "cpu_seconds": cpu_seconds / steps, "loss": 0.0}

    return turn


def main() -> None:
    """Serve the matrix products."""
    arguments = contestant_parser().parse_args()
    config = unpack(arguments.config)
    device = torch.device("cpu" if config.run.distributed_backend == "gloo" else "cuda")
    tokens = config.batch.train_batch_size * config.model.seq_length
    dtype = PRECISIONS[config.precision.precision]
    serve(arguments.answers, lambda: products_turn(config.model, arguments.vocab_size, tokens, dtype, device), device)


if __name__ == "__main__":
    main()
