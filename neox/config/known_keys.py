"""The keys of gpt-neox that are not keys here: what each one means for us, in one table.

A key is renamed (another key says it), without effect (a hint of speed, or our only behaviour), or refused with the reason and
what to use. A refused or renamed key passes where its value asks for nothing: null, gpt-neox's default, `enabled: false`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Other:
    """A known key that is no key of ours."""

    status: Literal["without effect", "refused", "renamed"]
    sentence: str
    harmless: tuple[Any, ...] = ()  # values that ask for nothing

    def is_harmless(self, value: Any) -> bool:
        """Whether the value asks for nothing that we do not do anyway."""
        if value is None or (isinstance(value, dict) and value.get("enabled") is False):
            return True
        return any(type(value) is type(other) and value == other for other in self.harmless)

    def in_words(self) -> str:
        """What became of the key."""
        return f"called {self.sentence} here" if self.status == "renamed" else f"{self.status}: {self.sentence}"


def _without_effect(sentence: str, *keys: str) -> dict[str, Other]:
    return {key: Other("without effect", sentence) for key in keys}


def _refused(sentence: str, **defaults: Any) -> dict[str, Other]:
    return {
        key: Other("refused", sentence, default if isinstance(default, tuple) else (default,))
        for key, default in defaults.items()
    }


def _renamed(**names: str) -> dict[str, Other]:
    return {key: Other("renamed", name) for key, name in names.items()}


def _dotted(prefix: str, others: dict[str, Other]) -> dict[str, Other]:
    return {f"{prefix}.{key}": other for key, other in others.items()}


_EXTRA = "give it to DeepSpeed through deepspeed_extra_args"
_ZERO_EXTRA = "give it to DeepSpeed through deepspeed_extra_args: {zero_optimization: {...}}"
_OFFLOAD = "give offload_optimizer: {device: cpu}, or offload_param: {device: cpu}"
_OBJECTIVE = "the objectives are those of train_impl: normal, mlm and dpo"
_LAUNCHER_SETS = "the launcher works this out by itself: leave it out"
_NO_SUCH_LAYERS = "these layers are not supported; attention_config takes global, local and flash"
_FUSION = "a fused kernel of gpt-neox; the fused kernels of torch are always used"
_ONLY_WITH = "speaks only where a feature is on that is refused by its own key"
_BASE_SHAPES = "no file of shapes is needed: give mup_base_hidden_size and mup_base_num_attention_heads"
_DEAD = "has no effect in gpt-neox either"

OTHER_KEYS: dict[str, Other] = {
    # Names of the past, and second names of one fact.
    **_renamed(
        batch_size="train_micro_batch_size_per_gpu",
        micro_batch_size="train_micro_batch_size_per_gpu",
        global_batch_size="train_batch_size",
        gas="gradient_accumulation_steps",
        save_interval="checkpoint_factor",
        s3_path="checkpoint_upload",
        async_save="checkpoint_asynchronous",
        lr="optimizer.params.lr",
        learning_rate="optimizer.params.lr",
        betas="optimizer.params.betas",
        adam_beta1="optimizer.params.betas",
        adam_beta2="optimizer.params.betas",
        adam_eps="optimizer.params.eps",
        zero_stage="zero_optimization.stage",
        zero_reduce_scatter="zero_optimization.reduce_scatter",
        zero_contiguous_gradients="zero_optimization.contiguous_gradients",
        zero_reduce_bucket_size="zero_optimization.reduce_bucket_size",
        zero_allgather_bucket_size="zero_optimization.allgather_bucket_size",
        dynamic_loss_scale="fp16.loss_scale (0 means dynamic)",
        loss_scale="fp16.loss_scale",
        tensor_parallel_size="model_parallel_size",
        tensor_model_parallel_size="model_parallel_size",
        pipeline_parallel_size="pipe_parallel_size",
        pipeline_model_parallel_size="pipe_parallel_size",
        max_iters="train_iters",
        max_steps="train_iters",
        warmup_ratio="warmup",
        n_layer="num_layers",
        n_layers="num_layers",
        n_head="num_attention_heads",
        n_heads="num_attention_heads",
        n_embd="hidden_size",
        n_ctx="seq_length",
        wandb_name="wandb_run_name",
        wandb_entity="wandb_team",
        checkpoint_path="load",
        label_data_paths="train_label_data_paths",
    ),
    "optimizer_type": Other("renamed", "optimizer.type", ("adam",)),
    "clip_grad": Other("renamed", "gradient_clipping", (1.0, 1)),
    "hysteresis": Other("renamed", "fp16.hysteresis", (2,)),
    "loss_scale_window": Other("renamed", "fp16.loss_scale_window", (1000.0, 1000)),
    "min_scale": Other("renamed", "fp16.min_loss_scale", (1.0, 1)),
    # Hints of speed, and choices of which we have one.
    **_without_effect(
        _FUSION,
        "scaled_upper_triang_masked_softmax_fusion",
        "scaled_masked_softmax_fusion",
        "bias_dropout_fusion",
        "rope_fusion",
        "layernorm_fusion",
        "rmsnorm_fusion",
        "use_flashattn_swiglu",
        "fused_kernels_build_path",
    ),
    **_without_effect(
        "gelu is exact; gpt-neox's fused kernel approximates it by tanh: activation: gelu_new says that",
        "bias_gelu_fusion",
    ),
    **_without_effect("the softmax of the attention is always computed in fp32", "attention_softmax_in_fp32"),
    **_without_effect("the softmax is computed in fp32 and needs no such scaling", "apply_query_key_layer_scaling"),
    **_without_effect("the loss is always computed in fp32", "fp16_lm_cross_entropy", "dpo_fp32"),
    **_without_effect("the router and its balancing loss are always computed in fp32", "moe_lbl_in_fp32"),
    **_without_effect(
        "weights are drawn on the CPU, so that they are equal on every machine", "use_cpu_initialization"
    ),
    **_without_effect("rotary frequencies are never saved", "rotary_save_freqs_buffer"),
    **_without_effect("layernorm has a bias and rmsnorm none, as in gpt-neox", "use_bias_in_norms"),
    **_without_effect("the blocks are shared evenly over the stages", "pipe_partition_method"),
    **_without_effect(
        "a setting of DeepSpeed's activation checkpointing; torch's is used",
        "partition_activations",
        "contiguous_checkpointing",
        "synchronize_each_layer",
        "profile_backward",
        "deepspeed_activation_checkpointing",
    ),
    **_without_effect("log_interval says how often a line is written", "steps_per_print"),
    **_without_effect("batches are read by memory mapping, without processes of their own", "num_workers"),
    **_without_effect("the global norm of the gradient is always reported", "log_grad_norm"),
    **_without_effect("a process knows its place from the launcher's environment", "lazy_mpu_init"),
    **_without_effect("launcher says it", "deepspeed_mpi", "deepspeed_slurm", "force_multi", "no_ssh_check"),
    **_without_effect("the cache of keys and values changes no sample", "recompute"),
    **_without_effect("the commit is not a setting", "git_hash"),
    **_without_effect(_DEAD, "short_seq_prob", "onnx_safe", "adlr_autoresume_interval", "deepscale_config"),
    **_without_effect(
        _ONLY_WITH,
        "param_sharing_style",
        "gmlp_attn_dim",
        "mamba_selective_scan_fusion",
        "mamba_causal_conv_fusion",
        "mamba_inner_func_fusion",
        "mamba_selective_fp32_params",
        "mamba_use_bias_in_conv",
        "mamba_use_bias_in_linears",
        "weight_server_port",
        "online_dataserver_ips",
        "online_dataserver_ports",
        "te_fp8_format",
        "te_fp8_wgrad",
        "te_fp8_amax_history_len",
        "te_fp8_amax_compute_algo",
        "te_fp8_margin",
        "comet_workspace",
        "comet_project",
        "comet_experiment_name",
        "comet_tags",
        "comet_others",
        "gradient_noise_scale_n_batches",
        "gradient_noise_scale_cpu_offload",
        "memory_profiling_path",
        "kto_fp32",
        "kto_desirable_weight",
        "kto_undesirable_weight",
        "kto_beta",
        "fp32_reinforce",
        "kl_impl",
        "kl_div_beta",
        "reinforce_leave_one_out",
        "s3_chunk_size",
        "curriculum_seqlen",
    ),
    # The model.
    **_refused("give intermediate_size, or ffn_hidden_size for the true inner width", expansion_factor=()),
    **_refused("positions start at 0", opt_pos_emb_offset=0),
    **_refused(_NO_SUCH_LAYERS, sparsity_config=({},), sparse_attention=({},), dim_att=(), head_size=(), ffn_dim=()),
    **_refused("every layer has weights of its own", num_unique_layers=()),
    **_refused("prompt tuning is not supported", soft_prompt_tuning=()),
    **_refused("the output layer is split by columns", output_layer_parallelism="column"),
    **_refused("the kind of MLP follows from activation: swiglu and the like are gated", mlp_type="regular"),
    **_refused(
        "Transformer Engine is not supported",
        te_columnparallel=False,
        te_rowparallel=False,
        te_layernorm_mlp=False,
        te_mha=False,
        te_fp8_mha=False,
    ),
    **_refused(_BASE_SHAPES, save_base_shapes=False, base_shapes_file=(), mup_width_scale=2),
    **_refused("run tools/coordinate_check.py", coord_check=False),
    # The optimizer and its schedule.
    **_refused("give optimizer.type Adam, AdamW or SGD", use_bnb_optimizer=False),
    **_refused("give lr_decay_style, lr_decay_iters, warmup and min_lr", scheduler=()),
    **_refused(
        "the schedule is that of the configuration, also when a run goes on",
        override_lr_scheduler=False,
        use_checkpoint_lr_scheduler=False,
    ),
    # The objective and its data.
    **_refused(_OBJECTIVE, z_loss=(0.0, 0), dataset_impl="gpt2"),
    **_refused(
        _OBJECTIVE + ": give pairs of answers in pos_train_data_paths and neg_train_data_paths",
        **{f"{split}_reward_data_paths": () for split in ("train", "valid", "test")},
    ),
    **_without_effect(
        "training reads no test data",
        *(f"{side}_test_{kind}" for side in ("pos", "neg") for kind in ("data_paths", "label_data_paths")),
    ),
    **_refused("only the .bin/.idx format (mmap) is read", data_impl=("mmap", "infer")),
    **_refused("the data must be visible to every machine", use_shared_fs=True),
    **_refused("weights are not served during training", serve_model_weights=False),
    # Checkpoints.
    **_refused(
        "checkpoints are written every checkpoint_factor steps; add extra_save_iters", checkpoint_scale="linear"
    ),
    **_refused("a loaded checkpoint is verified by its manifest", checkpoint_validation_with_forward_pass=False),
    **_refused("a checkpoint holds everything that a run needs to go on", no_save_optim=False, no_save_rng=False),
    **_refused("use finetune: true to take only the weights", no_load_optim=False, no_load_rng=False),
    **_refused("activations are recomputed, not moved to the CPU: use checkpoint_activations", checkpoint_in_cpu=False),
    **_refused("use checkpoint_activations and checkpoint_num_layers", activation_checkpointing=({},)),
    # Logging and profiling.
    **_refused(
        "this measurement is not made",
        log_param_norm=False,
        log_grad_pct_zeros=False,
        log_optimizer_states=False,
        log_gradient_noise_scale=False,
        memory_profiling=False,
        char_level_ppl=False,
    ),
    **_refused("Comet is not supported; use use_wandb or tensorboard_dir", use_comet=False, comet_experiment=()),
    **_refused("Weights & Biases is written by one process", wandb_init_all_ranks=False),
    **_refused("use use_wandb, wandb_project and the like", wandb=()),
    **_refused("use tensorboard_dir", tensorboard=()),
    **_refused("evaluation by tasks is not supported yet", eval_tasks=([],), eval_results_prefix=""),
    # Text generation.
    **_refused("logits are not written", return_logits=False),
    **_refused("the reference of dpo is held beside the model: give load and finetune: true", precompute_model_name=()),
    # Machines.
    **_refused("autotuning is not supported", autotuning=({},), autotuning_run=()),
    **_refused("elastic training is not supported", elasticity=({},)),
    # DeepSpeed.
    **_refused("training always runs on DeepSpeed", deepspeed=True),
    **_refused("use precision or fp16", amp=({},)),
    **_refused(
        _EXTRA,
        prescale_gradients=False,
        gradient_predivide_factor=(1.0, 1),
        sparse_gradients=False,
        dump_state=False,
        communication_data_type=(),
        flops_profiler=({},),
        comms_logger=({},),
        csv_monitor=({},),
        checkpoint=({},),
    ),
    **_refused(
        "gradients of micro-batches are always added up in fp32: leave it out",
        data_types=({}, {"grad_accum_dtype": "fp32"}),
    ),
    **_refused(
        "batches keep their size and order; DeepSpeed's data curricula and compression are not supported",
        curriculum_learning=({},),
        data_efficiency=({},),
        compression_training=({},),
    ),
    # What gpt-neox keeps among its keys, but nobody sets.
    **_refused(
        _LAUNCHER_SETS,
        world_size=(),
        rank=(),
        local_rank=(),
        user_script=(),
        is_pipe_parallel=(True, False),
        iteration=(),
        do_train=(),
        do_valid=(),
        do_test=(),
        config_files=(),
        padded_vocab_size=(),
    ),
    **_refused(_DEAD, adlr_autoresume=False, deepscale=False),
    # Inside dicts.
    **_dotted("fp16", _without_effect("fp16.enabled says it", "fp16", "type")),
    **_dotted("bf16", _refused("only bf16.enabled is a setting", bf16=True, type="bfloat16")),
    **_dotted("optimizer", _renamed(**{key: f"optimizer.params.{key}" for key in ("lr", "betas", "eps")})),
    **_dotted("optimizer.params", _refused("use gradient_clipping", max_grad_norm=(1.0, 1))),
    **_dotted("optimizer.params", _renamed(weight_decay="weight_decay (a key of its own)")),
    **_dotted("zero_optimization", _refused(_OFFLOAD, cpu_offload=False, cpu_offload_params=False)),
    **_dotted(
        "zero_optimization.offload_optimizer",
        _refused(
            _ZERO_EXTRA,
            nvme_path=(),
            buffer_count=(),
            fast_init=False,
            pipeline_read=False,
            pipeline_write=False,
            ratio=(1.0, 1),
        ),
    ),
    **_dotted(
        "zero_optimization.offload_param",
        _refused(_ZERO_EXTRA, nvme_path=(), buffer_count=(), buffer_size=(), max_in_cpu=()),
    ),
    **_dotted(
        "zero_optimization",
        _refused(
            _ZERO_EXTRA,
            sub_group_size=(),
            stage3_max_live_parameters=(),
            stage3_max_reuse_distance=(),
            stage3_prefetch_bucket_size=(),
            stage3_param_persistence_threshold=(),
            stage3_gather_16bit_weights_on_model_save=(),
            round_robin_gradients=False,
            load_from_fp32_weights=True,
            elastic_checkpoint=False,
            ignore_unused_parameters=True,
            zero_hpz_partition_size=1,
            zero_quantized_weights=False,
            zero_quantized_gradients=False,
        ),
    ),
}

SECRET_KEYS: dict[str, str] = {
    "wandb_api_key": "WANDB_API_KEY",
    "wandb_key": "WANDB_API_KEY",
    "hf_token": "HF_TOKEN",
}

CHOICE_ALIASES: dict[str, dict[str, str]] = {
    "precision": {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"},
    "optimizer.type": {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"},
    "pos_emb": {"rope": "rotary"},
    "activation": {"swish": "silu", "gelu_pytorch_tanh": "gelu_new"},
}

_NO_LAUNCHER = "use local, pdsh, openmpi, mpich, slurm or torchrun"
_NO_OPTIMIZER = "the optimizers are Adam, AdamW and SGD"

UNSUPPORTED_CHOICES: dict[str, dict[str, str]] = {
    "launcher": dict.fromkeys(["impi", "mvapich", "jsrun"], _NO_LAUNCHER),
    "norm": {
        "te_rmsnorm": "use rmsnorm, Transformer Engine is not supported",
        "te_layernorm": "use layernorm, Transformer Engine is not supported",
    },
    "lr_decay_style": {"exponential": "use constant, linear or cosine"},
    "optimizer.type": dict.fromkeys(
        ["onebitadam", "OneBitAdam", "cpu_adam", "cpu_torch_adam", "sm3", "madgrad_wd", "lion", "Lion"], _NO_OPTIMIZER
    ),
    "tokenizer_type": {"HFGPT2Tokenizer": "use GPT2BPETokenizer with vocab_file and merge_file, or HFTokenizer"},
    "train_impl": dict.fromkeys(["rm", "kto", "reinforce"], "use dpo, which learns from pairs of answers"),
    "text_gen_type": {"precompute": "use unconditional, input-file or interactive"},
    "distributed_backend": {"mpi": "use nccl, gloo, or leave it out"},
}
