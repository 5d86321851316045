"""Who am I among the processes: coordinates, groups, device. The only place that starts and stops torch.distributed.

Knows nothing about models or data.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import torch
import torch.distributed as dist

from neox.config.sections import ParallelConfig
from neox.parallel.meeting import meet
from neox.parallel.megatron import parallel_state

START_TIMEOUT_SECONDS = 600.0
# what torch says, on every rank, of calls that DeepSpeed and megatron-core make
EXPECTED_WARNINGS = (
    r"`torch\.distributed\.\w+` is deprecated",
    r"c10d::broadcast_: an autograd kernel was not registered",
)


@dataclass(frozen=True)
class Topology:
    """Where this process stands in the (pipe, data, tensor) grid; ranks count tensor fastest, pipe slowest."""

    rank: int
    local_rank: int
    world_size: int
    tensor_rank: int
    tensor_size: int
    pipe_rank: int
    pipe_size: int
    data_rank: int
    data_size: int
    device: torch.device
    backend: str
    expert_size: int = 1  # consecutive replicas that share the experts of each layer

    def __str__(self) -> str:
        return f"TP({self.tensor_size})-PP({self.pipe_size})-DP({self.data_size})-Rank({self.rank})"

    @property
    def is_main(self) -> bool:
        """True on the one process that prints, reports and publishes."""
        return self.rank == 0

    @property
    def is_first_stage(self) -> bool:
        """True where the embedding lives."""
        return self.pipe_rank == 0

    @property
    def is_last_stage(self) -> bool:
        """True where the head and the loss live."""
        return self.pipe_rank == self.pipe_size - 1

    @property
    def expert_rank(self) -> int:
        """Place of this replica among those that share the experts."""
        return self.data_rank % self.expert_size

    @property
    def tensor_group(self) -> dist.ProcessGroup:
        """Processes that share each layer with this one."""
        return parallel_state.get_tensor_model_parallel_group()

    @property
    def data_group(self) -> dist.ProcessGroup:
        """Processes that hold the same weights and see other samples."""
        return parallel_state.get_data_parallel_group()

    @property
    def expert_group(self) -> dist.ProcessGroup:
        """Processes that share the experts of each layer, and send each other tokens."""
        return parallel_state.get_expert_model_parallel_group()

    @property
    def expert_data_group(self) -> dist.ProcessGroup:
        """Processes that hold the same experts."""
        return parallel_state.get_expert_data_parallel_group()

    @property
    def pipe_group(self) -> dist.ProcessGroup:
        """Processes that hold the stages of this replica, in order."""
        return parallel_state.get_pipeline_model_parallel_group()

    @property
    def model_group(self) -> dist.ProcessGroup:
        """Processes that hold one replica together: tensor and pipe."""
        return parallel_state.get_model_parallel_group()


def alone() -> Topology:
    """The topology of a tool that joins nobody: one process on the CPU, without groups."""
    one = {"world_size": 1, "tensor_size": 1, "pipe_size": 1, "data_size": 1}
    first = {"rank": 0, "local_rank": 0, "tensor_rank": 0, "pipe_rank": 0, "data_rank": 0}
    return Topology(**first, **one, device=torch.device("cpu"), backend="gloo")


def coordinates(rank: int, tensor_size: int, data_size: int) -> tuple[int, int, int]:
    """(pipe, data, tensor) coordinates of a rank."""
    return rank // (tensor_size * data_size), rank // tensor_size % data_size, rank % tensor_size


def initialize(
    parallel: ParallelConfig, backend: str | None = None, start_timeout_seconds: float = START_TIMEOUT_SECONDS
) -> Topology:
    """Join the other processes and make the groups; every rank calls this, once.

    Reads RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; without them this is a run of one process. backend
    None means nccl with CUDA and gloo without. Raises MissingRanks where some have not come after `start_timeout_seconds`.
    """
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    use_cuda = torch.cuda.is_available() and backend != "gloo"
    backend = backend or ("nccl" if use_cuda else "gloo")
    if "RANK" not in os.environ:
        # DeepSpeed reads these too, so a lone process sets them like a launcher does; at port 0 the system finds a free one
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    world_size = int(os.environ["WORLD_SIZE"])
    assert world_size == parallel.world_size, f"{world_size} processes were started for {parallel.world_size}"
    device = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        # with more queues the GPU may start a matrix product before the collective that should overlap with it
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend,
        store=meet(rank, world_size, start_timeout_seconds),
        rank=rank,
        world_size=world_size,
        device_id=device if backend == "nccl" else None,
    )
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor_size,
        pipeline_model_parallel_size=parallel.pipe_size,
        expert_model_parallel_size=parallel.expert_size,
        create_gloo_process_groups=False,
    )
    pipe_rank, data_rank, tensor_rank = coordinates(rank, parallel.tensor_size, parallel.data_size)
    return Topology(
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        tensor_rank=tensor_rank,
        tensor_size=parallel.tensor_size,
        pipe_rank=pipe_rank,
        pipe_size=parallel.pipe_size,
        data_rank=data_rank,
        data_size=parallel.data_size,
        device=device,
        backend=backend,
        expert_size=parallel.expert_size,
    )


def shutdown() -> None:
    """Leave the groups. Not for the way out of an exception: other ranks may be waiting in a collective."""
    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
