"""The configuration: every key with its type, default and sentence, grouped in frozen sections.

A key lives in exactly one section and its flat name is the field's name, so `hidden_size: 768` in a YAML file becomes
`config.model.hidden_size`. Knows nothing about files, ranks or torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from neox.config.gpus import GPUS

Fraction = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
GpuName = Literal[tuple(GPUS)]
Initializer = Literal[
    "normal",
    "scaled_normal",
    "single_residual_scaled_normal",
    "small_init",
    "wang_init",
    "xavier_normal",
    "xavier_uniform",
    "orthogonal",
    "scaled_orthogonal",
]
Activation = Literal[
    "gelu", "gelu_new", "relu", "silu", "softsign", "mish", "geglu", "swiglu", "reglu", "bilinear", "glu"
]

LoraTarget = Literal["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]


class Section(BaseModel):
    """A frozen group of keys; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, defer_build=True)


class RopeScaling(Section):
    """How rotary frequencies are changed to reach beyond the length that they were trained on; names as in transformers."""

    rope_type: Literal["default", "linear", "dynamic", "yarn", "llama3"] = Field(
        "default", description="formula; default changes nothing, dynamic acts beyond original_max_position_embeddings"
    )
    factor: Annotated[float, Field(ge=1)] = Field(1.0, description="how many times longer sequences become")
    original_max_position_embeddings: PositiveInt | None = Field(
        None, description="longest sequence before the scaling; max_position_embeddings where it is not given"
    )
    attention_factor: PositiveFloat | None = Field(
        None, description="factor of cosines and sines (yarn); follows from the other numbers where it is not given"
    )
    beta_fast: PositiveFloat = Field(32.0, description="dimensions that turn more often than this are kept (yarn)")
    beta_slow: PositiveFloat = Field(1.0, description="dimensions that turn less often than this are scaled (yarn)")
    mscale: PositiveFloat | None = Field(None, description="numerator of attention_factor (yarn)")
    mscale_all_dim: PositiveFloat | None = Field(None, description="denominator of attention_factor (yarn)")
    truncate: bool = Field(True, description="bounds of the scaled dimensions are rounded outwards (yarn)")
    low_freq_factor: PositiveFloat = Field(1.0, description="longer waves than the length by this are scaled (llama3)")
    high_freq_factor: PositiveFloat = Field(4.0, description="shorter waves than the length by this are kept (llama3)")


class ModelConfig(Section):
    """The shape of the network."""

    num_layers: PositiveInt = Field(description="number of transformer blocks")
    hidden_size: PositiveInt = Field(description="width of the residual stream")
    num_attention_heads: PositiveInt = Field(description="attention heads in each block")
    num_kv_heads: PositiveInt | None = Field(
        None,
        description="heads of keys and values, each shared by equally many attention heads (grouped-query attention, "
        "multi-query with 1); num_attention_heads where it is not given",
    )
    max_position_embeddings: PositiveInt = Field(description="longest sequence, in tokens, that the positions cover")
    seq_length: PositiveInt | None = Field(
        None, description="tokens in a training sample; max_position_embeddings where it is not given"
    )
    intermediate_size: PositiveInt | None = Field(
        None,
        description="width of the MLP as gpt-neox counts it: a gated MLP is a third as wide; 4 * hidden_size by default",
    )
    ffn_hidden_size: PositiveInt | None = Field(
        None, description="true inner width of the MLP, gated or not; give this or intermediate_size"
    )
    mlp_multiple_of: PositiveInt = Field(
        1, description="the inner width of a gated MLP is rounded up to a multiple of this"
    )
    norm: Literal["layernorm", "rmsnorm", "scalenorm", "non_parametric_layernorm"] = Field(
        "layernorm", description="normalisation of every block and the end"
    )
    layernorm_epsilon: PositiveFloat = Field(1e-5, description="epsilon of both kinds of layernorm")
    rms_norm_epsilon: PositiveFloat = Field(1e-8, description="epsilon of rmsnorm")
    scalenorm_epsilon: PositiveFloat = Field(1e-8, description="smallest length that scalenorm divides by")
    use_qk_layernorm: bool = Field(
        False, description="normalise queries and keys, each head by itself, before they turn and meet"
    )
    pos_emb: Literal["learned", "rotary", "alibi", "sinusoidal", "rpe", "none"] = Field(
        "learned", description="how positions enter the network"
    )
    rotary_pct: Fraction = Field(1.0, description="share of each head's dimensions that rotate")
    rotary_emb_base: PositiveFloat = Field(10_000.0, description="base of the rotary frequencies")
    rope_scaling: RopeScaling | None = Field(None, description="rotary positions stretched beyond their first length")
    rpe_num_buckets: PositiveInt = Field(32, description="distances that relative positions (rpe) tell apart")
    rpe_max_distance: PositiveInt = Field(
        128, description="distance from which all are one to relative positions (rpe)"
    )
    activation: Activation = Field(
        "gelu", description="function of the MLP; gelu is exact and gelu_new its approximation by tanh"
    )
    gpt_j_residual: bool = Field(
        False, description="attention and MLP read the same residual stream and are added together (parallel residual)"
    )
    gpt_j_tied: bool = Field(False, description="one norm for both branches of the parallel residual")
    attention_config: list[Any] | None = Field(
        None,
        description='attention of each layer, global or local, as in [[["global", "local"], 6]]; "all" repeats to the end',
    )
    window_size: PositiveInt = Field(
        256, description="tokens that local attention sees: itself and the window_size - 1 before it"
    )
    sliding_window_width: PositiveInt | None = Field(
        None,
        description="tokens before itself that a token sees in every global layer, as in gpt-neox; all where it is not given",
    )
    scale_attention: bool = Field(
        True, description="divide attention's scores by the square root of the head's width; GPT-Neo does not"
    )
    use_bias_in_attn_linear: bool = Field(True, description="biases in the projections of attention")
    use_bias_in_qkv: bool | None = Field(
        None,
        description="biases of queries, keys and values alone; as use_bias_in_attn_linear where it is not given",
    )
    use_bias_in_mlp: bool = Field(True, description="biases in the projections of the MLP")
    no_weight_tying: bool = Field(False, description="an output layer of its own instead of the embedding's transpose")
    vocab_size: PositiveInt | None = Field(
        None,
        description="rows of the vocabulary where imported weights have more than the tokenizer; the tokenizer's otherwise",
    )
    make_vocab_size_divisible_by: PositiveInt = Field(
        128, description="the vocabulary is padded to a multiple of this, whatever the layout"
    )
    init_method: Initializer = Field("normal", description="initialiser of the weights")
    output_layer_init_method: Initializer = Field(
        "scaled_normal", description="initialiser of the projections that write to the residual stream"
    )
    init_method_std: PositiveFloat = Field(
        0.02, description="standard deviation of the normal initialiser and of its scaled forms"
    )
    moe_num_experts: PositiveInt = Field(
        1,
        description="MLPs of a layer, among which a router chooses for each token (mixture of experts); 1 means one MLP",
    )
    moe_top_k: PositiveInt = Field(1, description="experts that each token passes through")
    moe_expert_interval: PositiveInt = Field(
        1, description="every how many layers, from the first on, the MLP is a mixture of experts"
    )
    moe_router_type: Literal["topk"] = Field("topk", description="how the router chooses: the likeliest experts")
    moe_train_capacity_factor: PositiveFloat | None = Field(
        None,
        description="tokens that an expert takes from a micro-batch in training, as a multiple of an even share; further ones "
        "skip it; where it is not given, and outside training, no token is dropped",
    )
    moe_jitter_eps: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="in training the router's inputs are multiplied by random numbers within 1 -+ this"
    )
    moe_loss_coeff: NonNegativeFloat = Field(
        0.01, description="weight, in the training loss, of the loss that spreads tokens evenly over the experts"
    )
    use_mup: bool = Field(
        False,
        description="muP: initial weights, learning rates and factors follow the width, so that the best learning rate of the "
        "base model is the best one here",
    )
    mup_base_hidden_size: PositiveInt | None = Field(
        None, description="hidden_size of the base model, which the hyperparameters were tuned on (muP)"
    )
    mup_base_num_attention_heads: PositiveInt | None = Field(
        None, description="num_attention_heads of the base model (muP)"
    )
    mup_init_scale: PositiveFloat = Field(1.0, description="factor of all initial weights (muP)")
    mup_attn_temp: PositiveFloat = Field(1.0, description="temperature: what attention's scores are divided by (muP)")
    mup_output_temp: PositiveFloat = Field(1.0, description="temperature: what the logits are divided by (muP)")
    mup_embedding_mult: PositiveFloat = Field(1.0, description="factor of the embeddings (muP)")
    mup_rp_embedding_mult: PositiveFloat = Field(
        1.0, description="factor of the learned biases of relative positions (muP with rpe)"
    )
    train_impl: Literal["normal", "mlm", "dpo"] = Field(
        "normal",
        description="objective: normal predicts the next token; mlm predicts hidden ones, and a token sees what follows it too; dpo "
        "learns which of two answers is preferred",
    )
    dpo_beta: PositiveFloat = Field(0.1, description="how closely dpo keeps to the reference: more stays nearer")
    dpo_reference_free: bool = Field(
        False, description="dpo without a reference, which is the weights that the run begins with"
    )
    attention_dropout: Probability = Field(0.0, description="dropout of the attention probabilities")
    hidden_dropout: Probability = Field(0.0, description="dropout of the embeddings and of what each block adds")
    lora_rank: PositiveInt | None = Field(
        None,
        description="rank of the adapters that are trained in place of the weights (LoRA); all weights are trained where it is not "
        "given",
    )
    lora_alpha: PositiveFloat = Field(16.0, description="what adapters add is multiplied by lora_alpha / lora_rank")
    lora_dropout: Probability = Field(0.0, description="dropout of what adapters read")
    lora_targets: Annotated[list[LoraTarget], Field(min_length=1)] = Field(
        ["query_key_value", "dense"], description="linear layers of each block that get adapters"
    )


class ParallelConfig(Section):
    """How many processes, and what each one holds."""

    pipe_parallel_size: NonNegativeInt = Field(0, description="pipeline stages; 0 and 1 both mean no pipeline")
    model_parallel_size: PositiveInt = Field(1, description="processes that share each layer (tensor parallelism)")
    sequence_parallel: bool = Field(
        False, description="split norms and dropout along the sequence over the tensor-parallel group"
    )
    moe_expert_parallel_size: PositiveInt = Field(
        1, description="replicas that share the experts of each layer (expert parallelism)"
    )
    global_num_gpus: PositiveInt | None = Field(
        None, description="processes in all; num_nodes times num_gpus where it is not given"
    )

    @property
    def tensor_size(self) -> int:
        """Processes in a tensor-parallel group."""
        return self.model_parallel_size

    @property
    def pipe_size(self) -> int:
        """Pipeline stages, at least 1."""
        return max(1, self.pipe_parallel_size)

    @property
    def expert_size(self) -> int:
        """Replicas that share the experts of each layer."""
        return self.moe_expert_parallel_size

    @property
    def world_size(self) -> int:
        """Processes in all; known once the config is resolved."""
        assert self.global_num_gpus is not None, "resolve() fills global_num_gpus"
        return self.global_num_gpus

    @property
    def data_size(self) -> int:
        """Data-parallel replicas."""
        return self.world_size // (self.tensor_size * self.pipe_size)


class BatchConfig(Section):
    """Samples in a step, and steps in a run."""

    train_batch_size: PositiveInt | None = Field(None, description="samples in one optimizer step, over all processes")
    train_micro_batch_size_per_gpu: PositiveInt | None = Field(
        None, description="samples in one forward pass of one replica"
    )
    gradient_accumulation_steps: PositiveInt | None = Field(
        None, description="forward and backward passes in one optimizer step"
    )
    train_iters: PositiveInt | None = Field(None, description="optimizer steps of the whole run")
    train_epochs: PositiveInt | None = Field(
        None, description="how many times the training data are read, instead of train_iters"
    )


class OptimizerParams(Section):
    """The numbers of the optimizer."""

    lr: PositiveFloat = Field(1e-3, description="peak learning rate")
    betas: tuple[Probability, Probability] = Field((0.9, 0.999), description="decay of Adam's two moments")
    eps: PositiveFloat = Field(1e-8, description="epsilon of Adam")
    momentum: Probability = Field(0.0, description="momentum of SGD")


class Optimizer(Section):
    """Kind and numbers of the optimizer."""

    type: Literal["Adam", "AdamW", "SGD"] = Field(
        "Adam", description="optimizer; Adam and AdamW both decay the weights apart from the gradient (AdamW)"
    )
    params: OptimizerParams = Field(OptimizerParams(), description="numbers of the optimizer")


class Offload(Section):
    """Where ZeRO keeps what it has split."""

    device: Literal["none", "cpu"] = Field("none", description="cpu keeps it in the memory of the host")
    pin_memory: bool = Field(
        False, description="page-locked memory: faster copies, and memory that nobody else can use"
    )


class ZeroOptimization(Section):
    """DeepSpeed's ZeRO settings that we know; the others go through deepspeed_extra_args."""

    stage: Literal[0, 1, 2, 3] = Field(
        0, description="what is split over the replicas: 1 optimizer, 2 and gradients, 3 and weights"
    )
    allgather_partitions: bool = Field(True, description="gather updated weights with all_gather instead of broadcasts")
    allgather_bucket_size: PositiveInt = Field(500_000_000, description="elements gathered at a time")
    overlap_comm: bool | None = Field(None, description="overlap the reduction of gradients with the backward pass")
    reduce_scatter: bool = Field(True, description="average gradients with reduce_scatter instead of all_reduce")
    reduce_bucket_size: PositiveInt = Field(500_000_000, description="elements reduced at a time")
    contiguous_gradients: bool = Field(True, description="copy gradients to one buffer as they are produced")
    offload_optimizer: Offload | None = Field(
        None, description="where the optimizer's state is kept and updated, from stage 1 on; the GPU by default"
    )
    offload_param: Offload | None = Field(
        None, description="where the weights are kept between their uses, at stage 3; the GPU by default"
    )

    @property
    def offloads_optimizer(self) -> bool:
        """Whether the optimizer's state is kept and updated on the host."""
        return self.offload_optimizer is not None and self.offload_optimizer.device != "none"

    @property
    def offloads_parameters(self) -> bool:
        """Whether the weights are kept on the host between their uses."""
        return self.offload_param is not None and self.offload_param.device != "none"


Remedy = Literal["stop", "skip", "rollback"]


class OptimizerConfig(Section):
    """The optimizer, its schedule, and ZeRO."""

    optimizer: Optimizer = Field(Optimizer(), description="kind and numbers of the optimizer")
    zero_optimization: ZeroOptimization = Field(ZeroOptimization(), description="ZeRO settings")
    weight_decay: NonNegativeFloat = Field(0.1, description="decay of the weights; norms and biases never decay")
    gradient_clipping: NonNegativeFloat = Field(
        1.0, description="largest global norm of the gradient; 0 turns clipping off"
    )
    lr_decay_style: Literal["constant", "linear", "cosine"] = Field(
        "linear", description="shape of the learning rate after the warmup"
    )
    lr_decay_iters: PositiveInt | None = Field(
        None, description="step at which the learning rate reaches min_lr; train_iters where it is not given"
    )
    lr_decay_fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="lr_decay_iters as a share of train_iters"
    )
    min_lr: NonNegativeFloat = Field(0.0, description="learning rate at the end of the decay")
    warmup: Fraction = Field(0.01, description="share of lr_decay_iters in which the learning rate rises from zero")
    on_nonfinite: Remedy = Field(
        "stop",
        description="what to do where the loss or the gradient is not finite: stop, skip the update, or rollback to the newest "
        "checkpoint and go on past the data; the last two make a GPU's host wait for each step's loss",
    )
    loss_spike_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = Field(
        None,
        description="a loss above this many times the mean of the recent ones is a spike; to know it, a GPU's host waits for each "
        "step's loss",
    )
    on_loss_spike: Remedy = Field("skip", description="what to do at a spike, as in on_nonfinite")

    @property
    def zero_stage(self) -> int:
        """ZeRO stage, 0 to 3."""
        return self.zero_optimization.stage

    @property
    def lr(self) -> float:
        """Peak learning rate."""
        return self.optimizer.params.lr


class Fp16(Section):
    """fp16 and its loss scale."""

    enabled: bool = Field(True, description="train in fp16")
    loss_scale: NonNegativeFloat = Field(0, description="fixed loss scale; 0 means dynamic")
    loss_scale_window: PositiveInt = Field(1000, description="steps without overflow before the scale doubles")
    initial_scale_power: NonNegativeInt = Field(16, description="the first scale is 2 to this power")
    hysteresis: PositiveInt = Field(2, description="overflows in a row before the scale halves")
    min_loss_scale: NonNegativeFloat = Field(1, description="lowest dynamic scale")
    auto_cast: bool = Field(False, description="cast the inputs to fp16")


class Bf16(Section):
    """bf16."""

    enabled: bool = Field(True, description="train in bf16")


class PrecisionConfig(Section):
    """Number format of the forward and backward pass; masters and moments are fp32."""

    precision: Literal["fp32", "fp16", "bf16"] | None = Field(
        None, description="number format of weights and activations: fp32, fp16 or bf16 (bfloat16 is the same)"
    )
    fp16: Fp16 | None = Field(None, description="fp16 and its loss scale")
    bf16: Bf16 | None = Field(None, description="bf16 on or off; precision: bf16 says the same")
    fp32_allreduce: bool = Field(
        False,
        description="average gradients over the replicas in fp32 where weights are fp16 or bf16; those of micro-batches are always added up in it",
    )


class RecomputeConfig(Section):
    """Activation checkpointing."""

    checkpoint_activations: bool = Field(
        False, description="keep only the input of each block and compute the rest again in the backward pass"
    )
    checkpoint_num_layers: PositiveInt = Field(1, description="blocks recomputed together")
    recompute_num_layers: PositiveInt | None = Field(
        None,
        description="with checkpoint_activations, how many blocks of each pipeline stage are recomputed, the first ones; all by "
        "default. The others keep what they computed: as few as fit in memory are fastest",
    )

    def recomputed_blocks(self, blocks: int) -> int:
        """How many of a stage's blocks are recomputed: the first ones, whose backward pass comes when the others have let go."""
        if not self.checkpoint_activations:
            return 0
        return blocks if self.recompute_num_layers is None else min(self.recompute_num_layers, blocks)


class CheckpointConfig(Section):
    """What is saved, when, and what a run starts from."""

    save: str | None = Field(
        None, description="folder of the checkpoints; a run continues from the newest good one in it"
    )
    load: str | None = Field(
        None, description="folder, or URL of checkpoint_upload, to start from where save holds no checkpoint yet"
    )
    checkpoint_factor: PositiveInt | None = Field(None, description="steps between two checkpoints")
    extra_save_iters: list[NonNegativeInt] = Field([], description="further steps to save at")
    keep_last_n_checkpoints: PositiveInt | None = Field(None, description="older checkpoints than these are removed")
    checkpoint_asynchronous: bool = Field(
        False,
        description="save while training goes on, which waits only for the copy to the host's memory; that much memory is held",
    )
    checkpoint_upload: str | None = Field(
        None,
        description="URL that each checkpoint is copied to in the background: s3://, gs:// or file://; keys come from the environment",
    )
    checkpoint_upload_timeout_seconds: PositiveFloat = Field(
        3600.0,
        description="time that the end of a run waits for the last copy; where it is not there by then, that is said",
    )
    finetune: bool = Field(False, description="take only the weights from load: fresh optimizer, schedule and data")
    allow_data_change: bool = Field(
        False, description="go on although the data or their order are not those of the checkpoint"
    )


class DataConfig(Section):
    """Token files, and how they are split and mixed."""

    data_path: str | None = Field(
        None,
        description="prefix of one .bin/.idx pair, divided by split; the sample data set where no data key is given",
    )
    train_data_paths: list[str] | None = Field(None, description="prefixes of the training data")
    valid_data_paths: list[str] | None = Field(None, description="prefixes of the validation data")
    test_data_paths: list[str] | None = Field(None, description="prefixes of the test data")
    train_data_weights: list[NonNegativeFloat] | None = Field(None, description="share of each training prefix")
    valid_data_weights: list[NonNegativeFloat] | None = Field(None, description="share of each validation prefix")
    test_data_weights: list[NonNegativeFloat] | None = Field(None, description="share of each test prefix")
    train_label_data_paths: list[str] | None = Field(
        None, description="labels of each training prefix: the token to predict, or -100 where nothing is learned"
    )
    valid_label_data_paths: list[str] | None = Field(None, description="labels of each validation prefix")
    test_label_data_paths: list[str] | None = Field(None, description="labels of each test prefix")
    pos_train_data_paths: list[str] | None = Field(
        None, description="prefixes of the preferred answers that dpo trains on, weighed by train_data_weights"
    )
    neg_train_data_paths: list[str] | None = Field(
        None, description="the rejected answers of each such prefix, in the same order"
    )
    pos_valid_data_paths: list[str] | None = Field(None, description="preferred answers for the validation of dpo")
    neg_valid_data_paths: list[str] | None = Field(None, description="rejected answers for the validation of dpo")
    pos_train_label_data_paths: list[str] | None = Field(
        None, description="labels of each prefix of pos_train_data_paths: what is not -100 is the answer"
    )
    neg_train_label_data_paths: list[str] | None = Field(
        None, description="labels of each prefix of neg_train_data_paths"
    )
    pos_valid_label_data_paths: list[str] | None = Field(
        None, description="labels of each prefix of pos_valid_data_paths"
    )
    neg_valid_label_data_paths: list[str] | None = Field(
        None, description="labels of each prefix of neg_valid_data_paths"
    )
    weight_by_num_documents: bool = Field(
        False, description="share of each prefix by its documents, to the power of weighted_sampler_alpha"
    )
    weighted_sampler_alpha: NonNegativeFloat = Field(
        1.0, description="1 keeps the shares of the documents, less gives small prefixes more, 0 makes all equal"
    )
    split: str = Field("969, 30, 1", description="shares of data_path for training, validation and test")
    eod_mask_loss: bool = Field(False, description="leave what follows an end-of-document token out of the loss")
    reset_attention_mask: bool = Field(
        False, description="let a token see its own document only, which ends with an end-of-document token"
    )
    reset_position_ids: bool = Field(False, description="count positions from the beginning of each document")
    pack_impl: Literal["packed", "pack_until_overflow", "unpacked"] = Field(
        "packed",
        description="packed cuts documents to fill samples, pack_until_overflow keeps them whole and fills up with padding, unpacked "
        "gives each a sample of its own",
    )
    allow_chopped: bool = Field(
        True,
        description="cut documents that are longer than a sample, where they are kept whole; false leaves them out",
    )
    fim_rate: Fraction = Field(0.0, description="share of the documents rearranged for fill-in-the-middle")
    fim_spm_rate: Fraction = Field(
        0.5, description="share of these with the suffix first (SPM); the others begin with the prefix"
    )
    fim_split_sample: str | None = Field(
        None, description="token that divides a document, as into files: each of its parts is rearranged for itself"
    )
    fim_fragment_rate: Fraction = Field(
        0.5, description="share of the parts that fim_split_sample gives which are rearranged"
    )
    fim_no_prefix: str | None = Field(None, description="documents or parts that begin with this text stay as they are")
    fim_prefix_token: str = Field("<|fim_prefix|>", description="token before the prefix")
    fim_middle_token: str = Field("<|fim_middle|>", description="token before the middle")
    fim_suffix_token: str = Field("<|fim_suffix|>", description="token before the suffix")
    mlm_mask_prob: Annotated[float, Field(gt=0, le=1)] = Field(
        0.15, description="share of the tokens that mlm chooses to be predicted"
    )
    mlm_same_token_prob: Fraction = Field(0.1, description="share of the chosen tokens that stay as they are")
    mlm_random_token_prob: Fraction = Field(
        0.1, description="share of the chosen tokens that become a random one; the others become mlm_mask_token"
    )
    mlm_mask_token: str = Field("[MASK]", description="token that hides a token, by its name in the tokenizer")
    mmap_warmup: bool = Field(False, description="read the token files once at the start, to fill the page cache")

    @property
    def are_pairs(self) -> bool:
        """Whether a sample is a pair of answers, of which the first is preferred."""
        return self.pos_train_data_paths is not None

    @property
    def training_paths(self) -> list[str] | None:
        """Prefixes of the training data, or of the preferred answers; None where data_path is divided."""
        return self.pos_train_data_paths if self.are_pairs else self.train_data_paths

    @property
    def validation_paths(self) -> list[str] | None:
        """The same for validation."""
        return self.pos_valid_data_paths if self.are_pairs else self.valid_data_paths

    @property
    def masks_loss(self) -> bool:
        """Whether tokens may be left out of the loss."""
        labels = self.train_label_data_paths or self.valid_label_data_paths
        return bool(self.eod_mask_loss or labels or self.pack_impl != "packed" or self.fim_rate)


class TokenizerConfig(Section):
    """How text becomes ids."""

    tokenizer_type: Literal[
        "GPT2BPETokenizer", "HFTokenizer", "CharLevelTokenizer", "SPMTokenizer", "TiktokenTokenizer"
    ] = Field("GPT2BPETokenizer", description="kind of tokenizer")
    vocab_file: str | None = Field(
        None,
        description="vocabulary: vocab.json, tokenizer.json, folder of a Hugging Face tokenizer, .model file, or an encoding's name",
    )
    merge_file: str | None = Field(None, description="merges of GPT2BPETokenizer")


class MonitorConfig(Section):
    """Where metrics go, and how often."""

    log_interval: PositiveInt = Field(100, description="steps between two lines of metrics")
    log_dir: str | None = Field(None, description="folder of metrics.jsonl and the resolved config")
    tensorboard_dir: str | None = Field(None, description="folder of TensorBoard's event files")
    use_wandb: bool = Field(False, description="report to Weights & Biases; offline without a key or a network")
    wandb_project: str = Field("neox", description="project of the run in Weights & Biases")
    wandb_group: str | None = Field(None, description="group of the run in Weights & Biases")
    wandb_team: str | None = Field(None, description="team (entity) of the run in Weights & Biases")
    wandb_run_name: str | None = Field(None, description="name of the run in Weights & Biases")
    wandb_host: str = Field("https://api.wandb.ai", description="address of the Weights & Biases server")
    wandb_mode: Literal["online", "offline"] | None = Field(
        None, description="force Weights & Biases online or offline; chosen by key and network where it is not given"
    )
    peak_theoretical_tflops: PositiveFloat | None = Field(
        None, description="peak of one GPU in TFLOP/s, for the utilization; known GPUs need none"
    )
    wall_clock_breakdown: bool = Field(
        False,
        description="time the parts of a step: the metrics timers/data, forward, backward, optimizer, transfer, in seconds",
    )
    profile: bool = Field(
        False,
        description="record some steps with torch's profiler: a trace of every process in log_dir/profile, a table of where the "
        "time went, and timers/*",
    )
    profile_step_start: PositiveInt = Field(10, description="first step that profile records")
    profile_step_stop: PositiveInt = Field(12, description="first step that profile does not record any more")


class EvaluationConfig(Section):
    """Loss on held-out data during training."""

    eval_interval: PositiveInt = Field(1000, description="steps between two evaluations")
    eval_iters: NonNegativeInt = Field(100, description="global batches of one evaluation; 0 turns it off")


class GenerationConfig(Section):
    """What generate.py writes; serve.py is told by each request."""

    text_gen_type: Literal["unconditional", "input-file", "interactive"] | None = Field(
        None, description="where prompts come from; unconditional where neither it nor sample_input_file is given"
    )
    temperature: NonNegativeFloat = Field(0.0, description="0 takes the likeliest token; higher is more varied")
    top_k: NonNegativeInt = Field(0, description="sample among this many likeliest tokens; 0 means all")
    top_p: Fraction = Field(0.0, description="sample among the likeliest tokens of this total probability; 0 means all")
    maximum_tokens: PositiveInt = Field(64, description="longest continuation, in tokens")
    prompt_end: Annotated[str, Field(min_length=1)] = Field(
        "\n", description="text that ends a prompt in a file or at the terminal"
    )
    sample_input_file: str | None = Field(None, description="file of prompts")
    sample_output_file: str | None = Field(
        None, description="file of the JSON lines; the terminal where it is not given"
    )
    num_samples: PositiveInt = Field(1, description="samples of unconditional generation")
    generation_batch_size: PositiveInt = Field(16, description="texts that are written together, by serve.py too")


class ServingConfig(Section):
    """How serve.py meets the world."""

    serve_host: Annotated[str, Field(min_length=1)] = Field(
        "127.0.0.1", description="address that serve.py listens at; 0.0.0.0 for all of this machine's"
    )
    serve_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        8000, description="port that serve.py listens at; 0 for a free one"
    )
    serve_max_waiting: NonNegativeInt = Field(
        128, description="texts that may wait at serve.py for one of the generation_batch_size to end; more are refused"
    )
    serve_grace_seconds: NonNegativeFloat = Field(
        30.0, description="time for the texts at work to end once serve.py was told to stop"
    )


class LaunchConfig(Section):
    """Where processes start."""

    launcher: Literal["local", "pdsh", "openmpi", "mpich", "slurm", "torchrun"] = Field(
        "local",
        description="how processes are started: on this machine, or on many by ssh, MPI or Slurm; for torchrun the same command is "
        "started on each machine",
    )
    hostfile: str | None = Field(
        None, description="file of hosts, `NAME slots=NUMBER` a line; an absent one is a warning in a local launch"
    )
    include: str | None = Field(None, description="hosts of the hostfile to take, as in worker-0@worker-1:0,2")
    exclude: str | None = Field(None, description="hosts of the hostfile to leave out, in the same form")
    num_nodes: int = Field(-1, description="machines, the first of the hostfile; -1 means all")
    num_gpus: PositiveInt | None = Field(
        None,
        description="processes on each machine, also without a GPU; one for each GPU, or one, where it is not given",
    )
    network_interface: str | None = Field(
        None, description="network interface that the processes talk over, the same on every host, as in eth0"
    )
    launcher_args: list[str] = Field([], description="further arguments of the launcher's own program, one item each")
    account: str | None = Field(None, description="account that Slurm charges")
    comment: str | None = Field(None, description="comment of the Slurm job step")
    gpu: GpuName | None = Field(
        None, description="kind of GPU that the plan counts with, for memory and time; this machine's by default"
    )
    max_restarts: NonNegativeInt = Field(
        0, description="times that a run which failed starts again by itself, from the newest good checkpoint"
    )
    master_addr: str | None = Field(
        None, description="address that the processes meet at; that of the first host where it is not given"
    )
    master_port: Annotated[int, Field(ge=1, le=65_535)] | None = Field(
        None, description="port that the processes meet at; a free one where it is not given, or is busy"
    )


class RunConfig(Section):
    """The run as a whole."""

    seed: NonNegativeInt = Field(1234, description="seed of the initial weights, the data order and dropout")
    distributed_backend: Literal["nccl", "gloo"] | None = Field(
        None, description="how processes talk; nccl with CUDA and gloo without, where it is not given"
    )
    compile_blocks: bool = Field(
        False,
        description="compile the blocks and the loss with torch.compile: faster steps, for half a minute of compiling at the first "
        "start",
    )
    exit_interval: PositiveInt | None = Field(None, description="save and stop after a multiple of this many steps")
    preflight: bool = Field(
        True,
        description="before the first step compare code, versions, clocks and disks of all machines, and try every group of processes",
    )
    start_timeout_seconds: PositiveFloat = Field(
        600.0, description="time for all processes to come together at the start; those that did not are named"
    )
    hang_timeout_seconds: PositiveFloat | None = Field(
        None,
        description="a step, an evaluation or a save that takes longer ends the run, with the stacks of every process",
    )
    deepspeed_extra_args: dict[str, Any] = Field(
        {}, description="DeepSpeed settings that have no key of their own here"
    )


class Config(Section):
    """The whole configuration; only `pretrain`, the rules and the DeepSpeed dict see all of it."""

    model: ModelConfig
    parallel: ParallelConfig
    batch: BatchConfig
    optimization: OptimizerConfig
    precision: PrecisionConfig
    recompute: RecomputeConfig
    checkpoint: CheckpointConfig
    data: DataConfig
    tokenizer: TokenizerConfig
    monitor: MonitorConfig
    evaluation: EvaluationConfig
    generation: GenerationConfig
    serving: ServingConfig
    launch: LaunchConfig
    run: RunConfig
