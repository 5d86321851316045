"""A model of masked language modelling sees both sides of a token, of its own document."""

import pytest
import torch
from support.models import SEQ, VOCAB, batch, small, topology_of, two_documents

from neox.config.sizes import flops_per_token
from neox.interop.keys import differences
from neox.interop.names import FAMILIES
from neox.model.documents import Documents
from neox.model.gpt import GPT

MASKED = {"train_impl": "mlm", "init_method_std": 0.3}


def built(**keys) -> GPT:
    return GPT(small(**MASKED, **keys), vocab_size=VOCAB, topology=topology_of(), seed=3)


@torch.no_grad()
def test_order_does_not_matter_without_positions() -> None:
    """Attention both ways over all tokens is the only one that a permutation passes through."""
    gpt, (tokens, _, _) = built(pos_emb="none"), batch()
    order = torch.randperm(SEQ, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(gpt(tokens[:, order]), gpt(tokens)[order], rtol=0, atol=1e-5)
    causal = GPT(small(init_method_std=0.3, pos_emb="none"), vocab_size=VOCAB, topology=topology_of(), seed=3)
    assert (causal(tokens[:, order]) - causal(tokens)[order]).abs().max() > 1e-2


@pytest.mark.parametrize("pos_emb", ["learned", "rotary", "sinusoidal"])
@torch.no_grad()
def test_packed_equals_alone(pos_emb: str) -> None:
    gpt, (tokens, numbers, positions) = built(pos_emb=pos_emb), two_documents()
    packed = gpt(tokens, documents=Documents(numbers, positions))
    for row, cut in enumerate((6, 11)):
        for part in (slice(0, cut), slice(cut, SEQ)):
            alone = gpt(tokens[row : row + 1, part])[:, 0]
            torch.testing.assert_close(packed[part, row], alone, rtol=0, atol=1e-5)


def test_a_token_sees_twice_as_many() -> None:
    model = small()
    masked = small(train_impl="mlm")
    seen = flops_per_token(masked, VOCAB) - flops_per_token(model, VOCAB)
    assert seen == 12 * model.hidden_size * model.num_layers * (SEQ - (SEQ + 1) / 2)


def test_no_family_of_transformers_says_it() -> None:
    for family in FAMILIES.values():
        assert any(complaint.startswith("train_impl: mlm") for complaint in differences(small(**MASKED), family.table))
