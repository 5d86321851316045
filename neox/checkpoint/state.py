"""Take and restore the training state: weights, moments, counters and random states, of any layout.

Every rank calls `snapshot` and `restore`; `neox.checkpoint.saver` writes what the first one gives. Restoring fails on all ranks
together, so that nobody waits for a rank that has given up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from torch import nn

from neox.checkpoint import layout
from neox.checkpoint.fragments import (
    create_moments,
    fragments,
    moment_keys,
    optimizer_steps,
    set_optimizer_steps,
)
from neox.checkpoint.layout import CheckpointError
from neox.checkpoint.publish import Counters, Progress, read_progress
from neox.checkpoint.tensors import (
    WEIGHT,
    Piece,
    StateReader,
    Weight,
    check_names,
    check_shape,
    full_shape,
)
from neox.model.lora import is_adapter
from neox.model.moe import is_shared_out
from neox.parallel.agreement import together
from neox.parallel.topology import Topology

# numbers of DeepSpeed's two loss scalers that change during a run
LOSS_SCALE_FIELDS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


@dataclass(frozen=True)
class TrainingState:
    """The objects that hold the state of a run on this rank."""

    names: dict[nn.Parameter, str]  # global name of each parameter on this rank
    optimizer: object  # torch's or DeepSpeed's
    topology: Topology


@dataclass(frozen=True)
class Snapshot:
    """What one rank writes of the training state at one step, and the numbers that go with it."""

    progress: Progress
    file: str
    tensors: dict[str, torch.Tensor]
    weights: dict[str, Weight]  # the piece of each weight that the tensors are
    moments: list[str]
    counters: Counters
    layout: dict[str, int]  # of the run

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def copied(self, buffers: dict[str, torch.Tensor]) -> Snapshot:
        """The same in memory of the host that training does not touch. buffers: kept by the caller from copy to copy."""
        for name, tensor in self.tensors.items():
            if name not in buffers:
                buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            buffers[name].copy_(tensor, non_blocking=True)
        if torch.cuda.is_initialized():
            torch.cuda.current_stream().synchronize()
        return replace(self, tensors={name: buffers[name] for name in self.tensors})


def restore(state: TrainingState, folder: Path, weights_only: bool = False) -> Progress:
    """Load one verified checkpoint folder into the state, in place.

    With `weights_only` the optimizer's moments, the counters and the random states stay as they are, and so do adapters (LoRA)
    where the checkpoint has none at all.
    Raises CheckpointError on every rank where one of them cannot read it or it does not fit the model.
    """
    return together(lambda: _read_rank(state, folder, weights_only), CheckpointError)[state.topology.rank]


@torch.no_grad()
def snapshot(state: TrainingState, progress: Progress) -> Snapshot:
    """This rank's share, as views: what no other rank holds, and its random state."""
    topology = state.topology
    file = f"state_{topology.rank:05d}.safetensors"
    tensors = {f"random/{name}": value for name, value in _random_state(topology).items()}
    weights = {}
    shared = [0] * topology.data_size  # elements that each replica has been given of what all of them hold
    for fragment in fragments(state.names, state.optimizer, moment_keys(state.optimizer)):
        tensor_size = topology.tensor_size if _is_split(fragment.parameter) else 1
        shape = full_shape(fragment.parameter, tensor_size)
        # the tensor group's first rank writes what all of them hold, and so do the replicas in turns
        if is_shared_out(fragment.parameter):
            # of the replicas that hold an expert the first one writes all of it, or each its partition
            if topology.data_rank >= topology.expert_size and not _is_partitioned(state.optimizer):
                continue
        elif not (_is_partitioned(state.optimizer) and fragment.parameter.requires_grad):
            turn = shared.index(min(shared))
            shared[turn] += fragment.tensors[WEIGHT].numel()
            if turn != topology.data_rank:
                continue
        if tensor_size == 1 and topology.tensor_rank > 0:
            continue
        if topology.pipe_rank > 0 and fragment.name.startswith("layers.0."):
            continue  # the last stage's copy of the tied embedding
        piece = Piece(
            file,
            topology.tensor_rank if tensor_size > 1 else 0,
            tensor_size,
            fragment.start,
            fragment.tensors[WEIGHT].numel(),
        )
        partition_dim = fragment.parameter.partition_dim if _is_split(fragment.parameter) else None
        weights[fragment.name] = Weight(shape, partition_dim, (piece,))
        tensors.update({f"{key}/{fragment.name}": value for key, value in fragment.tensors.items()})
    return Snapshot(
        progress, file, tensors, weights, moment_keys(state.optimizer), _counters(state.optimizer), _describe(topology)
    )


@torch.no_grad()
def _read_rank(state: TrainingState, folder: Path, weights_only: bool) -> Progress:
    reader = StateReader(folder)
    topology, optimizer = state.topology, state.optimizer
    fresh = _fresh_adapters(state, reader) if weights_only else set()
    check_names(set(state.names.values()) - fresh, reader, topology.pipe_size == topology.expert_size == 1)
    stage3 = isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3)
    if stage3:
        optimizer.checkpoint_event_prologue()  # gathered weights would hide what is loaded into the partitions
    moments = [] if weights_only else reader.moments
    create_moments(optimizer, moments)
    for fragment in fragments(state.names, optimizer, moments):
        if fragment.name in fresh:
            continue
        tensor_size = topology.tensor_size if _is_split(fragment.parameter) else 1
        check_shape(fragment.name, full_shape(fragment.parameter, tensor_size), reader)
        for key, view in fragment.tensors.items():
            reader.read_range(view, fragment.name, key, topology.tensor_rank, tensor_size, fragment.start)
        if stage3:
            fragment.parameter.ds_tensor.data[: view.numel()].copy_(fragment.tensors[WEIGHT])
    _update_weights(optimizer)
    if stage3:
        optimizer.checkpoint_event_epilogue()
    if weights_only:
        return Progress()
    progress, counters = read_progress(folder)
    _set_counters(optimizer, counters)
    if layout.read_manifest(folder)["layout"] == _describe(topology):
        _set_random_state(reader, topology)
    return progress


def _fresh_adapters(state: TrainingState, reader: StateReader) -> set[str]:
    """Names of the adapters that begin on a checkpoint without any."""
    return set() if any(map(is_adapter, reader.weights)) else set(filter(is_adapter, state.names.values()))


def _update_weights(optimizer) -> None:
    """Bring the weights that the model computes with in line with the restored masters."""
    if isinstance(optimizer, FP16_UnfusedOptimizer):
        for weights, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups):
            for weight, master in zip(weights, masters):
                weight.data.copy_(master.data)
    elif _is_partitioned(optimizer) and not isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):
        optimizer.update_lp_params()


def _is_partitioned(optimizer) -> bool:
    return not isinstance(optimizer, (torch.optim.Optimizer, FP16_UnfusedOptimizer))


def _is_split(parameter: nn.Parameter) -> bool:
    return bool(getattr(parameter, "tensor_model_parallel", False))


def _describe(topology: Topology) -> dict[str, int]:
    return {"tensor": topology.tensor_size, "pipeline": topology.pipe_size, "data": topology.data_size}


def _counters(optimizer) -> Counters:
    scaler = _loss_scaler(optimizer)
    scale = {name: getattr(scaler, name) for name in LOSS_SCALE_FIELDS if hasattr(scaler, name)}
    return Counters(optimizer_steps(optimizer), scale)


def _set_counters(optimizer, counters: Counters) -> None:
    set_optimizer_steps(optimizer, counters.optimizer_steps)
    scaler = _loss_scaler(optimizer)
    for name, value in counters.loss_scaler.items():
        if hasattr(scaler, name):
            setattr(scaler, name, value)


def _loss_scaler(optimizer):
    """DeepSpeed's loss scaler, or None where the loss is not scaled."""
    return getattr(optimizer, "loss_scale_config", None) or getattr(optimizer, "loss_scaler", None)


def _random_state(topology: Topology) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if topology.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(topology.device)
    return states


def _set_random_state(reader: StateReader, topology: Topology) -> None:
    file = f"state_{topology.rank:05d}.safetensors"
    torch.set_rng_state(reader.tensor(file, "random/cpu"))
    if topology.device.type == "cuda":
        torch.cuda.set_rng_state(reader.tensor(file, "random/cuda"), topology.device)
