"""Mixtures of experts against plain loops over tokens in float64, and what must not depend on how they are computed."""

import math

import pytest
import torch
import torch.nn.functional as F
from support.models import VOCAB, batch, small, topology_of
from torch import Tensor

from neox.config.sections import RecomputeConfig
from neox.model.gpt import GPT
from neox.model.initializers import initialize_weights
from neox.model.linear import Sharding
from neox.model.moe import MixtureOfExperts, balancing_loss

EXPERTS, SEQ, BATCH, HIDDEN = 4, 12, 2, 32


def mixture(**keys) -> MixtureOfExperts:
    model = small(moe_num_experts=EXPERTS, init_method_std=0.5, **keys)
    layer = MixtureOfExperts(model, sharding=Sharding(topology_of()))
    initialize_weights([(1, layer)], model=model, seed=3, topology=topology_of())
    for name, parameter in layer.named_parameters():
        if name.endswith("bias"):
            parameter.data += torch.linspace(-1, 1, parameter.numel()).view_as(parameter)
    return layer


def reference(weights: dict[str, Tensor], tokens: Tensor, top_k: int, capacity: float | None) -> tuple[Tensor, Tensor]:
    """Output and balancing loss: every token's first choice in turn, then every second choice, and so on."""
    probabilities = (tokens @ weights["router.weight"].T).softmax(-1)
    room = math.inf if capacity is None else math.ceil(capacity * top_k * len(tokens) / EXPERTS)
    taken, choices = [0] * EXPERTS, [0] * EXPERTS
    output = [torch.zeros(HIDDEN, dtype=torch.float64) for _ in tokens]
    ranked = [row.sort(descending=True).indices.tolist()[:top_k] for row in probabilities]
    for choice in range(top_k):
        for number, token in enumerate(tokens):
            expert = ranked[number][choice]
            choices[expert] += 1
            if taken[expert] == room:
                continue
            taken[expert] += 1
            mine = {name.split(".", 2)[2]: w for name, w in weights.items() if name.startswith(f"experts.{expert}.")}
            inner = F.gelu(mine["dense_h_to_4h.weight"] @ token + mine["dense_h_to_4h.bias"])
            result = mine["dense_4h_to_h.weight"] @ inner + mine["dense_4h_to_h.bias"]
            share = probabilities[number, expert]
            if top_k > 1:
                share = share / probabilities[number, ranked[number]].sum()
            output[number] = output[number] + share * result
    loss = sum(choices[e] / (top_k * len(tokens)) * probabilities[:, e].mean() for e in range(EXPERTS)) * EXPERTS
    return torch.stack(output), loss


@pytest.mark.parametrize("capacity", [None, 0.3, 1.0])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_output_and_gradients_are_those_of_a_loop(top_k: int, capacity: float | None) -> None:
    layer = mixture(moe_top_k=top_k, moe_train_capacity_factor=capacity)
    generator = torch.Generator().manual_seed(5)
    hidden, probe = (torch.randn(SEQ, BATCH, HIDDEN, generator=generator) for _ in range(2))
    exact = {name: parameter.detach().double().requires_grad_() for name, parameter in layer.named_parameters()}
    tokens = hidden.view(-1, HIDDEN).double().requires_grad_()
    expected, expected_loss = reference(exact, tokens, top_k, capacity)
    ((expected * probe.view(-1, HIDDEN)).sum() + 0.3 * expected_loss).backward()

    hidden.requires_grad_()
    losses: list[Tensor] = []
    output = layer(hidden, losses)
    ((output * probe).sum() + 0.3 * losses[0]).backward()
    torch.testing.assert_close(output.view(-1, HIDDEN).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses[0].double(), expected_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(hidden.grad.view(-1, HIDDEN).double(), tokens.grad, rtol=1e-4, atol=1e-4)
    for name, parameter in layer.named_parameters():
        wanted = torch.zeros_like(exact[name]) if exact[name].grad is None else exact[name].grad
        torch.testing.assert_close(parameter.grad.double(), wanted, rtol=1e-4, atol=1e-4, msg=name)


def test_no_token_is_dropped_outside_training() -> None:
    narrow, wide = mixture(moe_train_capacity_factor=0.3), mixture()
    hidden = torch.randn(SEQ, BATCH, HIDDEN, generator=torch.Generator().manual_seed(5))
    assert not torch.equal(narrow(hidden), wide(hidden))
    assert torch.equal(narrow.eval()(hidden), wide.eval()(hidden))


def test_the_balancing_loss_is_one_where_the_choice_is_even() -> None:
    even = torch.full((8, EXPERTS), 1 / EXPERTS)
    assert float(balancing_loss(even, torch.arange(8)[:, None] % EXPERTS)) == pytest.approx(1)
    one = F.one_hot(torch.zeros(8, dtype=torch.int64), EXPERTS).float()
    assert float(balancing_loss(one, torch.zeros(8, 1, dtype=torch.int64))) == pytest.approx(EXPERTS)


def test_jitter_is_for_training() -> None:
    layer = mixture(moe_jitter_eps=0.1)
    hidden = torch.randn(SEQ, BATCH, HIDDEN, generator=torch.Generator().manual_seed(5))
    assert not torch.equal(layer(hidden), layer(hidden))
    assert torch.equal(layer.eval()(hidden), mixture().eval()(hidden))


@pytest.mark.parametrize("blocks", [1, 2])
def test_recomputation_changes_nothing_and_counts_each_loss_once(blocks: int) -> None:
    model = small(moe_num_experts=EXPERTS, moe_top_k=2, moe_train_capacity_factor=1.0, moe_jitter_eps=0.1)

    def gradients(recompute: RecomputeConfig | None) -> tuple[list[Tensor], dict[str, Tensor]]:
        gpt = GPT(model, vocab_size=VOCAB, topology=topology_of(), recompute=recompute, seed=3)
        torch.manual_seed(2)
        losses: list[Tensor] = []
        logits = gpt(batch()[0], losses=losses)
        (logits.square().mean() + torch.stack(losses).sum()).backward()
        assert len(losses) == model.num_layers
        return losses, {name: parameter.grad for name, parameter in gpt.named_parameters()}

    losses, plain = gradients(None)
    again, recomputed = gradients(RecomputeConfig(checkpoint_activations=True, checkpoint_num_layers=blocks))
    assert losses == again
    assert all(torch.equal(recomputed[name], gradient) for name, gradient in plain.items())
