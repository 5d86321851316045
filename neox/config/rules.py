"""The rules between keys: each is a function of the resolved configuration that yields (keys, sentence).

`keys` are separated by spaces; the complaint points at the first one that the user wrote. A rule stops, alone, where it reads a
key that is broken. Knows nothing about files and machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from neox.config.deepspeed import base_config
from neox.config.draft import SECTION_OF
from neox.config.errors import ConfigError
from neox.config.resolve import PATH_KEYS, SAMPLE_MERGES, SAMPLE_TOKENIZER, SAMPLE_VOCAB
from neox.config.sections import ModelConfig
from neox.config.shapes import (
    FORMS,
    attention_kinds,
    attention_windows,
    ffn_width,
    has_reference,
    is_causal,
    is_gated,
)
from neox.config.sizes import padded_vocab_size, true_vocab_size

Complaints = Iterator[tuple[str, str]]

LABELS = [key for key in PATH_KEYS if "_label_" in key]


def heads_divide_hidden(config: Any) -> Complaints:
    hidden, heads = config.model.hidden_size, config.model.num_attention_heads
    if hidden % heads:
        yield "num_attention_heads hidden_size", f"{heads} heads do not divide hidden_size {hidden}"


def heads_divide_by_tensor_parallel(config: Any) -> Complaints:
    heads, tensor = config.model.num_attention_heads, config.parallel.tensor_size
    if heads % tensor:
        yield "model_parallel_size num_attention_heads", f"{tensor} processes cannot share {heads} heads evenly"


def kv_heads_divide_heads(config: Any) -> Complaints:
    heads, shared, tensor = config.model.num_attention_heads, config.model.num_kv_heads, config.parallel.tensor_size
    if shared is None:
        return
    if heads % shared:
        yield "num_kv_heads num_attention_heads", f"{heads} heads cannot share {shared} heads of keys and values evenly"
    elif shared % tensor and heads % tensor == 0:
        yield (
            "model_parallel_size num_kv_heads",
            f"{tensor} processes cannot share {shared} heads of keys and values evenly",
        )


def mlp_divides_by_tensor_parallel(config: Any) -> Complaints:
    width, tensor = ffn_width(config.model), config.parallel.tensor_size
    if width % tensor:
        yield (
            "model_parallel_size intermediate_size ffn_hidden_size",
            f"{tensor} processes cannot share the MLP's inner width {width} evenly",
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


def compiled_blocks_hold_their_weights(config: Any) -> Complaints:
    if config.run.compile_blocks and config.optimization.zero_stage == 3:
        sentence = "does not work with zero_optimization.stage 3, which gathers weights while a block runs: use stage 2"
        yield "compile_blocks zero_optimization.stage", sentence


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


def tokens_have_enough_experts(config: Any) -> Complaints:
    chosen, experts = config.model.moe_top_k, config.model.moe_num_experts
    if chosen > experts:
        yield "moe_top_k moe_num_experts", f"{chosen} experts for each token are more than moe_num_experts {experts}"


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


def mup_knows_its_base(config: Any) -> Complaints:
    model = config.model
    if not model.use_mup:
        return
    width, heads = model.mup_base_hidden_size, model.mup_base_num_attention_heads
    for key, value in (("mup_base_hidden_size", width), ("mup_base_num_attention_heads", heads)):
        if value is None:
            yield "use_mup", f"{key} is missing: give the width and heads of the model that was tuned"
    if width is not None and heads is not None and width % heads:
        yield (
            "mup_base_num_attention_heads mup_base_hidden_size",
            f"{heads} heads do not divide mup_base_hidden_size {width}",
        )


def mup_knows_every_part(config: Any) -> Complaints:
    model, kind = config.model, config.optimization.optimizer.type
    if not model.use_mup:
        return
    if kind == "SGD":
        yield "optimizer.type use_mup", "the learning rates of use_mup are those of Adam and AdamW"
    if model.moe_num_experts > 1:
        yield "moe_num_experts use_mup", "use_mup has no rule for the router of a mixture of experts"
    if model.lora_rank is not None:
        yield "lora_rank use_mup", "use_mup has no rule for adapters"
    for key in ("init_method", "output_layer_init_method"):
        if (method := getattr(model, key)).startswith("xavier") or method.endswith("orthogonal"):
            yield f"{key} use_mup", f"{method} sets a scale by itself, which use_mup does: give normal or scaled_normal"


def attention_pattern_fits(config: Any) -> Complaints:
    try:
        attention_kinds(config.model)
    except ConfigError as error:
        sentence = str(error)
        yield "attention_config num_layers", sentence if FORMS in sentence else f"{sentence}: {FORMS}"


def rotary_dimensions_are_even(config: Any) -> Complaints:
    model = config.model
    if model.pos_emb != "rotary" or model.hidden_size % model.num_attention_heads:
        return
    width = model.hidden_size // model.num_attention_heads
    rotating = int(width * model.rotary_pct)
    if rotating < 2 or rotating % 2:
        yield (
            "rotary_pct num_attention_heads hidden_size",
            f"{model.rotary_pct:g} of the {width} dimensions of a head is {rotating}; rotation takes them in pairs, so this "
            "must be an even number above 0",
        )


def rotary_scaling_is_whole(config: Any) -> Complaints:
    model = config.model
    if model.rope_scaling is None:
        return
    scaling, kind = model.rope_scaling, model.rope_scaling.rope_type
    if model.pos_emb != "rotary":
        yield "rope_scaling", f"stretches rotary positions, and pos_emb is {model.pos_emb}: leave it out"
    elif kind == "default" and scaling.factor != 1:
        yield "rope_scaling.factor", "has no effect with rope_type default: give linear, dynamic, yarn or llama3"
    elif kind == "llama3" and scaling.low_freq_factor >= scaling.high_freq_factor:
        yield (
            "rope_scaling.high_freq_factor rope_scaling.low_freq_factor",
            f"{scaling.high_freq_factor:g} must be above low_freq_factor {scaling.low_freq_factor:g}",
        )
    elif kind == "dynamic" and int(model.hidden_size // model.num_attention_heads * model.rotary_pct) <= 2:
        yield "rope_scaling.rope_type", "dynamic needs more than 2 dimensions that rotate in each head"


def relative_positions_have_buckets(config: Any) -> Complaints:
    model = config.model
    if model.pos_emb != "rpe":
        return
    if model.rpe_num_buckets < 2 or model.rpe_max_distance <= model.rpe_num_buckets // 2:
        yield (
            "rpe_num_buckets rpe_max_distance",
            f"half of the {model.rpe_num_buckets} buckets hold a distance each, so there must be 2 at least, and "
            f"rpe_max_distance {model.rpe_max_distance} must be above that half",
        )


def sinusoids_come_in_pairs(config: Any) -> Complaints:
    if config.model.pos_emb == "sinusoidal" and config.model.hidden_size % 2:
        yield "hidden_size pos_emb", f"{config.model.hidden_size} is odd, and sinusoidal positions come in pairs"


def tied_norm_is_for_parallel_residual(config: Any) -> Complaints:
    if config.model.gpt_j_tied and not config.model.gpt_j_residual:
        yield "gpt_j_tied", "is one norm for both branches of the parallel residual: give gpt_j_residual: true too"


def sequence_fits_positions(config: Any) -> Complaints:
    length, longest = config.model.seq_length, config.model.max_position_embeddings
    if length > longest:
        yield (
            "seq_length max_position_embeddings",
            f"{length} tokens are more than max_position_embeddings {longest}",
        )


def one_mlp_width(config: Any) -> Complaints:
    model = config.model
    if model.intermediate_size is not None and model.ffn_hidden_size is not None:
        yield (
            "ffn_hidden_size intermediate_size",
            f"{model.ffn_hidden_size} is the MLP's true width, and intermediate_size {model.intermediate_size} is "
            "gpt-neox's way to say it: give one of them",
        )


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


def rates_are_in_order(config: Any) -> Complaints:
    lowest, peak = config.optimization.min_lr, config.optimization.lr
    if lowest > peak:
        yield "min_lr optimizer.params.lr", f"{lowest:g} is above the peak rate optimizer.params.lr {peak:g}"


def momentum_is_for_sgd(config: Any) -> Complaints:
    optimizer = config.optimization.optimizer
    if optimizer.params.momentum and optimizer.type != "SGD":
        yield "optimizer.params.momentum", f"is a setting of SGD, and optimizer.type is {optimizer.type}"


def training_has_an_end(config: Any) -> Complaints:
    if config.batch.train_iters is None:
        yield "train_iters", "is missing: train.py needs the number of optimizer steps, or train_epochs"


def finetuning_needs_weights(config: Any) -> Complaints:
    if config.checkpoint.finetune and config.checkpoint.load is None:
        yield "finetune", "starts from the weights of load, which is not given"


def restarts_have_checkpoints(config: Any) -> Complaints:
    if config.launch.max_restarts and config.checkpoint.save is None:
        yield "max_restarts", "a restart goes on from a checkpoint: give save, and checkpoint_factor"


def rollbacks_have_checkpoints(config: Any) -> Complaints:
    checkpoint, optimization = config.checkpoint, config.optimization
    saves = checkpoint.save is not None and (checkpoint.checkpoint_factor or checkpoint.extra_save_iters)
    for key in ("on_nonfinite", "on_loss_spike"):
        unused = key == "on_loss_spike" and optimization.loss_spike_factor is None
        if getattr(optimization, key) == "rollback" and not saves and not unused:
            yield key, "a rollback goes back to a checkpoint: give save, and checkpoint_factor"


def checkpoint_urls_are_plain(config: Any) -> Complaints:
    upload, load = config.checkpoint.checkpoint_upload, config.checkpoint.load
    if upload is not None and "://" not in upload:
        yield "checkpoint_upload", f"{upload} is not a URL, as in s3://bucket/run or file:///folder"
    for key, url in (("checkpoint_upload", upload), ("load", load)):
        if url is not None and "://" in url and "@" in url.partition("://")[2].partition("/")[0]:
            yield (
                key,
                "has a password in it, which logs and checkpoints would show: give it in the environment "
                "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)",
            )


def data_is_given_one_way(config: Any) -> Complaints:
    data = config.data
    lists = [
        key for key in ("train_data_paths", "valid_data_paths", "test_data_paths") if getattr(data, key) is not None
    ]
    if data.data_path is not None and lists:
        yield (
            f"data_path {lists[0]}",
            f"{lists[0]} is given too: divide one data_path by split, or give the three lists",
        )
    if lists and "train_data_paths" not in lists:
        yield f"{lists[0]}", "train_data_paths is missing: give train_data_paths and valid_data_paths"
    if "train_data_paths" in lists and not data.train_data_paths:
        yield "train_data_paths", "is an empty list"


def evaluation_has_data(config: Any) -> Complaints:
    data, evaluation = config.data, config.evaluation
    side = "pos_" if data.are_pairs else ""
    if data.training_paths is not None and not data.validation_paths and evaluation.eval_iters:
        yield (
            f"{side}valid_data_paths {side}train_data_paths",
            f"is missing: give it beside {side}train_data_paths, or eval_iters: 0 to train without evaluation",
        )


def weights_fit_paths(config: Any) -> Complaints:
    data = config.data
    given = {"train": data.training_paths, "valid": data.validation_paths, "test": data.test_data_paths}
    for split, paths in given.items():
        weights, key = getattr(data, f"{split}_data_weights"), f"{split}_data_weights"
        if weights is None:
            continue
        if paths is None:
            yield key, f"has no {split}_data_paths to weigh"
        elif len(weights) != len(paths):
            side = "pos_" if data.are_pairs else ""
            yield key, f"{len(weights)} weights for {len(paths)} {side}{split}_data_paths"
        elif not sum(weights):
            yield key, "all weights are 0"
        elif data.weight_by_num_documents:
            yield key, "weight_by_num_documents is given too: give one of them"
    if data.weight_by_num_documents and data.training_paths is None:
        yield "weight_by_num_documents", "has no train_data_paths to weigh"


def labels_fit_paths(config: Any) -> Complaints:
    for key in LABELS:
        of = key.replace("_label", "")
        paths, labels = getattr(config.data, of), getattr(config.data, key)
        if labels is None:
            continue
        if paths is None:
            yield key, f"has no {of} to label"
        elif len(labels) != len(paths):
            yield key, f"{len(labels)} prefixes for {len(paths)} {of}"


def labels_stay_beside_their_tokens(config: Any) -> Complaints:
    data = config.data
    given = [key for key in LABELS if getattr(data, key) is not None]
    if data.fim_rate and given:
        yield "fim_rate", f"moves tokens away from their labels, and {given[0]} is given: leave one of them out"


def masked_tokens_are_seen_from_both_sides(config: Any) -> Complaints:
    model, data = config.model, config.data
    if is_causal(model):
        return
    if model.pos_emb in ("alibi", "rpe"):
        yield (
            "pos_emb train_impl",
            f"{model.pos_emb} knows distances backwards only, and mlm looks ahead too: give learned, rotary, sinusoidal or none",
        )
    try:
        windows = attention_windows(model)
    except ConfigError:
        windows = []  # attention_pattern_fits complains
    if any(window is not None for window in windows):
        yield (
            "train_impl attention_config sliding_window_width",
            "mlm has no windows: give global attention in every layer",
        )
    labels = [key for key in LABELS if getattr(data, key) is not None]
    if labels:
        yield f"{labels[0]} train_impl", "mlm makes its own labels: leave it out"
    if data.fim_rate:
        yield "fim_rate train_impl", "is for a model that predicts the next token, and train_impl is mlm: leave it out"
    if data.pack_impl != "packed" and not data.reset_attention_mask:
        yield (
            "pack_impl train_impl",
            f"mlm would look at the padding of {data.pack_impl} samples: give reset_attention_mask: true too, or packed",
        )
    if data.mlm_same_token_prob + data.mlm_random_token_prob > 1:
        yield "mlm_same_token_prob mlm_random_token_prob", "and mlm_random_token_prob are more than 1 together"


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


def preferences_are_pairs(config: Any) -> Complaints:
    model, data = config.model, config.data
    pairs = {key: getattr(data, key) for key in PATH_KEYS if key.startswith(("pos_", "neg_"))}
    given = [key for key, paths in pairs.items() if paths is not None]
    if model.train_impl != "dpo":
        if given:
            yield given[0], f"is for train_impl: dpo, and it is {model.train_impl}"
        return
    others = [key for key in ("train_data_paths", "valid_data_paths") if getattr(data, key) is not None]
    if not data.are_pairs:
        yield "train_impl", "dpo reads pairs of answers: give pos_train_data_paths and neg_train_data_paths"
    elif others or data.data_path is not None:
        other = [*others, "data_path"][0]
        yield f"{other} train_impl", "dpo reads pos_train_data_paths and neg_train_data_paths: leave it out"
    for split in ("train", "valid"):
        answers, rejected = (pairs[f"{side}_{split}_data_paths"] or [] for side in ("pos", "neg"))
        if len(answers) != len(rejected):
            yield (
                f"neg_{split}_data_paths pos_{split}_data_paths",
                f"{len(rejected)} prefixes for {len(answers)} pos_{split}_data_paths",
            )
    if data.pack_impl != "unpacked":
        yield "pack_impl train_impl", f"dpo compares whole answers: give unpacked, not {data.pack_impl}"
    if data.fim_rate:
        yield "fim_rate train_impl", "is for a model that predicts the next token, and train_impl is dpo: leave it out"


def references_are_kept(config: Any) -> Complaints:
    if has_reference(config.model) and not config.checkpoint.finetune:
        yield (
            "train_impl finetune load",
            "dpo compares with the weights that it begins with: give load and finetune: true (a run goes on from its save), or "
            "dpo_reference_free: true",
        )


def chopping_is_for_whole_documents(config: Any) -> Complaints:
    data = config.data
    if data.pack_impl == "packed" and not data.allow_chopped:
        yield (
            "allow_chopped pack_impl",
            "packed samples cut documents wherever a sample ends: give pack_impl: unpacked or pack_until_overflow too",
        )


def fill_in_has_a_rate(config: Any) -> Complaints:
    data = config.data
    unused = [key for key in ("fim_split_sample", "fim_no_prefix") if getattr(data, key) is not None]
    if unused and not data.fim_rate:
        yield f"{unused[0]} fim_rate", "has no effect: fim_rate is 0"


def split_is_three_shares(config: Any) -> Complaints:
    text = config.data.split
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) != 3 or not all(0 <= share < float("inf") for share in shares) or not sum(shares):
        yield "split", f'{text!r} is not three shares, for training, validation and test, as in "969, 30, 1"'
    elif not shares[0]:
        yield "split", f"{text!r} leaves nothing for training"


def saved_steps_are_within_the_run(config: Any) -> Complaints:
    steps = config.batch.train_iters
    beyond = [step for step in config.checkpoint.extra_save_iters if steps is not None and step > steps]
    if beyond:
        yield "extra_save_iters", f"step {beyond[0]} is beyond train_iters {steps}"


def tokenizer_has_its_files(config: Any) -> Complaints:
    tokenizer = config.tokenizer
    kind = tokenizer.tokenizer_type
    if kind == "CharLevelTokenizer":
        return
    if tokenizer.vocab_file is None:
        hint = f", as in vocab_file: {SAMPLE_VOCAB}" if kind == SAMPLE_TOKENIZER else ""
        yield "vocab_file tokenizer_type", f"is missing: {kind} needs it{hint}"
    if tokenizer.merge_file is None and kind == SAMPLE_TOKENIZER:
        yield "merge_file tokenizer_type", f"is missing: {kind} needs it, as in merge_file: {SAMPLE_MERGES}"


def generation_has_weights(config: Any) -> Complaints:
    if config.checkpoint.load is None and config.checkpoint.save is None:
        yield "load", "is missing: generate.py needs the folder of a checkpoint, in load or save"


def generation_goes_forward(config: Any) -> Complaints:
    if not is_causal(config.model):
        yield "train_impl", "a model of train_impl mlm sees both sides of a token and cannot continue texts"


def generation_has_prompts(config: Any) -> Complaints:
    generation = config.generation
    if generation.text_gen_type == "input-file" and generation.sample_input_file is None:
        yield "sample_input_file", "is missing: text_gen_type is input-file"


def extra_settings_are_extra(config: Any) -> Complaints:
    ours = base_config(config)
    for path in _leaves(config.run.deepspeed_extra_args):
        top = path.split(".")[0]
        if top in ("optimizer", "scheduler"):
            yield (
                "deepspeed_extra_args",
                f"{path}: the {top} is built here, not by DeepSpeed: use the keys of that name",
            )
        elif top in SECTION_OF and _is_set(path, ours):
            yield "deepspeed_extra_args", f"{path} is set by the key {path} already: use that"
        elif _is_set(path, ours):
            yield "deepspeed_extra_args", f"{path} is set by the engine, and cannot be changed"
        elif top in SECTION_OF and not isinstance(ours.get(top), Mapping):
            yield "deepspeed_extra_args", f"{path} is a key of its own: give {path} outside deepspeed_extra_args"


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _is_set(path: str, settings: Mapping[str, Any]) -> bool:
    value: Any = settings
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return True
        if name not in value:
            return False
        value = value[name]
    return True


def nothing_is_saved(config: Any) -> Complaints:
    checkpoint = config.checkpoint
    keys = {
        "checkpoint_factor": checkpoint.checkpoint_factor is not None,
        "extra_save_iters": bool(checkpoint.extra_save_iters),
        "keep_last_n_checkpoints": checkpoint.keep_last_n_checkpoints is not None,
        "checkpoint_upload": checkpoint.checkpoint_upload is not None,
    }
    wanted = [key for key, given in keys.items() if given]
    if wanted and checkpoint.save is None:
        yield wanted[0], "has no effect: save is not given, so this run writes no checkpoints"


def torchrun_has_a_meeting_point(config: Any) -> Complaints:
    launch = config.launch
    if launch.launcher == "torchrun" and launch.num_nodes > 1:
        for key in ("master_addr", "master_port"):
            if getattr(launch, key) is None:
                yield key, "is missing: the machines of torchrun meet at it, the same on each"


def multiple_is_for_gated_mlps(config: Any) -> Complaints:
    model = config.model
    if model.mlp_multiple_of != 1 and not is_gated(model):
        yield (
            "mlp_multiple_of",
            f"has no effect: it rounds the width of a gated MLP, and activation is {model.activation}",
        )


def mup_numbers_are_for_mup(config: Any) -> Complaints:
    model = config.model
    fields = ((key, field) for key, field in ModelConfig.model_fields.items() if key.startswith("mup_"))
    given = [key for key, field in fields if getattr(model, key) != field.default]
    if given and not model.use_mup:
        yield given[0], "has no effect: use_mup is false"


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


Rule = Callable[[Any], Complaints]

RULES: list[Rule] = [
    heads_divide_hidden,
    heads_divide_by_tensor_parallel,
    kv_heads_divide_heads,
    mlp_divides_by_tensor_parallel,
    stages_have_blocks,
    torchrun_has_a_meeting_point,
    zero_needs_plain_pipeline,
    offloading_needs_zero,
    compiled_blocks_hold_their_weights,
    sequence_parallel_needs_tensor_parallel,
    tokens_have_enough_experts,
    experts_are_shared_evenly,
    mixtures_need_whole_sequences_and_weights,
    adapters_stand_beside_whole_weights,
    expert_parallel_needs_scattered_gradients,
    mup_knows_its_base,
    mup_knows_every_part,
    attention_pattern_fits,
    rotary_dimensions_are_even,
    rotary_scaling_is_whole,
    relative_positions_have_buckets,
    sinusoids_come_in_pairs,
    tied_norm_is_for_parallel_residual,
    sequence_fits_positions,
    one_mlp_width,
    recomputed_blocks_fit,
    rates_are_in_order,
    momentum_is_for_sgd,
    finetuning_needs_weights,
    weights_fit_paths,
    labels_fit_paths,
    labels_stay_beside_their_tokens,
    masked_tokens_are_seen_from_both_sides,
    preferences_need_the_whole_model,
    chopping_is_for_whole_documents,
    fill_in_has_a_rate,
    split_is_three_shares,
    tokenizer_has_its_files,
    checkpoint_urls_are_plain,
    extra_settings_are_extra,
]
TRAINING_RULES: list[Rule] = [
    training_has_an_end,
    saved_steps_are_within_the_run,
    restarts_have_checkpoints,
    rollbacks_have_checkpoints,
    data_is_given_one_way,
    evaluation_has_data,
    preferences_are_pairs,
    references_are_kept,
]
TRAINING_WARNINGS: list[Rule] = [nothing_is_saved, multiple_is_for_gated_mlps, mup_numbers_are_for_mup]
GENERATION_RULES: list[Rule] = [generation_has_weights, generation_goes_forward, generation_has_prompts]
