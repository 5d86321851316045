"""The plan's memory: against arithmetic done by hand, and against what the model really keeps for its backward pass."""

import pytest
import torch
from support.models import topology_of
from torch.autograd.graph import saved_tensors_hooks

from neox.config.memory import memory, stage_memory
from neox.config.read import config_from_values
from neox.config.sizes import flops_per_token, parameter_counts, stage_experts, stage_parameters
from neox.model import kernels
from neox.model.gpt import GPT
from neox.model.loss import cross_entropy

VOCAB = 512
BASE = {
    "num_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "no_weight_tying": True,
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 2,
    "train_iters": 10,
}


def config_of(**keys):
    return config_from_values({**BASE, **keys})


def memory_of(**keys):
    return memory(config_of(**keys), VOCAB)


def zero(stage, **settings):
    return {"stage": stage, "reduce_bucket_size": 1000, **settings}


def test_one_replica_has_nothing_to_divide():
    for precision in ({}, {"bf16": {}}):
        plain = memory_of(num_gpus=1, zero_optimization=zero(0), **precision)
        assert all(memory_of(num_gpus=1, zero_optimization=zero(stage), **precision) == plain for stage in (1, 2, 3))
        offloaded = zero(1, offload_optimizer={"device": "cpu"})
        assert memory_of(num_gpus=1, zero_optimization=offloaded, **precision).optimizer == 0


def test_one_replica_adds_up_gradients_in_fp32():
    parameters = parameter_counts(config_of().model, VOCAB).total
    assert memory_of(num_gpus=1, bf16={}).gradients == memory_of(num_gpus=1).gradients == 4 * parameters


def test_frozen_weights_have_no_state():
    lora = {"lora_rank": 4, "lora_targets": ["query_key_value", "dense_4h_to_h"]}
    counts = parameter_counts(config_of(**lora).model, VOCAB)
    # (outputs + inputs) of two layers in each of 4 blocks
    assert counts.trainable == counts.total - parameter_counts(config_of().model, VOCAB).total == 4 * 4 * 576
    parts = memory_of(num_gpus=2, bf16={}, **lora)
    found = (parts.weights, parts.gradients, parts.optimizer)
    assert found == (2 * counts.total, 4 * counts.trainable, 12 * counts.trainable)
    assert memory_of(num_gpus=2, bf16={}, zero_optimization=zero(1), **lora).optimizer == 6 * counts.trainable
    # what every process of the group holds: inputs of the first layer, outputs of the other
    config = config_of(num_gpus=2, model_parallel_size=2, **lora)
    assert memory(config, VOCAB).optimizer == 8 * 4 * 4 * (192 // 2 + 64 + 256 // 2 + 64)


def test_a_reference_takes_the_memory_of_the_weights():
    pairs = {"train_impl": "dpo", "pos_train_data_paths": ["a"], "neg_train_data_paths": ["b"], "pack_impl": "unpacked"}
    pairs |= {"load": "there", "finetune": True, "eval_iters": 0, "tokenizer_type": "CharLevelTokenizer", "num_gpus": 2}
    plain = memory_of(bf16={}, num_gpus=2, train_micro_batch_size_per_gpu=4)
    free = memory_of(bf16={}, dpo_reference_free=True, **pairs)
    compared, zero3 = (memory_of(bf16={}, zero_optimization=zero(stage), **pairs) for stage in (0, 3))
    assert free == plain, "a pair is two rows"
    assert compared.weights == 2 * plain.weights and compared.peak - plain.peak == plain.weights
    assert zero3.weights == plain.weights, "the reference is divided like the model"
    lora = {"lora_rank": 4}
    assert memory_of(bf16={}, **pairs, **lora).weights == memory_of(bf16={}, num_gpus=2, **lora).weights
    flops = [
        flops_per_token(config_of(**keys).model, VOCAB) for keys in ({}, pairs, pairs | {"dpo_reference_free": True})
    ]
    assert flops[1] == pytest.approx(flops[0] * 8 / 6) and flops[2] == flops[0]


def test_the_state_follows_zero_and_precision():
    parameters = parameter_counts(config_of().model, VOCAB).total
    plain = memory_of(num_gpus=4)
    assert (plain.weights, plain.gradients, plain.optimizer) == (4 * parameters, 4 * parameters, 8 * parameters)
    half = [memory_of(num_gpus=4, bf16={}, zero_optimization=zero(stage)) for stage in range(4)]
    shard = -(-parameters // 4)
    assert [parts.weights for parts in half] == [2 * parameters] * 3 + [2 * shard]
    assert [parts.optimizer for parts in half] == [12 * parameters] + [12 * shard] * 3
    assert [parts.gradients for parts in half] == [4 * parameters] * 2 + [4 * shard] * 2
    # with nothing to add up, at stage 2 a process reduces all of each tensor that it updates a part of
    second, third = (
        memory_of(num_gpus=4, bf16={}, gradient_accumulation_steps=1, zero_optimization=zero(stage)) for stage in (2, 3)
    )
    assert 2 * shard <= second.gradients <= 2 * (shard + VOCAB * 64)
    assert third.gradients == 2 * shard
    # in fp32 the weights are their own masters, until ZeRO divides them
    assert memory_of(num_gpus=4, zero_optimization=zero(1)).optimizer == 12 * shard
    assert memory_of(optimizer={"type": "SGD"}).optimizer == 0
    assert memory_of(optimizer={"type": "SGD", "params": {"momentum": 0.9}}).optimizer == 4 * parameters


def test_experts_are_shared_before_zero_divides_the_rest():
    mixture = {"num_gpus": 4, "moe_num_experts": 8, "moe_top_k": 2}
    whole, shared = (config_of(**mixture, moe_expert_parallel_size=size, zero_optimization=zero(1)) for size in (1, 2))
    experts, parameters = stage_experts(whole, 0), stage_parameters(whole, VOCAB, 0)
    assert memory(whole, VOCAB).weights - memory(shared, VOCAB).weights == 4 * experts / 2
    # half the experts, of which two replicas each update a half: as much as a quarter of all of them
    assert (
        memory(whole, VOCAB).optimizer == memory(shared, VOCAB).optimizer == pytest.approx(12 * parameters / 4, abs=12)
    )
    # a token is kept for each of its experts
    assert memory_of(**mixture).activations > memory_of(num_gpus=4).activations


def test_what_is_offloaded_is_not_on_the_gpu():
    host = {"device": "cpu"}
    second = memory_of(num_gpus=4, zero_optimization=zero(2, offload_optimizer=host))
    assert (second.optimizer, second.gradients) == (0, 0)
    second = memory_of(num_gpus=4, bf16={}, zero_optimization=zero(2, offload_optimizer=host))
    summed = parameter_counts(config_of().model, VOCAB).total  # in fp32, a quarter of them
    assert (second.optimizer, second.gradients) == (0, summed)
    assert second.weights == memory_of(num_gpus=4, bf16={}, zero_optimization=zero(2)).weights
    third = memory_of(num_gpus=4, bf16={}, zero_optimization=zero(3, offload_optimizer=host, offload_param=host))
    assert third.state == 0 < third.communication
    kept = memory_of(num_gpus=4, bf16={}, zero_optimization=zero(2, offload_optimizer={"device": "none"}))
    assert kept.optimizer > 0


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"gradient_accumulation_steps": 1},
        {"bf16": {}, "num_gpus": 2},
        {"checkpoint_activations": True, "checkpoint_num_layers": 2},
        {"checkpoint_activations": True, "recompute_num_layers": 3},
        {"num_gpus": 2, "pipe_parallel_size": 2},
        {"num_gpus": 4, "zero_optimization": zero(2), "gradient_accumulation_steps": 1},
        {"num_gpus": 4, "zero_optimization": zero(3)},
        {"num_gpus": 4, "zero_optimization": zero(2, offload_optimizer={"device": "cpu"})},
        {"num_gpus": 2, "model_parallel_size": 2, "sequence_parallel": True},
    ],
)
def test_the_parts_add_up(keys):
    parts = memory_of(**keys)
    assert parts.total == sum(parts.parts().values()) == parts.peak + parts.margin
    assert parts.not_at_once <= 0 <= min(size for name, size in parts.parts().items() if name != "not_at_once")
    assert parts.peak >= parts.weights + parts.optimizer


def test_the_fullest_stage_counts():
    config = config_of(num_gpus=2, pipe_parallel_size=2, gradient_accumulation_steps=8)
    stages = [stage_memory(config, VOCAB, stage) for stage in range(2)]
    assert memory(config, VOCAB) == max(stages, key=lambda stage: stage.total)
    assert stages[0].weights == 4 * stage_parameters(config, VOCAB, 0)
    # two micro-batches are under way on the first stage, one on the last
    assert stages[0].logits == 0 < stages[1].logits
    assert stages[0].activations > 1.5 * stages[1].activations


def test_buckets_are_as_large_as_they_are_told():
    small, large = (
        memory_of(
            num_gpus=2, bf16={}, gradient_accumulation_steps=1, zero_optimization=zero(1, reduce_bucket_size=size)
        )
        for size in (1000, 501_000)
    )
    assert large.communication - small.communication == 2 * 500_000
    twice = memory_of(num_gpus=2, bf16={}, gradient_accumulation_steps=1, zero_optimization=zero(1, overlap_comm=True))
    assert twice.communication == 2 * small.communication


def test_on_a_gpu_the_loss_works_on_more_at_a_time():
    config = config_of()
    assert memory(config, 50_257, on_gpu=True).logits > memory(config, 50_257, on_gpu=False).logits


def kept_bytes(config) -> int:
    """Bytes of the tensors, weights aside, that a forward pass of the real model and its loss keep."""
    model = config.model
    precision = {"fp32": torch.float32, "bf16": torch.bfloat16}[config.precision.precision]
    gpt = GPT(model, vocab_size=VOCAB, topology=topology_of(), recompute=config.recompute, seed=1).to(precision)
    weights = {weight.untyped_storage().data_ptr() for weight in gpt.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.zeros(config.batch.train_micro_batch_size_per_gpu, model.seq_length, dtype=torch.int64)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = gpt(tokens)
        loss = cross_entropy(logits, tokens, torch.ones(tokens.shape), vocab_size=VOCAB, topology=topology_of())
    assert loss.requires_grad  # the graph is alive, and with it what was kept
    return sum(kept.values())


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"train_micro_batch_size_per_gpu": 1},
        {"pos_emb": "rotary", "gpt_j_residual": True},
        {"activation": "swiglu", "ffn_hidden_size": 160},
        {"bf16": {}, "pos_emb": "rotary"},
        {"num_attention_heads": 1},
        {"seq_length": 16, "ffn_hidden_size": 100},
    ],
    ids=str,
)
def test_a_block_keeps_what_the_plan_says(keys, monkeypatch):
    """Two models that differ by two blocks: what these keep, planned and real."""
    monkeypatch.setattr(kernels, "SHORT_SEQUENCE", 0)  # the plan counts what a GPU keeps
    shallow, deep = (config_of(**keys, num_layers=layers) for layers in (2, 4))
    planned = memory(deep, VOCAB).activations - memory(shallow, VOCAB).activations
    assert planned == pytest.approx(kept_bytes(deep) - kept_bytes(shallow), rel=0.03)


def test_recomputation_keeps_the_inputs_of_its_groups():
    def activations(**keys):
        return memory_of(checkpoint_activations=True, **keys).activations

    hidden = 4 * 2 * 32 * 64
    assert activations(num_layers=8) - activations(num_layers=4) == 4 * hidden
    # in groups of two there are half as many inputs, and twice as much to recompute
    pair = {"checkpoint_num_layers": 2}
    assert activations(num_layers=8, **pair) - activations(num_layers=4, **pair) == 2 * hidden
    assert activations(num_layers=4) < activations(num_layers=4, **pair) < memory_of(num_layers=4).activations


def test_the_fewer_blocks_are_recomputed_the_more_is_kept():
    sizes = [memory_of(num_layers=8).activations]
    for blocks in range(1, 9):
        sizes.append(memory_of(num_layers=8, checkpoint_activations=True, recompute_num_layers=blocks).activations)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == memory_of(num_layers=8, checkpoint_activations=True).activations
    # each block but the one that goes backward keeps its input alone
    block, hidden = sizes[0] - memory_of(num_layers=7).activations, 4 * 2 * 32 * 64
    assert sizes[0] - sizes[4] == 4 * (block - hidden)


def test_the_model_keeps_what_the_blocks_that_are_not_recomputed_need():
    some, all_of_them = (
        config_of(num_layers=4, checkpoint_activations=True, recompute_num_layers=blocks) for blocks in (1, 3)
    )
    planned = memory(some, VOCAB).activations - memory(all_of_them, VOCAB).activations
    assert planned == pytest.approx(kept_bytes(some) - kept_bytes(all_of_them), rel=0.03)
