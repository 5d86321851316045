"""Attention against a plain softmax in float64, and generation with a cache against none."""

import pytest
import torch
from support.models import SEQ, VOCAB, batch, small, topology_of

from neox.model.attention import Attention
from neox.model.gpt import GPT
from neox.model.initializers import initialize_weights
from neox.model.linear import Sharding
from neox.model.positions import rotary_tables, split_heads

WINDOW = 5
MODELS = {
    "learned": small(),
    "rotary": small(pos_emb="rotary", rotary_pct=0.5, gpt_j_residual=True),
    "local": small(pos_emb="rotary", attention_config=[[["global", "local"], 1]], window_size=WINDOW),
}


def plain_attention(attention: Attention, hidden: torch.Tensor) -> torch.Tensor:
    """The same attention without positions, written out in float64; (seq, batch, hidden)."""
    seq, rows, _ = hidden.shape
    weights = {name: parameter.detach().double() for name, parameter in attention.named_parameters()}
    packed = hidden.double() @ weights["query_key_value.weight"].T + weights["query_key_value.bias"]
    queries, keys, values = packed.view(seq, rows, attention.heads, 3, attention.head_dim).unbind(3)
    scores = torch.einsum("ibnd,jbnd->bnij", queries, keys) / attention.head_dim**0.5
    for i in range(seq):
        for j in range(seq):
            if not (0 <= i - j < (attention.window or seq)):
                scores[:, :, i, j] = -torch.inf
    mixed = torch.einsum("bnij,jbnd->ibnd", scores.softmax(-1), values).reshape(seq, rows, -1)
    return mixed @ weights["dense.weight"].T + weights["dense.bias"]


@pytest.mark.parametrize("kind", ["global", "local"])
@pytest.mark.parametrize("window", [1, WINDOW, SEQ, 2 * SEQ])
def test_equals_a_plain_softmax(kind: str, window: int) -> None:
    model = small(window_size=window, init_method_std=0.5)
    attention = Attention(model, layer=0, kind=kind, sharding=Sharding(topology_of()))
    initialize_weights(attention, model=model, seed=0, index=1, topology=topology_of())
    hidden = torch.randn(SEQ, 3, 32, generator=torch.Generator().manual_seed(1))
    expected = plain_attention(attention, hidden)
    torch.testing.assert_close(attention(hidden).double(), expected, rtol=1e-5, atol=1e-5)


def test_rotation_is_undone_in_the_backward_pass() -> None:
    cos, sin = (table[None, None] for table in rotary_tables(3, 4, 10_000, torch.device("cpu")))
    packed = torch.randn(3, 1, 2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    packed.requires_grad_()
    # fp32 inside, hence the tolerances
    assert torch.autograd.gradcheck(split_heads, (packed, cos, sin), eps=1e-2, atol=1e-4, rtol=1e-4)
    assert torch.autograd.gradcheck(split_heads, (packed, None, None))
    *turned, values = split_heads(packed.detach(), cos, sin)
    *plain, plain_values = packed.detach().permute(3, 1, 2, 0, 4)
    assert torch.equal(values, plain_values), "values do not turn"
    for rotated, unrotated in zip(turned, plain):
        assert torch.equal(rotated[..., 4:], unrotated[..., 4:]), "nor do the dimensions beyond rotary_pct"
        assert not torch.allclose(rotated[:, :, 1:, :4], unrotated[:, :, 1:, :4])


def test_angles_stay_fp32_in_a_bf16_model() -> None:
    gpt = GPT(MODELS["rotary"], vocab_size=VOCAB, topology=topology_of(), seed=3).bfloat16()
    tokens, _, _ = batch()
    assert gpt(tokens).dtype == torch.bfloat16
    cos, _ = rotary_tables(SEQ, 4, 10_000, torch.device("cpu"))
    assert cos.dtype == torch.float32


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_cached_equals_uncached(model) -> None:
    gpt = GPT(model, vocab_size=VOCAB, topology=topology_of(), seed=3).eval()
    tokens, _, _ = batch()
    cache = gpt.new_cache(batch_size=4, max_length=SEQ)
    # a prompt, single tokens, and several at once
    pieces = [tokens[:, :6], *tokens[:, 6:11].split(1, dim=1), tokens[:, 11:]]
    logits = torch.cat([gpt(piece, cache) for piece in pieces])
    assert cache.length == SEQ
    torch.testing.assert_close(logits, gpt(tokens), rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_padded_rows_equal_rows_alone(model) -> None:
    gpt = GPT(model, vocab_size=VOCAB, topology=topology_of(), seed=3).eval()
    tokens, _, _ = batch()
    padding = torch.tensor([0, 3, 1, 7])
    padded = torch.zeros(4, SEQ, dtype=torch.int64)
    for row, pad in enumerate(padding.tolist()):
        padded[row, pad:] = tokens[row, : SEQ - pad]
    cache = gpt.new_cache(4, SEQ, padding=padding)
    logits = torch.cat([gpt(piece, cache) for piece in (padded[:, :8], *padded[:, 8:].split(1, dim=1))])
    for row, pad in enumerate(padding.tolist()):
        alone = gpt(tokens[row : row + 1, : SEQ - pad])[:, 0]
        torch.testing.assert_close(logits[pad:, row], alone, rtol=0, atol=1e-6)


@torch.no_grad()
def test_rows_that_have_finished_leave_the_cache() -> None:
    gpt = GPT(MODELS["rotary"], vocab_size=VOCAB, topology=topology_of(), seed=3).eval()
    tokens, _, _ = batch()
    cache = gpt.new_cache(4, SEQ, padding=torch.tensor([0, 2, 0, 1]))
    gpt(tokens[:, :8], cache)
    kept = torch.tensor([1, 3])
    other = gpt.new_cache(2, SEQ, padding=torch.tensor([2, 1]))
    gpt(tokens[kept, :8], other)
    cache.keep_rows(kept)
    torch.testing.assert_close(gpt(tokens[kept, 8:9], cache), gpt(tokens[kept, 8:9], other), rtol=0, atol=1e-6)


@torch.no_grad()
def test_last_only_is_the_last_position() -> None:
    gpt = GPT(MODELS["learned"], vocab_size=VOCAB, topology=topology_of(), seed=3).eval()
    tokens, _, _ = batch()
    torch.testing.assert_close(gpt(tokens, last_only=True), gpt(tokens)[-1:], rtol=0, atol=1e-6)


def test_a_full_cache_says_so() -> None:
    gpt = GPT(MODELS["rotary"], vocab_size=VOCAB, topology=topology_of(), seed=3).eval()
    tokens, _, _ = batch()
    with pytest.raises(AssertionError, match="room for 10 tokens, not 16"):
        gpt(tokens, gpt.new_cache(4, 10))
