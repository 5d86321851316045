"""Attention against a plain softmax in float64, and generation with a cache against none."""

import math

import pytest
import torch
from support.models import SEQ, VOCAB, batch, small, topology_of

from neox.model.attention import Attention
from neox.model.gpt import GPT
from neox.model.heads import split_heads
from neox.model.initializers import initialize_weights
from neox.model.linear import Sharding
from neox.model.relative import Alibi, alibi_slopes
from neox.model.rotary import Rotary, rotary_tables

WINDOW = 5
LINEAR = {"rope_type": "linear", "factor": 2.0}
MODELS = {
    "learned": small(),
    "rotary": small(pos_emb="rotary", rotary_pct=0.5, gpt_j_residual=True),
    "local": small(pos_emb="rotary", attention_config=[[["global", "local"], 1]], window_size=WINDOW),
    "sliding": small(pos_emb="rotary", sliding_window_width=WINDOW - 1, rope_scaling=LINEAR),
    "grouped": small(pos_emb="rotary", num_kv_heads=2, use_qk_layernorm=True),
    "one-key-head": small(pos_emb="sinusoidal", num_kv_heads=1, norm="scalenorm", scale_attention=False),
    "alibi": small(pos_emb="alibi", attention_config=[[["global", "local"], 1]], window_size=WINDOW),
    "relative": small(pos_emb="rpe", rpe_num_buckets=6, rpe_max_distance=8, norm="non_parametric_layernorm"),
}
# what changes attention itself; positions that turn or are added come later
KINDS = {
    "plain": {},
    "grouped": {"num_kv_heads": 2},
    "one-key-head": {"num_kv_heads": 1, "use_bias_in_qkv": False},
    "unscaled": {"scale_attention": False},
    "alibi": {"pos_emb": "alibi"},
    "relative": {"pos_emb": "rpe", "rpe_num_buckets": 6, "rpe_max_distance": 8, "num_kv_heads": 2},
    "normalised": {"use_qk_layernorm": True, "norm": "rmsnorm"},
}


def plain_attention(attention: Attention, hidden: torch.Tensor, scale: float) -> torch.Tensor:
    """The same attention without rotary positions, written out in float64; (seq, batch, hidden)."""
    seq, rows, _ = hidden.shape
    weights = {name: parameter.double() for name, parameter in attention.named_parameters()}
    packed = hidden.double() @ weights["query_key_value.weight"].T + weights.get("query_key_value.bias", 0.0)
    size, dim = attention.group_size, attention.head_dim
    heads = packed.view(seq, rows, attention.groups, size + 2, dim)
    queries, keys, values = heads[:, :, :, :size], heads[:, :, :, size], heads[:, :, :, size + 1]
    if attention.query_norm is not None:
        queries = queries / queries.square().mean(-1, keepdim=True).sqrt() * weights["query_norm.weight"]
        keys = keys / keys.square().mean(-1, keepdim=True).sqrt() * weights["key_norm.weight"]
    scores = torch.einsum("ibgnd,jbgd->bgnij", queries, keys) * scale
    bias = torch.zeros(attention.groups, size, seq, seq, dtype=torch.float64)
    for i in range(seq):
        for j in range(seq):
            if not (0 <= i - j < (attention.window or seq)):
                bias[:, :, i, j] = -torch.inf
            elif isinstance(attention.position_bias, Alibi):
                slopes = [2.0 ** (-2 * (head + 1)) for head in range(4)]
                bias[:, :, i, j] = torch.tensor(slopes).view(-1, size) * (j - i)
            elif attention.position_bias is not None:
                # 3 of the 6 buckets hold a distance each, the others share those up to 8 by their logarithm
                bucket = i - j if i - j < 3 else 3 + int(3 * math.log((i - j) / 3) / math.log(8 / 3))
                bias[:, :, i, j] = weights["position_bias.weight"][:, min(bucket, 5)].view(-1, size)
    mixed = torch.einsum("bgnij,jbgd->ibgnd", (scores + bias).softmax(-1), values).reshape(seq, rows, -1)
    return mixed @ weights["dense.weight"].T + weights["dense.bias"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [None, 1, WINDOW, 2 * SEQ])
def test_equals_a_plain_softmax(kind: str, window: int | None) -> None:
    model = small(init_method_std=0.5, **KINDS[kind])
    attention = Attention(model, layer=0, window=window, sharding=Sharding(topology_of()))
    initialize_weights([(1, attention)], model=model, seed=0, topology=topology_of())
    hidden = torch.randn(SEQ, 3, 32, generator=torch.Generator().manual_seed(1))
    parameters = list(attention.parameters())
    towards = torch.randn(SEQ, 3, 32, generator=torch.Generator().manual_seed(2))
    found, expected = attention(hidden), plain_attention(attention, hidden, 1.0 if kind == "unscaled" else 8**-0.5)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad(found, parameters, towards)
    plain = torch.autograd.grad(expected, parameters, towards.double())
    for gradient, other in zip(ours, plain):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-4)


def test_slopes_of_heads_that_are_no_power_of_two() -> None:
    """The values of the paper's own code for 6 heads: those of 4, then every second of 8."""
    assert alibi_slopes(6) == [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]


def test_rotation_is_undone_in_the_backward_pass() -> None:
    cos, sin = (table[None, None, None] for table in rotary_tables(Rotary(4, 1e4, 3), 3, torch.device("cpu")))
    packed = torch.randn(3, 1, 2, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    packed.requires_grad_()
    # fp32 inside, hence the tolerances
    assert torch.autograd.gradcheck(split_heads, (packed, cos, sin), eps=1e-2, atol=1e-4, rtol=1e-4)
    assert torch.autograd.gradcheck(split_heads, (packed, None, None))
    *turned, values = split_heads(packed.detach(), cos, sin)
    parts = packed.detach().permute(1, 2, 3, 0, 4)
    assert torch.equal(values, parts[:, :, 3]), "values do not turn"
    for rotated, unrotated in zip(turned, (parts[:, :, :2].flatten(1, 2), parts[:, :, 2])):
        assert torch.equal(rotated[..., 4:], unrotated[..., 4:]), "nor do the dimensions beyond rotary_pct"
        assert not torch.allclose(rotated[:, :, 1:, :4], unrotated[:, :, 1:, :4])


def test_angles_stay_fp32_in_a_bf16_model() -> None:
    gpt = GPT(MODELS["rotary"], vocab_size=VOCAB, topology=topology_of(), seed=3).bfloat16()
    tokens, _, _ = batch()
    assert gpt(tokens).dtype == torch.bfloat16
    cos, _ = rotary_tables(Rotary(4, 1e4, SEQ), SEQ, torch.device("cpu"))
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
