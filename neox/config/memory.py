"""Memory of a training run on its fullest GPU, in parts, from the sections alone: what torch allocates, and a margin.

Follows what neox/model keeps for the backward pass and what DeepSpeed 0.19 holds at each ZeRO stage. docs/plan.md explains the
model, and compares it with measured runs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from neox.config.sections import Config, Offload
from neox.config.shapes import LOSS_CHUNK, ffn_width, is_gated
from neox.config.sizes import blocks_of_stage, padded_vocab_size, stage_parameters

MARGIN_SHARE = 0.05  # of what is allocated: fragmentation
MARGIN_BYTES = 2**30  # libraries, CUDA's context, workspaces, buffers of the collectives
MASTER = MOMENT = 4  # fp32
ZERO0_REDUCED = 500_000_000  # elements that DeepSpeed's engine reduces at a time
# ZeRO 3 keeps gathered weights that are used again within 1e9 elements, forward and backward, and fetches 5e7 ahead
ZERO3_GATHERED = 550_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU. Each part is as large as it ever is; `not_at_once` (negative) makes the sum the peak of a step."""

    weights: int
    gradients: int
    optimizer: int  # moments, and the fp32 copy of the weights that is updated
    activations: int  # kept for the backward pass, and recomputed in it
    logits: int  # with their gradient and what the loss works on
    communication: int  # buckets of reductions, weights gathered by ZeRO 3
    temporary: int  # copies of gradients that the end of the backward pass and the update make
    not_at_once: int
    margin: int
    moment: str  # when most is held

    def parts(self) -> dict[str, int]:
        """The parts by name."""
        return {name: size for name, size in asdict(self).items() if name != "moment"}

    @property
    def total(self) -> int:
        """Bytes that the GPU must have."""
        return sum(self.parts().values())

    @property
    def peak(self) -> int:
        """Bytes that tensors take at the fullest moment of a step."""
        return self.total - self.margin

    @property
    def state(self) -> int:
        """Bytes that weights, gradients and optimizer take."""
        return self.weights + self.gradients + self.optimizer


def memory(config: Config, vocab_size: int, on_gpu: bool = True) -> Memory:
    """Memory of the pipeline stage that needs most."""
    stages = [stage_memory(config, vocab_size, stage, on_gpu) for stage in range(config.parallel.pipe_size)]
    return max(stages, key=lambda stage: stage.total)


def stage_memory(config: Config, vocab_size: int, stage: int, on_gpu: bool = True) -> Memory:
    """Memory of one process of a pipeline stage."""
    state = _State.of(config, vocab_size, stage)
    work = _Work.of(config, vocab_size, stage, on_gpu)
    moments = {
        "the loss": state.early + work.kept + work.loss,
        "the gradient of the output layer": state.early + work.kept + work.logits + work.head_gradient,
        "the backward pass": state.early + work.kept + work.block + work.head_gradient + state.late_bucket,
        "the end of the backward pass": state.gradients + work.embedding_gradients + state.bucket + state.accumulated,
        "the reduction": state.gradients + state.reduced,
        "the update": state.update,
    }
    moment = max(moments, key=moments.__getitem__)
    parts = {
        "gradients": state.gradients,
        "activations": work.kept + work.block,
        "logits": max(work.loss, work.logits),
        "communication": max(state.bucket, state.reduced),
        "temporary": max(
            0, state.update - state.gradients, work.embedding_gradients + state.accumulated, work.head_gradient
        ),
    }
    peak = state.weights + state.optimizer + moments[moment]
    return Memory(
        weights=state.weights,
        optimizer=state.optimizer,
        **parts,
        not_at_once=moments[moment] - sum(parts.values()),
        margin=MARGIN_BYTES + int(MARGIN_SHARE * peak),
        moment=moment,
    )


@dataclass(frozen=True)
class _State:
    """What ZeRO holds on one process, in bytes."""

    weights: int
    gradients: int
    optimizer: int
    early: int  # of gradients and buckets, held before the first gradient of the last micro-batch
    bucket: int  # and weights that are gathered
    late_bucket: int  # the bucket where it is made with the first gradient of the last micro-batch
    accumulated: int  # a second share of the gradients, to be added to the first
    reduced: int  # while gradients are reduced after the backward pass
    update: int  # gradients and copies of them, while the weights are updated

    @classmethod
    def of(cls, config: Config, vocab_size: int, stage: int) -> _State:
        zero, replicas = config.optimization.zero_optimization, config.parallel.data_size
        pipelined = config.parallel.pipe_size > 1
        # more micro-batches than are under way: gradients of some are there while the others' activations are
        accumulating = config.batch.gradient_accumulation_steps > config.parallel.pipe_size - stage
        half = config.precision.precision != "fp32"
        width = 2 if half else 4
        parameters = stage_parameters(config, vocab_size, stage)
        shard = -(-parameters // replicas)
        largest = _largest_tensor(config, vocab_size)
        # in ZeRO 1 and 2 a process reduces all of each tensor of which it updates a part
        touched = min(parameters, shard + largest) if replicas > 1 else parameters
        updated = parameters if zero.stage == 0 else shard
        masters = MASTER if half or zero.stage >= 1 else 0
        on_host = _is_offloaded(zero.offload_optimizer)  # and with it the gradients that it takes
        gradients = width * {0: parameters, 1: parameters, 2: touched, 3: shard}[zero.stage]
        if on_host and zero.stage >= 2:
            gradients = 0
        bucket = reduced = 0
        if zero.stage == 0 and replicas > 1:
            reduced = min(parameters, ZERO0_REDUCED) * (width + (4 if half and config.precision.fp32_allreduce else 0))
        elif zero.stage in (1, 2) and zero.contiguous_gradients:
            bucket = width * zero.reduce_bucket_size * (2 if zero.overlap_comm and not pipelined else 1)
            reduced = 2 * bucket if pipelined else bucket
        elif zero.stage == 3:
            own_bucket = (4 if config.precision.fp32_allreduce else width) * zero.reduce_bucket_size
            bucket = own_bucket + width * min(parameters, ZERO3_GATHERED)
            reduced = own_bucket + width * min(parameters, zero.reduce_bucket_size)
        copies = shard * (width + (4 if half else 0))  # flat, and in fp32
        update = {
            0: 4 * parameters,  # in fp32
            1: width * touched + max(copies, 8 * min(shard, largest)),  # the norm is taken in fp64
            2: width * touched + max(copies, 8 * min(shard, largest)),
            3: gradients + max(copies, 8 * largest // replicas),
        }[zero.stage]
        if on_host:
            update = gradients
        lasting = zero.stage == 3 or (zero.stage == 1 and accumulating)
        return cls(
            weights=0 if _is_offloaded(zero.offload_param) else width * (shard if zero.stage == 3 else parameters),
            gradients=gradients,
            optimizer=0 if on_host else updated * (_moments(config) + masters),
            early=(gradients if accumulating or zero.stage == 3 else 0) + (bucket if lasting else 0),
            bucket=bucket,
            late_bucket=0 if lasting else bucket,
            accumulated=gradients if zero.stage == 2 and accumulating else 0,
            reduced=reduced,
            update=update,
        )


def _is_offloaded(offload: Offload | None) -> bool:
    return offload is not None and offload.device != "none"


def _moments(config: Config) -> int:
    """Bytes of the optimizer's moments of one weight."""
    optimizer = config.optimization.optimizer
    if optimizer.type == "SGD":
        return MOMENT if optimizer.params.momentum else 0
    return 2 * MOMENT


def _largest_tensor(config: Config, vocab_size: int) -> int:
    """Elements of the largest weight on a process."""
    model = config.model
    inner = ffn_width(model) * (2 if is_gated(model) else 1)
    rows = max(padded_vocab_size(model, vocab_size), inner, 3 * model.hidden_size)
    return rows * model.hidden_size // config.parallel.tensor_size


@dataclass(frozen=True)
class _Work:
    """What forward and backward passes hold on one process of a stage, in bytes."""

    kept: int  # by the micro-batches under way, for their backward passes
    block: int  # while a block goes backward: what is recomputed, and gradients of activations
    logits: int  # gradients of logits, with those logits that are still there
    loss: int  # logits, their gradients, and the rows at hand in fp32
    head_gradient: int
    embedding_gradients: int

    @classmethod
    def of(cls, config: Config, vocab_size: int, stage: int, on_gpu: bool) -> _Work:
        model, parallel = config.model, config.parallel
        tensor, stages = parallel.tensor_size, parallel.pipe_size
        width = 4 if config.precision.precision == "fp32" else 2
        tokens = config.batch.train_micro_batch_size_per_gpu * model.seq_length
        hidden = width * tokens * model.hidden_size // (tensor if parallel.sequence_parallel else 1)
        inner = width * tokens * ffn_width(model) * (2 if is_gated(model) else 1) // tensor
        block, blocks = _block_bytes(config, tokens, width), blocks_of_stage(model.num_layers, stages, stage)
        kept, recomputed = blocks * block, 0
        if config.recompute.checkpoint_activations:
            # a pipeline recomputes block by block
            together = min(config.recompute.checkpoint_num_layers, blocks) if stages == 1 else 1
            kept, recomputed = -(-blocks // together) * hidden, together * block - hidden
        micro_batches = config.batch.gradient_accumulation_steps
        kept *= min(stages - stage, micro_batches)
        logits = loss = head_gradient = embedding_gradients = 0
        table = width * padded_vocab_size(model, vocab_size) * model.hidden_size // tensor
        if stage == stages - 1:
            elements = tokens * padded_vocab_size(model, vocab_size) // tensor
            at_a_time = 4 * min(elements, LOSS_CHUNK["cuda" if on_gpu else "cpu"])
            kept += 2 * hidden  # the last norm's input and output
            logits, head_gradient = width * elements, table
            loss = max(2 * logits + at_a_time, logits + 2 * at_a_time)
            if stages > 1:
                # DeepSpeed's pipeline lets the logits of a micro-batch go when it needs their place for the next but one
                loss += logits * (micro_batches > 1)
                logits *= 1 + min(2, micro_batches)
        if stage == 0:
            embedding_gradients = table if model.no_weight_tying else 2 * table
        return cls(
            kept=kept,
            block=recomputed + inner + hidden,
            logits=logits,
            loss=loss,
            head_gradient=head_gradient,
            embedding_gradients=embedding_gradients,
        )


def _block_bytes(config: Config, tokens: int, width: int) -> int:
    """What the forward pass of one block keeps of one micro-batch."""
    model, tensor = config.model, config.parallel.tensor_size
    whole = tensor if config.parallel.sequence_parallel else 1  # processes that share what tensor parallelism does not
    norm_inputs = 1 if model.gpt_j_residual else 2
    residual = (norm_inputs + 2) * model.hidden_size  # inputs and outputs of the norms
    # queries, keys, values, what attention makes of them, and its rows in order of the sequence
    attention = 5 * model.hidden_size
    # before and after the activation; a gated one keeps gate and value, the activated gate, and the product
    mlp = (4 if is_gated(model) else 2) * ffn_width(model)
    log_sums = 4 * tokens * model.num_attention_heads
    dropped = 2 * tokens * model.hidden_size if model.hidden_dropout else 0  # masks, a byte each
    elements = tokens * (residual // whole + (attention + mlp) // tensor)
    return width * elements + log_sums // tensor + dropped // whole
