"""The topology under the names that DeepSpeed asks of a "model parallel unit". Imports no DeepSpeed."""

from __future__ import annotations

import torch.distributed as dist

from neox.parallel.topology import Topology


class MpuAdapter:
    """What `deepspeed.initialize(mpu=...)` asks for, answered from a Topology. For runs without pipeline stages.

    In DeepSpeed's older words "model parallel" is what we call tensor parallel; with one stage they are the same group.
    """

    def __init__(self, topology: Topology):
        assert topology.pipe_size == 1, "a pipeline brings DeepSpeed its own grid"
        self._topology = topology

    def get_model_parallel_world_size(self) -> int:
        """Processes that share each layer."""
        return self._topology.tensor_size

    def get_model_parallel_rank(self) -> int:
        """This process's place among them."""
        return self._topology.tensor_rank

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        """Their group."""
        return self._topology.tensor_group

    def get_tensor_model_parallel_world_size(self) -> int:
        """Processes that share each layer."""
        return self._topology.tensor_size

    def get_tensor_model_parallel_rank(self) -> int:
        """This process's place among them."""
        return self._topology.tensor_rank

    def get_tensor_model_parallel_group(self) -> dist.ProcessGroup:
        """Their group."""
        return self._topology.tensor_group

    def get_tensor_model_parallel_src_rank(self) -> int:
        """Global rank of the first of them."""
        return self._topology.rank - self._topology.tensor_rank

    def get_data_parallel_world_size(self) -> int:
        """Replicas."""
        return self._topology.data_size

    def get_data_parallel_rank(self) -> int:
        """This process's replica."""
        return self._topology.data_rank

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        """Processes that hold the same weights."""
        return self._topology.data_group

    def get_pipeline_model_parallel_world_size(self) -> int:
        """Stages."""
        return self._topology.pipe_size

    def get_pipeline_model_parallel_rank(self) -> int:
        """This process's stage."""
        return self._topology.pipe_rank

    def get_pipeline_model_parallel_group(self) -> dist.ProcessGroup:
        """Group of the stages."""
        return self._topology.pipe_group
