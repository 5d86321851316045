"""The step-time model against its formulas, worked out by hand."""

from dataclasses import asdict, replace

import pytest

from neox.config.gpus import GPUS
from neox.config.read import config_from_values
from neox.config.sizes import flops_per_token, parameter_counts
from neox.config.step_time import Cluster, all_reduce_bytes, gather_bytes, step_time

VOCAB = 50_257
BASE = {
    "num_layers": 24,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "no_weight_tying": True,
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 8,
    "train_iters": 10,
    "precision": "bf16",
}
CLUSTER = Cluster(GPUS["a100-80gb"], efficiency=0.5)


def time_of(cluster=CLUSTER, **keys):
    return step_time(config_from_values({**BASE, **keys}), VOCAB, cluster)


def test_one_gpu_computes_and_updates():
    config = config_from_values(BASE)
    time = time_of()
    flops = flops_per_token(config.model, VOCAB) * 2 * 8 * 2048
    assert time.products == pytest.approx(flops / (0.5 * 312e12))
    assert (time.tensor_parallel, time.pipeline, time.data_parallel, time.recomputation) == (0, 0, 0, 0)
    # masters and moments read and written, gradient read, weight written
    assert time.optimizer == pytest.approx(parameter_counts(config.model, VOCAB).total * 30 / 2039e9)
    assert time.total == sum(asdict(time).values())


def test_recomputation_is_a_third_more_of_the_blocks():
    time = time_of(checkpoint_activations=True)
    assert time.recomputation == pytest.approx((time.products - _head_seconds()) / 3)


def test_only_some_blocks_are_computed_again():
    whole, some = (time_of(checkpoint_activations=True, **keys) for keys in ({}, {"recompute_num_layers": 6}))
    assert some.recomputation == pytest.approx(whole.recomputation / 4)
    groups = {"model_parallel_size": 4, "global_num_gpus": 4, "checkpoint_activations": True}
    sums = [time_of(**groups, **keys).tensor_parallel for keys in ({}, {"recompute_num_layers": 6})]
    plain = time_of(**{**groups, "checkpoint_activations": False}).tensor_parallel
    assert sums[1] - plain == pytest.approx((sums[0] - plain) / 4)


def _head_seconds():
    return 6 * 50_304 * 4096 * 2 * 8 * 2048 / (0.5 * 312e12)


def test_the_bubble_grows_with_stages_and_shrinks_with_micro_batches():
    def bubble_share(stages, steps):
        time = time_of(num_gpus=stages, pipe_parallel_size=stages, gradient_accumulation_steps=steps)
        return time.pipeline / (time.total - time.data_parallel - time.optimizer)

    assert bubble_share(4, 8) == pytest.approx(3 / 11, rel=0.02)
    assert bubble_share(8, 8) == pytest.approx(7 / 15, rel=0.02)
    assert bubble_share(4, 64) == pytest.approx(3 / 67, rel=0.1)


def test_tensor_parallel_sums_go_through_the_fast_links():
    time = time_of(num_gpus=8, model_parallel_size=8)
    hidden = 2 * 2 * 2048 * 4096
    assert time.tensor_parallel == pytest.approx(8 * 24 * 4 * (2 * 7 / 8) * hidden / 300e9)
    slow = replace(CLUSTER, gpus_per_node=4)
    assert time_of(slow, num_gpus=8, model_parallel_size=8).tensor_parallel == pytest.approx(
        time.tensor_parallel * 300 / CLUSTER.network_gb_per_second
    )


def test_experts_get_their_tokens_and_back():
    keys = {"num_gpus": 8, "moe_num_experts": 8, "moe_expert_interval": 2}
    assert time_of(**keys).expert_parallel == 0
    sent = 8 * 12 * 4 * (7 / 8) * (2 * 2 * 2048 * 4096) / 300e9
    assert time_of(**keys, moe_expert_parallel_size=8).expert_parallel == pytest.approx(sent)
    assert time_of(**keys, moe_expert_parallel_size=8, moe_top_k=2).expert_parallel == pytest.approx(2 * sent)
    # each expert is on one process, so that its gradients are there
    alone, shared = (time_of(**keys, moe_expert_parallel_size=size).data_parallel for size in (1, 8))
    expert_bytes = 2 * 12 * 8 * (8 * 4096**2 + 5 * 4096)
    assert alone - shared == pytest.approx(2 * 7 / 8 * expert_bytes / 300e9)


def test_replicas_reduce_and_gather_as_their_zero_stage_says():
    weights = 2 * parameter_counts(config_from_values(BASE).model, VOCAB).total
    once = 15 / 16 * weights / 25e9
    seconds = [time_of(num_gpus=16, zero_optimization={"stage": stage}).data_parallel for stage in range(3)]
    assert seconds == pytest.approx([2 * once, 3 * once, (8 * 2 + 1) * once])
    third = time_of(num_gpus=16, zero_optimization={"stage": 3})
    assert third.data_parallel == pytest.approx(8 * 3 * once - third.products / 2)
    assert time_of(num_gpus=16, zero_optimization={"stage": 1}).optimizer == pytest.approx(time_of().optimizer / 16)


def test_an_optimizer_on_the_host_is_slower():
    first, offloaded = (
        time_of(num_gpus=2, zero_optimization={"stage": 1, "offload_optimizer": {"device": device}})
        for device in ("none", "cpu")
    )
    assert offloaded.optimizer == pytest.approx(first.optimizer * 2039 / 25)


def test_small_models_wait_for_their_kernels():
    small = {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 32}
    time = time_of(**small, gradient_accumulation_steps=1)
    assert time.products == pytest.approx(3 * 2 * 1e-4, rel=0.02)
    assert time_of(**small, gradient_accumulation_steps=1, zero_optimization={"stage": 3}).products > 5 * time.products


def test_what_a_ring_sends():
    assert gather_bytes(100, 1) == all_reduce_bytes(100, 1) == 0
    assert gather_bytes(100, 4) == 75
    assert all_reduce_bytes(100, 4) == 150
