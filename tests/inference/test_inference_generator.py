import pytest
import torch
from support.counting import Counting

from neox.config.sections import ModelConfig, ParallelConfig
from neox.inference.decoding import Batch
from neox.inference.generator import Generator
from neox.inference.sampling import Sampling
from neox.model.gpt import GPT
from neox.parallel import topology as parallel

VOCAB, POSITIONS = 61, 48
SHAPES = {
    "learned": {"pos_emb": "learned"},
    "rotary": {"pos_emb": "rotary", "rotary_pct": 0.5, "no_weight_tying": True, "gpt_j_residual": True},
    "rmsnorm, swiglu": {"pos_emb": "rotary", "norm": "rmsnorm", "activation": "swiglu", "ffn_hidden_size": 96},
    "local": {"pos_emb": "rotary", "attention_config": [[["local", "global"], 1]], "window_size": 5},
    "no positions": {"pos_emb": "none"},
    # tokens that find an expert full in training find room here, whatever the batch
    "experts": {"pos_emb": "rotary", "moe_num_experts": 4, "moe_top_k": 2, "moe_train_capacity_factor": 0.5},
}
PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], [7], [27, 18, 28], [14, 14, 14, 21]]
SEEDS = [10, 11, 12, 13]


@pytest.fixture(scope="module")
def topology():
    yield parallel.initialize(ParallelConfig(global_num_gpus=1), "gloo")
    parallel.shutdown()


@pytest.fixture(params=SHAPES, scope="module")
def model(request, topology):
    shape = {
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        # wide, so that logits differ enough for rounding not to decide
        "init_method_std": 0.3,
    }
    return GPT(ModelConfig(**shape | SHAPES[request.param]), vocab_size=VOCAB, topology=topology, seed=1)


def generator(model, eod=None, positions=POSITIONS):
    return Generator(Batch(model, vocab_size=VOCAB, max_positions=positions, eod=eod))


def without_cache(model, prompt, count):
    """Greedy continuation, the whole sequence read again for each token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(model(torch.tensor([ids]))[-1, 0, :VOCAB].argmax().item())
    return ids[len(prompt) :]


def test_a_model_that_has_generated_can_be_trained(model):
    generator(model, positions=POSITIONS - 1).generate([[1, 2, 3]], maximum_tokens=2, sampling=Sampling(), seeds=[0])
    model(torch.tensor([[1, 2, 3, 4, 5]]))[..., :VOCAB].logsumexp(-1).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
    model.zero_grad()


def test_cached_and_batched_equals_uncached_one_by_one(model):
    completions = generator(model).generate(PROMPTS, maximum_tokens=20, sampling=Sampling(), seeds=SEEDS)
    assert [c.ids for c in completions] == [without_cache(model, prompt, 20) for prompt in PROMPTS]
    assert len({tuple(c.ids) for c in completions}) == len(PROMPTS), "different prompts, different texts"


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0), Sampling(0.8, 20), Sampling(0, 0, 0.9)])
def test_a_row_does_not_depend_on_its_batch(model, sampling):
    """Also where rows leave the batch early: at the end of their document, and at the last position."""
    one = generator(model, eod=7, positions=30)
    together = one.generate(PROMPTS, maximum_tokens=25, sampling=sampling, seeds=SEEDS)
    alone = [
        one.generate([prompt], maximum_tokens=25, sampling=sampling, seeds=[seed])[0]
        for prompt, seed in zip(PROMPTS, SEEDS)
    ]
    assert together == alone


def test_second_call_knows_nothing_of_the_first(model):
    one = generator(model)
    first = one.generate([[5, 6]], maximum_tokens=8, sampling=Sampling(1.0), seeds=[3])
    one.generate([[9] * 12], maximum_tokens=8, sampling=Sampling(1.0), seeds=[4])
    assert one.generate([[5, 6]], maximum_tokens=8, sampling=Sampling(1.0), seeds=[3]) == first
    assert one.generate([[5, 6]], maximum_tokens=8, sampling=Sampling(1.0), seeds=[4]) != first


def test_ends_at_the_end_of_the_document():
    [completion] = generator(Counting(VOCAB), eod=9).generate([[5]], maximum_tokens=20, sampling=Sampling(), seeds=[0])
    assert (completion.ids, completion.finished, completion.message) == ([6, 7, 8], True, None)


def test_ends_at_maximum_tokens():
    [completion] = generator(Counting(VOCAB), eod=9).generate([[1]], maximum_tokens=3, sampling=Sampling(), seeds=[0])
    assert (completion.ids, completion.finished, completion.message) == ([2, 3, 4], False, None)


def test_ends_at_the_last_position_and_says_so():
    prompts = [[0, 0, 1], [7]]
    short, long = generator(Counting(VOCAB), positions=5).generate(
        prompts, maximum_tokens=4, sampling=Sampling(), seeds=[0, 0]
    )
    assert (short.ids, short.finished) == ([2, 3], False)
    assert short.message == "stopped at the last of the model's 5 positions"
    assert (long.ids, long.message) == ([8, 9, 10, 11], None)


def test_a_prompt_that_fills_all_positions_is_told_and_the_others_go_on():
    full, other = generator(Counting(VOCAB), positions=5).generate(
        [[1] * 7, [1]], maximum_tokens=2, sampling=Sampling(), seeds=[0, 0]
    )
    assert full.ids == []
    assert full.message == "nothing was generated: the prompt has 7 tokens, and the model 5 positions"
    assert other.ids == [2, 3]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(3.0), Sampling(1.0, 5, 0.5)])
def test_padded_ids_are_never_chosen(sampling):
    [completion] = generator(Counting(VOCAB)).generate([[1]], maximum_tokens=20, sampling=sampling, seeds=[0])
    assert len(completion.ids) == 20
    assert max(completion.ids) < VOCAB
