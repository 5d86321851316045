"""The one door to megatron-core: what we use of it, imported quickly and quietly, and made to run without CUDA.

Knows nothing about our configuration or model. Import this before anything of megatron-core.
"""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


def _without_its_init(name: str) -> None:
    """Make a package of megatron-core known without running its `__init__`, so that only what is asked for is imported.

    Those files import the whole library, and with it torch's compiler: some 4 s in every process.
    """
    if name in sys.modules:
        return
    roots = importlib.util.find_spec("megatron").submodule_search_locations
    package = types.ModuleType(name)
    package.__path__ = [str(Path(root, *name.split(".")[1:])) for root in roots]
    sys.modules[name] = package
    parent, _, own_name = name.rpartition(".")
    setattr(importlib.import_module(parent), own_name, package)


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Make the import of a module fail: megatron-core gets on without distributed tensors, and sympy stays unread.

    That saves a third of the time that a process needs for its imports.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None
    try:
        yield
    finally:
        del sys.modules[name]


for _name in ("megatron.core", "megatron.core.tensor_parallel", "megatron.core.dist_checkpointing"):
    _without_its_init(_name)

with warnings.catch_warnings(), _absent("torch.distributed._tensor"):
    # its modules warn about each optional accelerator library that is absent, on every rank
    warnings.simplefilter("ignore")
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.mappings import (
        all_to_all,
        copy_to_tensor_model_parallel_region,
        gather_from_tensor_model_parallel_region,
        reduce_from_tensor_model_parallel_region,
        reduce_scatter_to_sequence_parallel_region,
    )

__all__ = [
    "all_to_all",
    "copy_to_tensor_model_parallel_region",
    "gather_from_tensor_model_parallel_region",
    "parallel_state",
    "reduce_from_tensor_model_parallel_region",
    "reduce_scatter_to_sequence_parallel_region",
]


def _cpu_device() -> torch.device:
    return torch.device("cpu")


if not torch.cuda.is_available():
    # megatron-core's collectives ask torch.cuda for the device of their buffers, also with gloo: sequence
    # parallelism would fail there without a GPU
    torch.cuda.current_device = _cpu_device
