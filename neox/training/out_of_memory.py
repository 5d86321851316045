"""What to say when memory runs out: what the plan expected, and what takes less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from neox.config.memory import memory
from neox.config.sections import Config
from neox.config.sizes import true_vocab_size
from neox.launch.plan import smaller
from neox.tokenizer.vocabulary import read_vocab_size


class OutOfMemory(RuntimeError):
    """Memory ran out; says what the plan of the run has, and what takes less."""


@contextmanager
def explained(config: Config) -> Iterator[None]:
    """Turn the errors of torch's allocators into OutOfMemory. torch has no class of its own for the memory of the host."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        on_gpu_or_python = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not (on_gpu_or_python or "can't allocate memory" in str(error)):
            raise
        raise OutOfMemory(_sentence(config, error)) from error


def _sentence(config: Config, error: BaseException) -> str:
    vocab_size = true_vocab_size(config.model, read_vocab_size(config.tokenizer))
    changes = [f"{words} ({memory(changed, vocab_size).total / 2**30:.2f} GiB)" for words, changed in smaller(config)]
    changes.append("a larger model_parallel_size or pipe_parallel_size")
    said = str(error).strip().splitlines()
    return (
        f"out of memory ({said[0] if said else type(error).__name__}); the plan of this run has "
        f"{memory(config, vocab_size).total / 2**30:.2f} GiB for each process; less: {'; or '.join(changes)}"
    )
