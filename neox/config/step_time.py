"""How long an optimizer step takes on known GPUs: a simple model, from the sections alone.

Matrix products run at a stated share of the GPU's peak. What tensor-parallel groups, stages and replicas send each other takes
its bytes through the links, and is not hidden behind the products, except a part at ZeRO 3. docs/plan.md gives the formulas and the
assumptions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from neox.config.gpus import Gpu
from neox.config.sections import Config
from neox.config.shapes import has_reference, tokens_per_sample
from neox.config.sizes import (
    blocks_of_stage,
    flops_per_token,
    layers_of_stage,
    padded_vocab_size,
    stage_experts,
    stage_trained_parameters,
    weight_flops,
)

EFFICIENCY = 0.45  # of the peak, in matrix products
GPUS_PER_NODE = 8
# to start the kernels of a block's forward pass: it takes no less; backward takes twice that. ZeRO 3 runs Python around each layer
LAUNCH_SECONDS, ZERO3_LAUNCH_SECONDS = 1e-4, 1e-3
ZERO3_HIDDEN = 0.5  # of the time of the products, behind which ZeRO 3 fetches weights and reduces gradients
HOST_GB_PER_SECOND = 25.0  # each process's share of its host's memory, for an optimizer that is kept there
NETWORK_GB_PER_SECOND = 25.0  # of each GPU to other machines, in one direction: a port of 200 Gbit/s


@dataclass(frozen=True)
class Cluster:
    """The machines that a run is planned for."""

    gpu: Gpu
    gpus_per_node: int = GPUS_PER_NODE
    network_gb_per_second: float = NETWORK_GB_PER_SECOND
    efficiency: float = EFFICIENCY
    peak_tflops: float | None = None  # instead of the GPU's

    def flops_per_second(self, precision: str) -> float:
        """What one GPU gives to matrix products."""
        return self.efficiency * 1e12 * (self.peak_tflops or self.gpu.peak_tflops(precision))

    def bytes_per_second(self, group: int) -> float:
        """Of one GPU to the others of a group of so many consecutive ranks."""
        gigabytes = self.gpu.link_gb_per_second if group <= self.gpus_per_node else self.network_gb_per_second
        return 1e9 * gigabytes


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step in parts."""

    products: float  # of the fullest stage, forward and backward
    recomputation: float
    tensor_parallel: float
    expert_parallel: float  # tokens sent to their experts and back
    pipeline: float  # sends between stages, and the bubble
    data_parallel: float
    optimizer: float

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return sum(asdict(self).values())


def step_time(config: Config, vocab_size: int, cluster: Cluster) -> StepTime:
    """Seconds of an optimizer step, by the slowest stage."""
    flops = flops_per_token(config.model, vocab_size)
    stages = [_stage_time(config, vocab_size, cluster, stage, flops) for stage in range(config.parallel.pipe_size)]
    return max(stages, key=lambda stage: stage.total)


def _stage_time(config: Config, vocab_size: int, cluster: Cluster, stage: int, flops: float) -> StepTime:
    """Of one stage; flops: of the whole model for a token, which each stage has its blocks' share of."""
    model, parallel, precision = config.model, config.parallel, config.precision.precision
    tensor, stages, replicas = parallel.tensor_size, parallel.pipe_size, parallel.data_size
    width = 4 if precision == "fp32" else 2
    micro_batches = config.batch.gradient_accumulation_steps
    tokens = config.batch.train_micro_batch_size_per_gpu * tokens_per_sample(model)
    blocks = blocks_of_stage(model.num_layers, stages, stage)

    head_flops = weight_flops(model) * padded_vocab_size(model, vocab_size) * model.hidden_size
    block_flops = (flops - head_flops) / model.num_layers
    rate = cluster.flops_per_second(precision) * tensor / tokens
    zero = config.optimization.zero_stage
    passes = weight_flops(model) / 2  # forward, one or two backward, and forward in a reference
    forward = max(block_flops / passes / rate, ZERO3_LAUNCH_SECONDS if zero == 3 else LAUNCH_SECONDS)
    products = passes * blocks * forward + (head_flops / rate if stage == stages - 1 else 0.0)
    recomputed = config.recompute.recomputed_blocks(blocks)
    recomputation = recomputed * forward

    # each block sums hidden states over the group twice forward and twice backward, twice more where it is recomputed, and twice
    # in a reference
    hidden = width * tokens * model.hidden_size
    sums = 4 * blocks + 2 * recomputed + 2 * blocks * has_reference(model)
    # a mixture of experts sums its results for each expert of a token, and sends them there and back, forward and backward
    mixtures = layers_of_stage(model, stages, stage)
    passed = 4 * sum(mixtures) + 2 * sum(mixtures[:recomputed])
    routed = passed * model.moe_top_k
    sums += (routed - passed) / 2
    together = tensor * parallel.expert_size
    expert_parallel = routed * gather_bytes(hidden, parallel.expert_size) / cluster.bytes_per_second(together)
    tensor_parallel = sums * all_reduce_bytes(hidden, tensor) / cluster.bytes_per_second(tensor)

    # hidden states go on and their gradients come back; neighbours are on different machines where a stage fills one
    sends = (stage > 0) + (stage < stages - 1)
    between = sends * hidden / (1 if parallel.sequence_parallel else tensor)
    between /= cluster.bytes_per_second(parallel.world_size)
    busy = products + recomputation + tensor_parallel + expert_parallel + between
    bubble = (stages - 1) * busy

    parameters = stage_trained_parameters(config, vocab_size, stage)
    experts = stage_experts(config, stage)
    data_parallel = _data_parallel_bytes(width * (parameters - experts), replicas, zero, micro_batches)
    data_parallel += _data_parallel_bytes(width * experts, replicas // parallel.expert_size, zero, micro_batches)
    data_parallel /= cluster.bytes_per_second(tensor * replicas)
    if zero == 3:
        data_parallel = max(0.0, data_parallel - ZERO3_HIDDEN * micro_batches * (products + recomputation))
    updated = parameters
    if zero:
        updated = (parameters - experts) / replicas + experts * parallel.expert_size / replicas
    # reads and writes masters and two moments, reads the gradient, writes the weight
    update_bytes = updated * (6 * 4 + 4 + width)
    on_host = config.optimization.zero_optimization.offloads_optimizer
    memory_gb_per_second = HOST_GB_PER_SECOND if on_host else cluster.gpu.memory_gb_per_second
    return StepTime(
        products=micro_batches * products,
        recomputation=micro_batches * recomputation,
        tensor_parallel=micro_batches * tensor_parallel,
        expert_parallel=micro_batches * expert_parallel,
        pipeline=micro_batches * between + bubble,
        data_parallel=data_parallel,
        optimizer=update_bytes / (1e9 * memory_gb_per_second),
    )


def all_reduce_bytes(size: float, processes: int) -> float:
    """Bytes that each process of a ring sends to sum a tensor of `size` bytes: it scatters the sums, and gathers them."""
    return 2 * gather_bytes(size, processes)


def gather_bytes(size: float, processes: int) -> float:
    """Bytes that each process of a ring sends to gather, or reduce and scatter, a tensor of `size` bytes in all."""
    return size * (processes - 1) / processes


def _data_parallel_bytes(weights: float, replicas: int, zero: int, micro_batches: int) -> float:
    """Bytes that a process sends in a step to reduce gradients and to gather weights, both of `weights` bytes."""
    once, summed = gather_bytes(weights, replicas), all_reduce_bytes(weights, replicas)
    return {
        0: summed,
        1: summed + once,  # DeepSpeed sums whole gradients at stages 1 and 2 too
        2: micro_batches * summed + once,
        3: micro_batches * 3 * once,  # gathered forward and backward, reduced and scattered
    }[zero]
