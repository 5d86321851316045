"""The kernels that only a GPU has, against a plain softmax in float64, and how much memory they take."""

from importlib.util import find_spec

import pytest
import torch
from support.attention import SCALE, SEQ, assert_equal, document_numbers, tensors
from support.models import small, topology_of

from neox.model import kernels
from neox.model.documents import Documents
from neox.model.kernels import attend, kernel_for
from neox.model.linear import Sharding
from neox.model.masks import distances, sequence_blocks, visible
from neox.model.relative import Alibi

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(
        torch.cuda.is_available() and torch.cuda.get_device_capability() < kernels.AMPERE,
        reason="needs an A100 or newer",
    ),
]
WINDOW = 50


def gpu() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.mark.parametrize("kernel", ["flex", "flash_attn", "sdpa"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_windows_equal_a_plain_softmax(kernel: str, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel == "flash_attn" and not find_spec("flash_attn"):
        pytest.skip("flash-attn is not installed")
    monkeypatch.setattr(kernels, "kernel_for", lambda *_, **__: kernel)
    inputs, towards = tensors(groups, torch.bfloat16, "cuda")
    for window in (1, WINDOW, 150):
        seen = {"mask": sequence_blocks(SEQ, window, gpu())} if kernel == "flex" else {"causal": True, "window": window}
        found = attend(*inputs, **seen, scale=SCALE)
        assert_equal(found, inputs, towards, visible(distances(0, SEQ, gpu()), window))


@pytest.mark.parametrize("blocks", [False, True], ids=["sdpa", "flex"])
@pytest.mark.parametrize("groups", [1, 4])
def test_documents_equal_a_plain_softmax(groups: int, blocks: bool) -> None:
    inputs, towards = tensors(groups, torch.bfloat16, "cuda")
    distance = distances(0, SEQ, gpu())
    for starts in ([60, 131], [7, 140]):
        numbers = document_numbers(starts, "cuda")
        same = numbers[:, None, :, None] == numbers[:, None, None, :]
        for window, causal in ((None, True), (WINDOW, True), (None, False)):
            documents = Documents(numbers, None)
            documents.prepare(window, causal=causal, blocks=blocks)
            found = attend(*inputs, mask=documents.mask(window), scale=SCALE)
            assert_equal(found, inputs, towards, same & visible(distance, window) if causal else same)


@pytest.mark.parametrize("groups", [1, 4])
def test_alibi_equals_a_plain_softmax(groups: int) -> None:
    alibi = Alibi(small(pos_emb="alibi"), sharding=Sharding(topology_of()))
    inputs, towards = tensors(groups, torch.bfloat16, "cuda")
    distance = distances(0, SEQ, gpu())
    bias = -torch.tensor(alibi.slopes, device="cuda")[:, None, None] * distance
    for window in (None, WINDOW):
        found = attend(*inputs, mask=sequence_blocks(SEQ, window, gpu()), score=alibi.score(gpu()), scale=SCALE)
        assert_equal(found, inputs, towards, visible(distance, window), bias)


def test_a_long_window_holds_no_mask_of_all_pairs() -> None:
    kind = {"device": gpu(), "dtype": torch.bfloat16, "head_dim": 64, "drops": False}
    assert kernel_for("window", **kind) in ("flex", "flash_attn")
    assert kernel_for("documents", **kind) == "flex"
    seq = 16_384
    inputs = [torch.randn(1, 2, seq, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    blocks = sequence_blocks(seq, 256, gpu())
    attend(*inputs, mask=blocks, scale=SCALE).sum().backward()  # compiles
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    attend(*inputs, mask=blocks, scale=SCALE).sum().backward()
    assert torch.cuda.max_memory_allocated() - before < seq * seq / 4, "a quarter of a byte for each pair"
