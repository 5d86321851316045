"""The search for layouts: what it may propose, and that it beats what is published."""

from dataclasses import replace

import pytest
from support.shapes import NEOX_20B

from neox.config.gpus import GPUS
from neox.config.read import config_from_values
from neox.config.step_time import Cluster
from neox.launch.search import candidates, divisors, keeps_rules, reckon, search

VOCAB = 50_277
A100, H100 = Cluster(GPUS["a100-40gb"]), Cluster(GPUS["h100-80gb"])
SMALL = {"num_layers": 8, "global_num_gpus": 16, "pipe_parallel_size": 2}
GPT3 = {
    **NEOX_20B,
    "num_layers": 96,
    "hidden_size": 12_288,
    "num_attention_heads": 96,
    "rotary_pct": 1.0,
    "gpt_j_residual": False,
    "global_num_gpus": 1024,
    "model_parallel_size": 8,
    "pipe_parallel_size": 16,
    "sequence_parallel": True,
    "train_micro_batch_size_per_gpu": 1,
    "gradient_accumulation_steps": 192,
}


def test_20b_on_96_a100_is_at_least_as_fast_as_published():
    published = config_from_values(NEOX_20B)
    found = search(published, VOCAB, A100)
    own = reckon(published, VOCAB, A100)
    best = found.fitting[0]
    assert best.tokens_per_second >= own.tokens_per_second
    assert best.memory.total <= 40 * 2**30
    speeds = [layout.tokens_per_second for layout in found.fitting]
    assert speeds == sorted(speeds, reverse=True)
    assert own.config in [layout.config for layout in found.fitting], "the published layout is among them"


@pytest.mark.long
def test_175b_fits_1024_h100():
    config = config_from_values(GPT3)
    best = search(config, VOCAB, H100).fitting[0]
    assert best.memory.total <= H100.gpu.memory_bytes
    assert best.config.parallel.world_size == 1024
    # as it is, on one GPU for each replica, it does not
    alone = config_from_values(
        {**GPT3, "model_parallel_size": 1, "pipe_parallel_size": 1, "sequence_parallel": False, "train_batch_size": 1536, "gradient_accumulation_steps": None, "global_num_gpus": 512, "train_micro_batch_size_per_gpu": 1}
    )  # fmt: skip
    assert reckon(alone, VOCAB, H100).memory.total > H100.gpu.memory_bytes


def test_candidates_are_configurations_that_load():
    """Each survives the whole way from keys to a checked configuration, with the same batch."""
    config = config_from_values({**NEOX_20B, **SMALL, "sequence_parallel": True})
    tried = list(candidates(config, VOCAB, gpus_per_node=4))
    layouts = {(c.parallel.tensor_size, c.parallel.pipe_size, c.optimization.zero_stage) for c in tried}
    # ZeRO 2 and 3 want no pipeline, and a pipeline wants ZeRO 1
    assert {tensor for tensor, _, _ in layouts} == {1, 2, 4}
    assert {(stages > 1, zero) for _, stages, zero in layouts} == {
        (False, 0),
        (False, 1),
        (False, 2),
        (False, 3),
        (True, 1),
    }
    for candidate in tried[:: len(tried) // 40]:
        assert candidate.batch.train_batch_size == config.batch.train_batch_size
        keys = {
            **NEOX_20B,
            **SMALL,
            "model_parallel_size": candidate.parallel.tensor_size,
            "pipe_parallel_size": candidate.parallel.pipe_size,
            "sequence_parallel": candidate.parallel.sequence_parallel,
            "zero_optimization": {"stage": candidate.optimization.zero_stage},
            "train_batch_size": config.batch.train_batch_size,
            "train_micro_batch_size_per_gpu": candidate.batch.train_micro_batch_size_per_gpu,
            "gradient_accumulation_steps": candidate.batch.gradient_accumulation_steps,
            "checkpoint_activations": candidate.recompute.checkpoint_activations,
        }
        assert config_from_values(keys) == candidate


def test_a_tensor_group_stays_on_its_machine():
    config = config_from_values(NEOX_20B)
    for most in (1, 4, 8):
        assert max(c.parallel.tensor_size for c in candidates(config, VOCAB, most)) == most


def test_the_vocabulary_is_shared_evenly():
    config = config_from_values({**NEOX_20B, "make_vocab_size_divisible_by": 1, "model_parallel_size": 1})
    assert keeps_rules(config, VOCAB)
    assert {c.parallel.tensor_size for c in candidates(config, VOCAB, 8)} == {1}  # 50,277 is odd


def test_less_memory_leaves_fewer_layouts():
    config = config_from_values({**NEOX_20B, **SMALL})
    small = replace(A100, gpu=replace(A100.gpu, memory_gib=12))
    roomy, tight = search(config, VOCAB, A100), search(config, VOCAB, small)
    assert roomy.tried == tight.tried
    assert 0 < len(tight.fitting) < len(roomy.fitting)
    nothing = search(config, VOCAB, replace(A100, gpu=replace(A100.gpu, memory_gib=1)))
    assert not nothing.fitting
    assert nothing.smallest.memory.total == min(layout.memory.total for layout in [*tight.fitting, nothing.smallest])


def test_as_few_blocks_are_recomputed_as_fit():
    config = config_from_values({**NEOX_20B, **SMALL})
    some = [layout for layout in search(config, VOCAB, A100).fitting if layout.config.recompute.recompute_num_layers]
    assert some
    for layout in some[:: max(1, len(some) // 10)]:
        recompute = layout.config.recompute
        fewer = recompute.model_copy(update={"recompute_num_layers": recompute.recompute_num_layers - 1})
        if recompute.recompute_num_layers == 1:
            fewer = recompute.model_copy(update={"checkpoint_activations": False, "recompute_num_layers": None})
        more = reckon(layout.config.model_copy(update={"recompute": fewer}), VOCAB, A100)
        assert layout.fits(A100.gpu) and not more.fits(A100.gpu)
        assert layout.keys["recompute_num_layers"] == recompute.recompute_num_layers


@pytest.mark.parametrize(("number", "most", "expected"), [(12, 8, [1, 2, 3, 4, 6]), (1, 8, [1]), (7, 3, [1])])
def test_divisors(number, most, expected):
    assert divisors(number, most) == expected
