"""Rows that join and leave a batch at any moment get what each of them gets alone."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neox.config.sections import ModelConfig, ParallelConfig
from neox.inference.decoding import Batch, Row
from neox.inference.sampling import Sampling
from neox.model.gpt import GPT
from neox.parallel import topology as parallel

VOCAB, POSITIONS, EOD = 61, 40, 7
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 10}
SHAPES = {
    "learned": {"pos_emb": "learned"},
    "local": {"pos_emb": "rotary", "attention_config": [[["local", "global"], 1]], "window_size": 5},
    # the angles of a row depend on how long it is
    "dynamic": {"pos_emb": "rotary", "rope_scaling": DYNAMIC, "num_kv_heads": 2},
    "alibi": {"pos_emb": "alibi"},
    "relative": {"pos_emb": "rpe", "rpe_num_buckets": 6, "rpe_max_distance": 8},
    "experts": {"pos_emb": "rotary", "moe_num_experts": 4, "moe_top_k": 2},
}
# prompt, limit, sampling, seed: as different as they may be
REQUESTS = [
    ([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], 29, Sampling(), 0),
    ([7], 39, Sampling(1.0), 1),
    ([27, 18, 28], 1, Sampling(1.0), 2),
    ([14, 14, 14, 21], 20, Sampling(0.7, 5), 3),
    (list(range(39)), 1, Sampling(0.0, 0, 0.9), 4),
    (list(range(30)), 10, Sampling(2.0, 30, 0.8), 5),
    ([14, 14, 14, 21], 20, Sampling(0.7, 5), 6),
]


@pytest.fixture(scope="module")
def topology():
    yield parallel.initialize(ParallelConfig(global_num_gpus=1), "gloo")
    parallel.shutdown()


@pytest.fixture(params=SHAPES, scope="module")
def batch(request, topology):
    shape = {
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        # wide, so that logits differ enough for rounding not to decide
        "init_method_std": 0.3,
    }
    model = GPT(ModelConfig(**shape | SHAPES[request.param]), vocab_size=VOCAB, topology=topology, seed=1)
    return Batch(model, vocab_size=VOCAB, max_positions=POSITIONS, eod=EOD)


@pytest.fixture(scope="module")
def alone(batch):
    """What a request gets when it is the only one: ids, and whether the model ended them."""

    @cache
    def of(number):
        row = Row(*REQUESTS[number])
        batch.join([row])
        while batch.rows:
            batch.step()
        return row.ids, row.finished

    return of


# numbers of requests that join together; -1 for a step, -2 for that one of the rows is dropped
moments = st.one_of(
    st.lists(st.integers(0, len(REQUESTS) - 1), min_size=1, max_size=3), st.just(-1), st.just(-1), st.just(-2)
)


@settings(max_examples=25)
@given(schedule=st.lists(moments, min_size=5, max_size=40), random=st.randoms(use_true_random=False))
def test_a_row_gets_what_it_gets_alone(batch, alone, schedule, random):
    """Token for token, whoever joins and leaves; the cache asserts that it holds no more columns than the model has positions."""
    asked, dropped = {}, []
    expected = {number: alone(number) for number in range(len(REQUESTS))}
    for moment in [*schedule, *[-1] * POSITIONS]:
        if moment == -1 and batch.rows:
            batch.step()
        elif moment == -2 and batch.rows:
            dropped.append(random.choice(batch.rows))
            batch.drop(dropped)
        elif isinstance(moment, list):
            rows = {Row(*REQUESTS[number]): number for number in moment}
            asked |= rows
            batch.join(list(rows))
    assert batch.rows == []
    for row, number in asked.items():
        ids, finished = expected[number]
        if row in dropped:
            assert row.ids == ids[: len(row.ids)]
        else:
            assert (row.ids, row.finished) == (ids, finished)


def test_some_of_them_end_by_themselves_and_others_do_not(alone):
    """Else the test above would say less than it seems to."""
    ends = {alone(number)[1] for number in range(len(REQUESTS))}
    assert False in ends
    texts = [tuple(alone(number)[0]) for number in range(len(REQUESTS))]
    assert len(set(texts)) == len(texts)
