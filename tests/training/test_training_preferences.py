"""DPO: the loss, its gradients and what is measured, against the formulas of the paper written out in float64."""

import copy

import pytest
import torch
from support.models import VOCAB, batch, small, topology_of

from neox.model.gpt import GPT
from neox.model.lora import without_adapters
from neox.training.objectives import MicroBatch, PreferenceLoss

BETA = 0.3


def model_of(keys: dict, seed: int) -> GPT:
    gpt = GPT(small(**keys), vocab_size=VOCAB, topology=topology_of(), seed=seed)
    for name, weight in gpt.named_parameters():
        if name.endswith("adapter.up"):
            torch.nn.init.normal_(weight, std=0.1)
    return gpt


def answers() -> MicroBatch:
    """Two pairs; a fifth of the tokens is no part of an answer."""
    tokens, labels, weights = batch(rows=4)
    return MicroBatch(tokens, labels, (weights > 0).float(), documents=None)


def written_out(policy: GPT, reference: GPT | None, micro_batch: MicroBatch) -> dict[str, torch.Tensor]:
    """The same step by step; the policy is in float64."""

    def likelihoods(model: GPT) -> torch.Tensor:
        logits = model(micro_batch.tokens).transpose(0, 1)[..., :VOCAB]
        of_labels = logits.log_softmax(-1).gather(-1, micro_batch.labels[..., None]).squeeze(-1)
        return (of_labels * micro_batch.weights).sum(-1)

    policy_answers = likelihoods(policy)
    usual = torch.zeros_like(policy_answers)
    if reference is not None:
        usual = likelihoods(copy.deepcopy(reference).double()).detach()
    preferred, rejected = slice(0, None, 2), slice(1, None, 2)
    logits = (policy_answers[preferred] - policy_answers[rejected]) - (usual[preferred] - usual[rejected])
    return {
        "loss": -torch.log(torch.sigmoid(BETA * logits)).mean(),
        "chosen_reward": BETA * (policy_answers - usual)[preferred].mean(),
        "rejected_reward": BETA * (policy_answers - usual)[rejected].mean(),
        "reward_margin": BETA * logits.mean(),
        "reward_accuracy": (logits > 0).double().mean(),
    }


def objective(reference: GPT | None) -> PreferenceLoss:
    return PreferenceLoss(BETA, VOCAB, topology_of(), reference)


@pytest.mark.parametrize("free", [False, True], ids=["reference", "reference-free"])
def test_the_loss_is_that_of_the_paper(free: bool) -> None:
    policy, reference = model_of({}, 3), None if free else model_of({}, 4)
    micro_batch = answers()
    loss, measures = objective(reference)(policy, micro_batch, None)
    exact = copy.deepcopy(policy).double()
    expected = written_out(exact, reference, micro_batch)
    for name, value in {"loss": loss, **measures}.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5, msg=name)
    loss.backward()
    expected["loss"].backward()
    for (name, ours), theirs in zip(policy.named_parameters(), exact.parameters()):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert reference is None or all(weight.grad is None for weight in reference.parameters())


def test_without_its_adapters_a_model_is_its_own_reference() -> None:
    adapted = model_of({"lora_rank": 4, "lora_dropout": 0.5, "hidden_dropout": 0.1}, 3).train()
    plain = model_of({}, 3).eval()
    micro_batch = answers()
    with torch.no_grad(), without_adapters(adapted):
        assert torch.equal(adapted(micro_batch.tokens), plain(micro_batch.tokens))
    assert all(module.training for module in adapted.modules())
    adapted.eval()
    loss, _ = objective(adapted)(adapted, micro_batch, None)
    expected = written_out(adapted.double(), plain, micro_batch)["loss"]
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
