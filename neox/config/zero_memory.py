"""What DeepSpeed holds of weights, gradients and optimizer on one process, at each ZeRO stage (read in 0.19.8's sources)."""

from __future__ import annotations

from neox.config.deepspeed import engine_zero_stage, reduces_in_fp32, sums_in_fp32
from neox.config.sections import Config
from neox.config.shapes import ffn_width, has_reference, is_gated
from neox.config.sizes import padded_vocab_size, stage_experts, stage_parameters, stage_trained_parameters

FP16, FP32, FP64 = 2, 4, 8
ENGINE_BUCKET = 500_000_000  # elements that DeepSpeed's engine reduces at a time, at stage 0
# stage 3 keeps gathered weights that are used again within 1e9 elements, forward and backward, and fetches 5e7 ahead
GATHERED = 550_000_000


class ZeroMemory:
    """Bytes on one process of a pipeline stage."""

    def __init__(self, config: Config, vocab_size: int, stage: int):
        zero, replicas, model = config.optimization.zero_optimization, config.parallel.data_size, config.model
        zero = zero.model_copy(update={"stage": engine_zero_stage(config)})
        self._config = config
        self._zero = zero
        self._stages = config.parallel.pipe_size
        self._half = config.precision.precision != "fp32"
        self._width = FP16 if self._half else FP32
        self._sums = sums_in_fp32(config)  # of 16-bit gradients, from ZeRO 1 on
        self._on_host = zero.offloads_optimizer
        # with more micro-batches than are under way, gradients of some are there while the others' activations are
        self._accumulates = config.batch.gradient_accumulation_steps > self._stages - stage
        self.held = stage_parameters(config, vocab_size, stage)
        self.trained = stage_trained_parameters(config, vocab_size, stage)
        self._replicas = replicas
        experts = stage_experts(config, stage)
        self._shard = -(-(self.trained - experts) // replicas)
        self._shard += -(-experts * config.parallel.expert_size // replicas)
        rows = max(padded_vocab_size(model, vocab_size), ffn_width(model) * (2 if is_gated(model) else 1))
        largest = rows * model.hidden_size // config.parallel.tensor_size
        self._largest = min(largest, self.trained)  # elements of one weight
        # at stages 1 and 2 a process reduces all of each weight of which it updates a part
        self._touched = min(self.trained, self._shard + self._largest) if replicas > 1 else self.trained

    @property
    def weights(self) -> int:
        """Weights that the model computes with, and those of the reference of dpo."""
        if self._zero.offloads_parameters:
            return 0
        model = self._config.model
        # a model of its own, except where adapters can be left out
        models = 2 if has_reference(model) and model.lora_rank is None else 1
        return models * self._width * (self._shard if self._zero.stage == 3 else self.held)

    @property
    def gradients(self) -> int:
        """Gradients between two micro-batches."""
        if self._zero.stage == 0:
            return FP32 * self.trained  # also of 16-bit weights: neox/training/masters.py
        if self._zero.stage == 1:
            return self._sum_width * self.trained
        if self._zero.stage == 2 and self._sums:
            return FP32 * self._shard  # also where the optimizer is on the host
        if self._on_host:
            return 0
        return self._width * self._touched if self._zero.stage == 2 else self._sum_width * self._shard

    @property
    def optimizer(self) -> int:
        """Moments, and the fp32 copy of the weights that is updated: fp32 weights need none, until ZeRO divides it."""
        if self._on_host:
            return 0
        masters = FP32 if self._half or self._zero.stage >= 1 else 0
        updated = self.trained if self._zero.stage == 0 else self._shard
        return updated * (masters + moment_bytes(self._config))

    @property
    def bucket(self) -> int:
        """Buffers in which gradients wait to be reduced, and weights that stage 3 has gathered."""
        if self._zero.stage in (1, 2) and self._zero.contiguous_gradients:
            two = self._zero.overlap_comm and self._stages == 1
            width = self._sum_width if self._zero.stage == 1 else self._width
            return width * self._zero.reduce_bucket_size * (2 if two else 1)
        if self._zero.stage == 3:
            return self._wire * self._zero.reduce_bucket_size + self._width * min(self.trained, GATHERED)
        return 0

    @property
    def before_backward(self) -> int:
        """Gradients and buffers that are there when the last micro-batch's backward pass begins."""
        if self._zero.stage == 3:
            return self.gradients + self.bucket
        if not self._accumulates:
            return 0
        return self.gradients + (self.bucket if self._zero.stage == 1 else 0)

    @property
    def in_backward(self) -> int:
        """The same, once the first gradient has called for its bucket."""
        there = self._zero.stage == 3 or (self._zero.stage == 1 and self._accumulates)
        return self.before_backward + (0 if there else self.bucket) + self._flattened

    @property
    def after_backward(self) -> int:
        """The same at its end. Stage 2 adds a second share of the gradients to the first, except where it adds up in fp32."""
        second = self.gradients if self._zero.stage == 2 and self._accumulates and not self._sums else 0
        return self.gradients + self.bucket + self._flattened + second

    @property
    def reduction(self) -> int:
        """Gradients and buffers while what is left is reduced."""
        return self.gradients + self.reduction_buffers

    @property
    def reduction_buffers(self) -> int:
        """Buffers while what is left is reduced, after the backward pass."""
        if self._zero.stage == 0:
            return min(self.trained, ENGINE_BUCKET) * (FP32 + self._rounded) if self._replicas > 1 else 0
        buffers = self.bucket + self._flattened
        if self._stages > 1:
            buffers += self._wire * self._zero.reduce_bucket_size if self._zero.contiguous_gradients else 0
        if self._zero.stage == 1 and self._sums:
            # the share that is updated, beside the sums that it comes from
            buffers += FP32 * self._shard + self._rounded * min(self.trained, self._zero.reduce_bucket_size)
        return buffers

    @property
    def update(self) -> int:
        """Gradients and copies of them while the weights are updated."""
        if self._on_host:
            return self.gradients
        if self._zero.stage == 0:
            return FP32 * self.trained
        # flat, and in fp32
        copies = self._shard * (FP32 if self._sums else self._width + (FP32 if self._half else 0))
        if self._zero.stage == 3:
            return self.gradients + max(copies, FP64 * self._largest // self._replicas)
        # the norm of each gradient is taken in fp64
        norm = FP64 * min(self._shard, self._largest)
        if self._sums:
            # the sums of other processes' shares lie in the bucket until here
            return copies + norm + (self.bucket if self._zero.stage == 1 and self._replicas > 1 else 0)
        return self._width * self._touched + max(copies, norm)

    @property
    def _sum_width(self) -> int:
        """Of the sum of a gradient over micro-batches."""
        return FP32 if self._sums else self._width

    @property
    def _wire(self) -> int:
        """Of a gradient on its way between replicas."""
        return FP32 if reduces_in_fp32(self._config) else self._width

    @property
    def _rounded(self) -> int:
        """Of the copy that is made of an fp32 sum to send it."""
        return self._wire if self._wire < FP32 else 0

    @property
    def _flattened(self) -> int:
        """Stages 2 and 3 reduce during the backward pass, and copy a full bucket for it."""
        waiting = min(self.trained, self._zero.reduce_bucket_size)
        return self._width * waiting if self._zero.stage >= 2 else 0


def moment_bytes(config: Config) -> int:
    """Bytes of the optimizer's moments of one weight."""
    optimizer = config.optimization.optimizer
    if optimizer.type == "SGD":
        return FP32 if optimizer.params.momentum else 0
    return 2 * FP32
