"""The chunked cross entropy equals torch's, forwards and backwards, and does not see the padding."""

import pytest
import torch
import torch.nn.functional as F
from support.models import topology_of

from neox.model import loss
from neox.model.loss import cross_entropy


def reference(logits, labels, weights, vocab_size):
    losses = F.cross_entropy(logits[..., :vocab_size].permute(1, 2, 0).double(), labels, reduction="none")
    return (losses * weights).sum()


@pytest.mark.parametrize("vocab_size", [128, 65, 1])
@pytest.mark.parametrize("chunk", [1, 3 * 128, 1 << 20, None])
def test_equals_torch(monkeypatch: pytest.MonkeyPatch, vocab_size: int, chunk: int | None) -> None:
    """chunk: None for the formula that is compiled, which is the same uncompiled."""
    monkeypatch.setitem(loss.LOSS_CHUNK, "cpu", chunk)
    monkeypatch.setattr(loss, "_compiled", lambda function: function)
    torch.manual_seed(0)
    logits = (5 * torch.randn(7, 4, 128)).requires_grad_()
    labels = torch.randint(vocab_size, (4, 7))
    weights = torch.rand(4, 7)
    found = cross_entropy(
        logits, labels, weights, vocab_size=vocab_size, topology=topology_of(), compiled=chunk is None
    )
    (gradient,) = torch.autograd.grad(3 * found, logits)
    expected = reference(logits, labels, weights, vocab_size)
    (expected_gradient,) = torch.autograd.grad(3 * expected, logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
    assert not gradient[..., vocab_size:].any(), "padding gets no gradient"


def test_bf16_logits_are_worked_on_in_fp32() -> None:
    torch.manual_seed(0)
    logits = (5 * torch.randn(7, 4, 128)).bfloat16().requires_grad_()
    labels, weights = torch.randint(100, (4, 7)), torch.full((4, 7), 1 / 28)
    found = cross_entropy(logits, labels, weights, vocab_size=100, topology=topology_of())
    (gradient,) = torch.autograd.grad(found, logits)
    expected = reference(logits, labels, weights, 100)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-2, atol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[[1e4, -1e4, 0.0, 5e4]]])
    found = cross_entropy(logits, torch.tensor([[0]]), torch.ones(1, 1), vocab_size=3, topology=topology_of())
    assert found.item() == 0.0


def test_tokens_without_weight_may_have_any_label() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 1, 8, requires_grad=True)
    labels, weights = torch.tensor([[2, -100, 5]]), torch.tensor([[1.0, 0.0, 1.0]])
    found = cross_entropy(logits, labels, weights, vocab_size=8, topology=topology_of())
    expected = F.cross_entropy(logits[[0, 2], 0], labels[0, [0, 2]], reduction="sum")
    torch.testing.assert_close(found, expected)
    assert not torch.autograd.grad(found, logits)[0][1].any()
