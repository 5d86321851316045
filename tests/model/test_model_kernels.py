"""Every kernel of attention against a plain softmax in float64, as far as a CPU runs them; tests/gpu has the others."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from support.attention import HEADS, SCALE, SEQ, assert_equal, document_numbers, plain, tensors
from support.models import VOCAB, batch, small, topology_of
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import flex_attention

from neox.model import attention, kernels
from neox.model.compiled import compile_blocks
from neox.model.documents import Documents
from neox.model.gpt import GPT
from neox.model.kernels import HALVES, attend, kernel_for
from neox.model.linear import Sharding
from neox.model.masks import distances, sequence_blocks, visible
from neox.model.relative import Alibi, alibi_slopes

CPU = torch.device("cpu")


@pytest.fixture
def on_flex(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention as torch computes it on a CPU, with gradients, which its check of devices would refuse."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    monkeypatch.setattr(kernels, "_compiled_flex", lambda: flex_attention.flex_attention)
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(attention, "kernel_for", lambda *_, **__: "flex")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kernel", "groups"), [("sdpa", 1), ("sdpa", 2), ("sdpa", 4), ("flex", 2)])
def test_equals_a_plain_softmax(kernel: str, groups: int, dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    if kernel == "flex":
        request.getfixturevalue("on_flex")
    inputs, towards = tensors(groups, dtype)
    distance = distances(0, SEQ, CPU)
    numbers = document_numbers([60, 131])
    same = numbers[:, None, :, None] == numbers[:, None, None, :]
    assert_equal(attend(*inputs, causal=True, scale=SCALE), inputs, towards, visible(distance, None))
    for window in (1, 150):
        seen = {"mask": sequence_blocks(SEQ, window, CPU)} if kernel == "flex" else {"causal": True, "window": window}
        found = attend(*inputs, **seen, scale=SCALE)
        assert_equal(found, inputs, towards, visible(distance, window))
    for window, causal in ((None, True), (50, True), (None, False)):
        documents = Documents(numbers, None)
        documents.prepare(window, causal=causal, blocks=kernel == "flex")
        found = attend(*inputs, mask=documents.mask(window), scale=SCALE)
        assert_equal(found, inputs, towards, same & visible(distance, window) if causal else same)


def test_flash_attn_is_asked_for_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that does what the package documents: (batch, seq, heads, head_dim), `left` tokens before each query."""
    package = ModuleType("flash_attn")
    package.__spec__ = ModuleSpec("flash_attn", None)

    def flash_attn_func(queries, keys, values, *, dropout_p, softmax_scale, causal, window_size):
        assert (dropout_p, softmax_scale, causal, window_size[1]) == (0.0, SCALE, True, 0)
        seen = visible(distances(0, SEQ, CPU), window_size[0] + 1)
        return plain([part.transpose(1, 2) for part in (queries, keys, values)], seen).transpose(1, 2).float()

    package.flash_attn_func = flash_attn_func
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr(kernels, "kernel_for", lambda *_, **__: "flash_attn")
    inputs, towards = tensors(2, torch.float32)
    found = attend(*inputs, causal=True, window=50, scale=SCALE)
    assert_equal(found, inputs, towards, visible(distances(0, SEQ, CPU), 50))


@torch.no_grad()
def test_dropout_leaves_as_much_as_it_says() -> None:
    inputs, _ = tensors(4, torch.float32)
    inputs[2] = torch.ones_like(inputs[2])
    for window in (None, 50):
        torch.manual_seed(0)
        mixed = attend(*inputs, causal=True, window=window, scale=SCALE, dropout=0.2)
        assert mixed.mean() == pytest.approx(1, abs=0.02), "what is left is scaled up by what is missing"
        assert mixed[:, :, 0].unique().tolist() == [0, 1.25], "the first token has one key, which is there or not"


def test_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """By device, type, head and dropout; no GPU is asked but for its generation."""
    installed = {"flash_attn"}
    generation = (9, 0)
    monkeypatch.setattr(kernels, "find_spec", lambda name: name in installed or None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: generation)
    monkeypatch.setattr(kernels, "_compiles_kernels", lambda: True)

    def chosen(seen, *, device="cuda", dtype=torch.bfloat16, head_dim=64, drops=False):
        choose = kernel_for.__wrapped__
        return choose(seen, device=torch.device(device), dtype=dtype, head_dim=head_dim, drops=drops)

    assert {chosen("window", dtype=dtype) for dtype in HALVES} == {"flash_attn"}
    assert chosen("window", drops=True) == "flash_attn"
    assert chosen("documents") == chosen("biased") == "flex"
    assert chosen("documents", drops=True) == "sdpa", "FlexAttention has no dropout"
    installed.clear()
    assert chosen("window") == "flex"
    assert chosen("window", drops=True) == "sdpa"
    assert {chosen("window", head_dim=8), chosen("window", dtype=torch.float32), chosen("window", device="cpu")} == {
        "sdpa"
    }
    generation = (7, 5)
    assert chosen("window") == "sdpa"
    generation = (9, 0)
    monkeypatch.setattr(kernels, "_compiles_kernels", lambda: False)
    assert chosen("window") == "sdpa", "Triton would find no compiler"


@pytest.mark.usefixtures("on_flex")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_alibi_on_flex(dtype: torch.dtype) -> None:
    """Every process of a tensor-parallel group has slopes of its own."""
    model = small(pos_emb="alibi", num_attention_heads=2 * HEADS)
    alibi = Alibi(model, sharding=Sharding(topology_of(tensor_rank=1, tensor_size=2)))
    slopes = torch.tensor(alibi_slopes(2 * HEADS)[HEADS:])
    inputs, towards = tensors(2, dtype)
    distance = distances(0, SEQ, CPU)
    for window in (None, 50):
        found = attend(*inputs, mask=sequence_blocks(SEQ, window, CPU), score=alibi.score(CPU), scale=SCALE)
        bias = -slopes[:, None, None] * distance
        assert_equal(found, inputs, towards, visible(distance, window), bias)


KINDS = {
    "windows": {"attention_config": [[["global", "local"], 2]], "window_size": 50, "pos_emb": "rotary"},
    "documents": {"attention_config": [[["global", "local"], 2]], "window_size": 50, "num_kv_heads": 2},
    "alibi": {"attention_config": [[["global", "local"], 2]], "window_size": 50, "pos_emb": "alibi"},
    "alibi-documents": {"attention_config": [[["global", "local"], 2]], "window_size": 50, "pos_emb": "alibi"},
}


@pytest.mark.usefixtures("on_flex")
@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_model_on_flex(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two graphs for four layers, none of them new with other documents; losses and gradients of the masks of SDPA."""
    model = small(num_layers=4, max_position_embeddings=SEQ, init_method_std=0.3, **KINDS[kind])
    tokens, labels, _ = batch(rows=2, seq=SEQ)

    def losses_and_gradients(gpt: GPT) -> list[Tensor]:
        results = []
        for starts in ([60, 131], [7, 140], [190, 33]):
            documents = Documents(document_numbers(starts), None) if kind.endswith("documents") else None
            gpt.zero_grad()
            logits = gpt(tokens, documents=documents)
            loss = torch.nn.functional.cross_entropy(logits.transpose(0, 1).flatten(0, 1), labels.flatten())
            loss.backward()
            results += [loss.detach(), *(weight.grad for weight in gpt.parameters())]
        return results

    flexible = GPT(model, vocab_size=VOCAB, topology=topology_of(), seed=3)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda self, **keys: setattr(
            self, "_compiled_call_impl", torch.compile(self._call_impl, backend=counter, **keys)
        ),
    )
    compile_blocks(flexible.layers)
    found = losses_and_gradients(flexible)
    assert counter.frame_count == 2, "one for each kind of layer, once"
    monkeypatch.undo()
    expected = losses_and_gradients(GPT(model, vocab_size=VOCAB, topology=topology_of(), seed=3))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 5])
def test_short_sequences_in_16_bits_are_computed_in_fp32(window: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(2, heads, 16, 8, generator=generator).bfloat16().requires_grad_() for heads in (4, 2, 2)]
    towards = torch.randn(2, 4, 16, 8, generator=generator).bfloat16()

    def mixed(cast: torch.dtype) -> torch.Tensor:
        return attend(*(part.to(cast) for part in parts), causal=True, window=window, scale=0.5).bfloat16()

    trained, exact = mixed(torch.bfloat16), mixed(torch.float32)
    with torch.no_grad():
        assert torch.equal(mixed(torch.bfloat16), trained), "a reference is what is trained"
    assert torch.equal(trained, exact), "rounded once, at the end"
    found, wanted = (torch.autograd.grad(result, parts, towards) for result in (trained, exact))
    assert all(map(torch.equal, found, wanted))
