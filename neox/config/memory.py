"""Memory of a training run on its fullest GPU, in parts, from the sections alone: what torch allocates, and a margin.

Follows a step through its moments, with what neox/model keeps for the backward pass; what DeepSpeed holds is in zero_memory.py.
docs/plan.md explains the model, and compares it with measured runs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from neox.config.sections import Config
from neox.config.shapes import LOSS_CHUNK, ffn_width, is_gated, qkv_width, tokens_per_sample
from neox.config.sizes import layers_of_stage, padded_vocab_size
from neox.config.zero_memory import ZeroMemory

MARGIN_SHARE = 0.05  # of what is allocated: fragmentation
MARGIN_BYTES = 2**30  # libraries, CUDA's context, workspaces, buffers of the collectives


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU. Each part is as large as it ever is; `not_at_once` (negative) makes the sum the peak of a step."""

    weights: int  # with those of a frozen reference
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
    zero = ZeroMemory(config, vocab_size, stage)
    work = _Work.of(config, vocab_size, stage, on_gpu)
    # beside weights and optimizer
    moments = {
        "the loss": zero.before_backward + work.kept + work.loss,
        "the gradient of the output layer": zero.before_backward + work.kept + work.logits + work.head_gradient,
        "the backward pass": zero.in_backward + work.kept + work.block + work.head_gradient,
        "the end of the backward pass": zero.after_backward + work.embedding_gradients,
        "the reduction": zero.reduction,
        "the update": zero.update,
    }
    moment = max(moments, key=moments.__getitem__)
    copies = (
        work.head_gradient,
        zero.after_backward - zero.gradients - zero.bucket + work.embedding_gradients,
        zero.update - zero.gradients,
    )
    parts = {
        "gradients": zero.gradients,
        "activations": work.kept + work.block,
        "logits": max(work.loss, work.logits),
        "communication": max(zero.bucket, zero.reduction_buffers),
        "temporary": max(copies),
    }
    peak = zero.weights + zero.optimizer + moments[moment]
    return Memory(
        weights=zero.weights,
        optimizer=zero.optimizer,
        **parts,
        not_at_once=moments[moment] - sum(parts.values()),
        margin=MARGIN_BYTES + int(MARGIN_SHARE * peak),
        moment=moment,
    )


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
        tokens = config.batch.train_micro_batch_size_per_gpu * tokens_per_sample(model)
        hidden = width * tokens * model.hidden_size // (tensor if parallel.sequence_parallel else 1)
        inner = width * tokens * ffn_width(model) * (2 if is_gated(model) else 1) // tensor
        layers = layers_of_stage(model, stages, stage)
        sizes = [_block_bytes(config, tokens, width, mixture) for mixture in layers]
        # the first blocks are recomputed, by a pipeline one by one; then what the last ones keep has been let go
        again = config.recompute.recomputed_blocks(len(sizes))
        together = config.recompute.checkpoint_num_layers if stages == 1 else 1
        runs = [sum(sizes[first : min(first + together, again)]) for first in range(0, again, together)]
        kept_whole = sum(sizes[again:])
        kept = len(runs) * hidden + kept_whole
        recomputed = max(0, max(runs) - hidden - kept_whole) if runs else 0
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
        if model.lora_rank is not None:  # both are frozen
            head_gradient = embedding_gradients = 0
        return cls(
            kept=kept,
            block=recomputed + inner + hidden,
            logits=logits,
            loss=loss,
            head_gradient=head_gradient,
            embedding_gradients=embedding_gradients,
        )


def _block_bytes(config: Config, tokens: int, width: int, mixture: bool) -> int:
    """What the forward pass of one block keeps of one micro-batch."""
    model, tensor = config.model, config.parallel.tensor_size
    whole = tensor if config.parallel.sequence_parallel else 1  # processes that share what tensor parallelism does not
    norm_inputs = 1 if model.gpt_j_residual else 2
    norm_outputs = 1 if model.gpt_j_tied else 2
    residual = (norm_inputs + norm_outputs) * model.hidden_size
    # queries, keys, values, what attention makes of them, and its rows in order of the sequence
    attention = qkv_width(model) + 2 * model.hidden_size
    # before and after the activation; a gated one keeps gate and value, the activated gate, and the product
    mlp = (4 if is_gated(model) else 2) * ffn_width(model)
    routed = 0
    if mixture:
        # a copy of each token for each of its experts, what they make of it, and the router's fp32 input
        mlp *= model.moe_top_k
        routed = (2 * model.moe_top_k * width + (4 if width < 4 else 0)) * tokens * model.hidden_size
    log_sums = 4 * tokens * model.num_attention_heads
    dropped = 2 * tokens * model.hidden_size if model.hidden_dropout else 0  # masks, a byte each
    elements = tokens * (residual // whole + (attention + mlp) // tensor)
    return width * elements + routed + log_sums // tensor + dropped // whole
