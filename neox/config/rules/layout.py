"""Rules between the model and how it is spread over processes."""

from __future__ import annotations

from typing import Any

from neox.config.rules.rule import Complaints, Rule
from neox.config.shapes import ffn_width
from neox.config.sizes import padded_vocab_size, true_vocab_size


def heads_divide_by_tensor_parallel(config: Any) -> Complaints:
    heads, tensor = config.model.num_attention_heads, config.parallel.tensor_size
    if heads % tensor:
        yield "model_parallel_size num_attention_heads", f"{tensor} processes cannot share {heads} heads evenly"


def mlp_divides_by_tensor_parallel(config: Any) -> Complaints:
    width, tensor = ffn_width(config.model), config.parallel.tensor_size
    if width % tensor:
        yield (
            "model_parallel_size intermediate_size ffn_hidden_size",
            f"{tensor} processes cannot share the MLP's inner width {width} evenly",
        )


def vocabulary_fits(config: Any, vocab_size: int) -> Complaints:
    """The vocabulary, once the tokenizer's size is known, fits the model and is shared evenly by the tensor-parallel group."""
    if config.model.vocab_size is not None and config.model.vocab_size < vocab_size:
        yield (
            "vocab_size",
            f"{config.model.vocab_size:,} rows are fewer than the tokenizer's {vocab_size:,} tokens: leave it out, or give "
            "the tokenizer of the imported weights",
        )
    vocab_size = true_vocab_size(config.model, vocab_size)
    padded, tensor = padded_vocab_size(config.model, vocab_size), config.parallel.tensor_size
    if padded % tensor:
        yield (
            "make_vocab_size_divisible_by model_parallel_size",
            f"{tensor} processes cannot share a vocabulary of {padded:,} ({vocab_size:,} padded to a multiple of "
            f"{config.model.make_vocab_size_divisible_by}) evenly: give a multiple of {tensor}",
        )


def stages_have_blocks(config: Any) -> Complaints:
    layers, stages = config.model.num_layers, config.parallel.pipe_size
    if stages > layers:
        yield "pipe_parallel_size num_layers", f"{stages} stages need a block each, but num_layers is {layers}"


def zero_needs_plain_pipeline(config: Any) -> Complaints:
    stage, stages = config.optimization.zero_stage, config.parallel.pipe_size
    if stage >= 2 and stages > 1:
        yield (
            "zero_optimization.stage pipe_parallel_size",
            f"stage {stage} does not work with pipe_parallel_size {stages}: use stage 1, or one pipeline stage",
        )


def offloading_needs_zero(config: Any) -> Complaints:
    zero = config.optimization.zero_optimization
    for key, offloads, lowest in (
        ("offload_optimizer", zero.offloads_optimizer, 1),
        ("offload_param", zero.offloads_parameters, 3),
    ):
        if offloads and zero.stage < lowest:
            yield (
                f"zero_optimization.{key} zero_optimization.stage",
                f"works from stage {lowest} on, and zero_optimization.stage is {zero.stage}",
            )


def sequence_parallel_needs_tensor_parallel(config: Any) -> Complaints:
    if not config.parallel.sequence_parallel:
        return
    tensor, length = config.parallel.tensor_size, config.model.seq_length
    if tensor == 1:
        yield (
            "sequence_parallel model_parallel_size",
            "splits the sequence over the tensor-parallel group: give model_parallel_size > 1, or false",
        )
    elif length % tensor:
        yield (
            "seq_length sequence_parallel",
            f"with sequence_parallel, seq_length {length} must be a multiple of model_parallel_size {tensor}",
        )


def experts_are_shared_evenly(config: Any) -> Complaints:
    experts, sharing, replicas = config.model.moe_num_experts, config.parallel.expert_size, config.parallel.data_size
    if experts % sharing:
        yield (
            "moe_expert_parallel_size moe_num_experts",
            f"{sharing} replicas cannot share the experts of moe_num_experts {experts} evenly",
        )
    elif replicas % sharing:
        yield (
            "moe_expert_parallel_size num_gpus",
            f"experts are shared by groups of {sharing} replicas, which {replicas} replicas do not make evenly",
        )


def mixtures_need_whole_sequences_and_weights(config: Any) -> Complaints:
    if config.model.moe_num_experts == 1:
        return
    sections, stage = "moe_num_experts", config.optimization.zero_stage
    if config.parallel.pipe_size > 1:
        yield (
            f"pipe_parallel_size {sections}",
            "a mixture of experts does not work with pipeline stages: use one, with moe_expert_parallel_size or "
            "model_parallel_size",
        )
    if config.parallel.sequence_parallel:
        yield f"sequence_parallel {sections}", "a mixture of experts routes whole sequences: leave it out"
    if stage == 3:
        yield (
            f"zero_optimization.stage {sections}",
            "stage 3 does not work with a mixture of experts: use stage 2, and moe_expert_parallel_size to split it",
        )


def expert_parallel_needs_scattered_gradients(config: Any) -> Complaints:
    zero = config.optimization.zero_optimization
    if config.parallel.expert_size == 1 or zero.stage == 0:
        return
    for key in ("reduce_scatter", "contiguous_gradients"):
        if not getattr(zero, key):
            yield (
                f"zero_optimization.{key} moe_expert_parallel_size",
                "DeepSpeed reduces the gradients of experts only where this is true",
            )


def adapters_stand_beside_whole_weights(config: Any) -> Complaints:
    if config.model.lora_rank is None:
        return
    zero = config.optimization.zero_optimization
    if config.parallel.pipe_size > 1:
        yield (
            "lora_rank pipe_parallel_size",
            "adapters do not work with pipeline stages: use one, with model_parallel_size where the weights do not fit",
        )
    if config.model.moe_num_experts > 1:
        yield "lora_rank moe_num_experts", "adapters do not work with a mixture of experts"
    if zero.stage == 3:
        yield (
            "lora_rank zero_optimization.stage",
            "adapters do not work at stage 3: use stage 0 to 2, with model_parallel_size where the weights do not fit",
        )
    elif zero.offloads_optimizer or zero.offloads_parameters:
        yield (
            "lora_rank zero_optimization.offload_optimizer",
            "adapters have a small optimizer, which stays on the GPU: leave offloading out",
        )


def preferences_need_the_whole_model(config: Any) -> Complaints:
    model, stages = config.model, config.parallel.pipe_size
    if model.train_impl != "dpo":
        return
    if stages > 1:
        yield (
            "train_impl pipe_parallel_size",
            f"dpo does not work with pipe_parallel_size {stages}: use one stage, with model_parallel_size where the weights do not fit",
        )
    if model.moe_num_experts > 1:
        yield "train_impl moe_num_experts", "dpo does not work with a mixture of experts"


def compiled_blocks_hold_their_weights(config: Any) -> Complaints:
    if config.run.compile_blocks and config.optimization.zero_stage == 3:
        sentence = "does not work with zero_optimization.stage 3, which gathers weights while a block runs: use stage 2"
        yield "compile_blocks zero_optimization.stage", sentence


def recomputed_blocks_fit(config: Any) -> Complaints:
    together, layers = config.recompute.checkpoint_num_layers, config.model.num_layers
    if config.recompute.checkpoint_activations and together > layers:
        yield (
            "checkpoint_num_layers num_layers",
            f"{together} blocks cannot be recomputed together where num_layers is {layers}",
        )
    some = config.recompute.recompute_num_layers
    if some is not None and not config.recompute.checkpoint_activations:
        yield "recompute_num_layers", "nothing is recomputed: give checkpoint_activations: true too"
    if some is not None and not together <= some <= layers:
        yield (
            "recompute_num_layers checkpoint_num_layers num_layers",
            f"{some} blocks are recomputed: at least checkpoint_num_layers ({together}), and at most num_layers ({layers})",
        )


def torchrun_has_a_meeting_point(config: Any) -> Complaints:
    launch = config.launch
    if launch.launcher == "torchrun" and launch.num_nodes > 1:
        for key in ("master_addr", "master_port"):
            if getattr(launch, key) is None:
                yield key, "is missing: the machines of torchrun meet at it, the same on each"


RULES: list[Rule] = [
    heads_divide_by_tensor_parallel,
    mlp_divides_by_tensor_parallel,
    stages_have_blocks,
    zero_needs_plain_pipeline,
    offloading_needs_zero,
    sequence_parallel_needs_tensor_parallel,
    experts_are_shared_evenly,
    mixtures_need_whole_sequences_and_weights,
    expert_parallel_needs_scattered_gradients,
    adapters_stand_beside_whole_weights,
    preferences_need_the_whole_model,
    compiled_blocks_hold_their_weights,
    recomputed_blocks_fit,
    torchrun_has_a_meeting_point,
]
