import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neox.inference.sampling import Sampling, distribution, draw, sample

values = st.floats(-30, 30, allow_nan=False, width=32)
batches = (
    st.integers(1, 3)
    .flatmap(
        lambda rows: st.integers(1, 12).flatmap(
            lambda vocab: st.lists(st.lists(values, min_size=vocab, max_size=vocab), min_size=rows, max_size=rows)
        )
    )
    .map(torch.tensor)
)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.integers(0, 15),
    top_p=st.sampled_from([0.0, 1e-9, 0.2, 0.5, 0.9, 0.999999, 1.0]),
)
unit = st.floats(0, 1, exclude_max=True)


@given(batches, samplings)
def test_top_k_and_top_p_keep_the_likeliest_and_their_proportions(logits, sampling):
    plain = torch.softmax(logits.double() / (sampling.temperature or 1.0), dim=-1)
    kept = distribution(logits, sampling)
    assert torch.allclose(kept.sum(-1), torch.ones(len(logits), dtype=torch.float64))
    for before, after in zip(plain, kept):
        stays = after > 0
        assert stays.any()
        if sampling.top_k:
            assert stays.sum() <= sampling.top_k
        possible = before > 0
        if (possible & ~stays).any():
            assert before[stays].min() >= before[~stays].max() - 1e-15
        # proportions among those that stay are those of the softmax
        assert torch.allclose(after[stays], before[stays] / before[stays].sum(), rtol=1e-9)


@given(batches, st.sampled_from([0.1, 0.5, 0.9]))
def test_top_p_is_the_smallest_set_that_reaches_it(logits, top_p):
    plain = torch.softmax(logits.double(), dim=-1)
    kept = distribution(logits, Sampling(top_p=top_p))
    for before, after in zip(plain, kept):
        chosen = before[after > 0]
        assert chosen.sum() >= top_p - 1e-12
        assert chosen.sum() - chosen.min() < top_p + 1e-12, "without the last one it is not reached"


@given(batches, samplings, st.lists(unit, min_size=3, max_size=3))
def test_only_possible_tokens_are_drawn(logits, sampling, numbers):
    probabilities = distribution(logits, sampling)
    uniforms = torch.tensor(numbers[: len(logits)], dtype=torch.float64)
    chosen = draw(probabilities, uniforms)
    assert (probabilities.gather(-1, chosen.unsqueeze(-1)) > 0).all()


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
def test_no_rounding_leads_to_an_impossible_token(number):
    # zeros at both ends and in the middle, and parts whose sums are not exact in binary
    probabilities = torch.tensor([[0.0, 0.1, 0.0, 0.2, 0.3, 0.4, 0.0, 0.0]], dtype=torch.float64)
    [chosen] = draw(probabilities, torch.tensor([number], dtype=torch.float64))
    assert probabilities[0, chosen] > 0


def test_draws_follow_the_distribution():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    count = 20_000
    uniforms = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chosen = sample(logits.expand(count, 4), Sampling(temperature=1.0), uniforms)
    shares = torch.bincount(chosen, minlength=4) / count
    assert torch.allclose(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.012)


def test_temperature_sharpens():
    logits = torch.tensor([[1.0, 2.0]])
    cold, warm = (distribution(logits, Sampling(temperature=t))[0, 1] for t in (0.5, 2.0))
    assert cold == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item())
    assert warm == pytest.approx(torch.sigmoid(torch.tensor(0.5)).item())


def test_greedy_only_where_nothing_is_set():
    logits = torch.tensor([[0.0, 1.0, 0.9]])
    last = torch.tensor([1 - 1e-9], dtype=torch.float64)
    assert Sampling().greedy
    assert sample(logits, Sampling(), last).tolist() == [1]
    # temperature 0 with top_k is temperature 1, as in gpt-neox: the number decides between the two likeliest
    assert sample(logits, Sampling(top_k=2), last).tolist() == [2]
    assert sample(logits, Sampling(top_k=2), torch.zeros(1, dtype=torch.float64)).tolist() == [1]
    assert sample(logits, Sampling(top_p=0.9999), last).tolist() == [2]


def test_exactly_k_stay_where_logits_are_equal():
    kept = distribution(torch.zeros(1, 10), Sampling(top_k=3))
    assert (kept > 0).sum() == 3
