"""Large models as keys, for what can be reckoned without building them."""

# as published: 96 A100 of 40 GB (Black et al. 2022)
NEOX_20B = {
    "num_layers": 44,
    "hidden_size": 6144,
    "num_attention_heads": 64,
    "max_position_embeddings": 2048,
    "pos_emb": "rotary",
    "rotary_pct": 0.25,
    "gpt_j_residual": True,
    "no_weight_tying": True,
    "precision": "bf16",
    "zero_optimization": {"stage": 1},
    "model_parallel_size": 2,
    "pipe_parallel_size": 4,
    "global_num_gpus": 96,
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 32,
    "checkpoint_activations": True,
    "train_iters": 150_000,
}
