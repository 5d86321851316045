"""The frozen weights that DPO compares with: those of `load`, which the run begins with, read anew at every start."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from neox.checkpoint.layout import CheckpointError, read_manifest
from neox.checkpoint.source import Source
from neox.checkpoint.tensors import StateReader
from neox.checkpoint.weights import load_weights
from neox.config.deepspeed import deepspeed_config
from neox.config.sections import Config
from neox.config.shapes import has_reference
from neox.data.fingerprint import SHOWN_DIGITS, Fact
from neox.model.dtypes import DTYPES
from neox.model.gpt import GPT
from neox.model.lora import is_adapter
from neox.parallel.topology import Topology
from neox.training.stage3 import gathering, sharing_out


@dataclass(frozen=True)
class Reference:
    """What the run compares with."""

    model: GPT | None  # None where adapters are trained: without them the model is its own reference
    fact: Fact  # which weights they are, so that a run that goes on has the same


def read_reference(config: Config, vocab_size: int, source: Source | None, topology: Topology) -> Reference | None:
    """The reference of a run, None where it has none. Every rank calls this; all of them raise CheckpointError or ConfigError
    together.

    source: of `load`, which the rules ask for where there is a reference.
    """
    if not has_reference(config.model):
        return None
    folder, model = source.checkpoint, None
    if config.model.lora_rank is None:
        model = _load(config, vocab_size, folder, topology)
    elif any(map(is_adapter, StateReader(folder).weights)):
        raise CheckpointError(
            f"load: {source.name} has adapters, and dpo with lora_rank compares with the weights without any: export and import "
            "it (tools/convert_hf.py) to merge them"
        )
    files = json.dumps(read_manifest(folder)["files"], sort_keys=True)
    digest = hashlib.sha256(files.encode()).hexdigest()
    return Reference(model, Fact("reference (load)", f"SHA-256 of its files {digest[:SHOWN_DIGITS]}", folder.name))


def _load(config: Config, vocab_size: int, folder: Path, topology: Topology) -> GPT:
    """The frozen model, shared out over the replicas where the trained one is."""
    settings, dtype = deepspeed_config(config), DTYPES[config.precision.precision]
    shared = settings["zero_optimization"]["stage"] == 3
    model = GPT(
        config.model,
        vocab_size=vocab_size,
        topology=topology,
        sequence_parallel=config.parallel.sequence_parallel,
        finish=sharing_out(settings=settings, dtype=dtype, topology=topology) if shared else None,
    )
    if not shared:
        model.to(topology.device, dtype)
    load_weights(model.eval().requires_grad_(False), folder, topology)
    if shared:
        gathering(model, settings=settings, topology=topology)
    return model
