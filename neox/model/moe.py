"""Mixture of experts: in place of one MLP there are several, and a router chooses a few of them for each token.

As in DeepSpeed's and megatron-core's layers the experts may be split over replicas (expert parallelism), which send each other
their tokens. DeepSpeed's layer itself is not used: it numbers experts by process, so that initial weights and checkpoints
would depend on the layout; it chooses among the tokens of a full expert arbitrarily and the second expert at random; it pads
every expert to the fullest where no token is dropped; and its tensor parallelism must divide the capacity. Its optimizers are
(neox/training/experts.py).
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from neox.config.sections import ModelConfig
from neox.model.linear import Sharding, whole_parameter
from neox.model.mlp import MLP
from neox.parallel.megatron import all_to_all
from neox.parallel.topology import Topology


class MixtureOfExperts(nn.Module):
    """(seq, batch, hidden) -> (seq, batch, hidden) through `moe_top_k` of `moe_num_experts` MLPs.

    Each rank of an expert-parallel group holds an equal part of the experts, consecutive ones; their names carry their
    number among all. Tensor parallelism splits each expert like any MLP: every rank of the tensor group routes all tokens.
    A token that finds an expert full gets nothing from it, and goes on in the residual stream.
    """

    def __init__(self, model: ModelConfig, *, sharding: Sharding):
        super().__init__()
        assert not sharding.sequence, "the router needs whole sequences"
        self.topology = sharding.topology
        self.num_experts = model.moe_num_experts
        self.top_k = model.moe_top_k
        self.capacity_factor = model.moe_train_capacity_factor
        self.router = Router(model)
        held = self.num_experts // self.topology.expert_size
        first = self.topology.expert_rank * held
        self.experts = nn.ModuleDict(
            {str(index): MLP(model, sharding=sharding) for index in range(first, first + held)}
        )
        if self.topology.expert_size > 1:
            for parameter in self.experts.parameters():
                # as DeepSpeed and megatron-core mark what not every replica holds; DeepSpeed asks for the group's name too
                parameter.allreduce, parameter.group_name = False, expert_group_name(self.topology)

    def forward(self, hidden: Tensor, losses: list[Tensor] | None = None) -> Tensor:
        """losses: receives the balancing loss of these tokens, an fp32 scalar."""
        tokens = hidden.flatten(0, -2)
        probabilities = self.router(tokens)
        weights, experts = chosen(probabilities, self.top_k)
        if losses is not None:
            losses.append(balancing_loss(probabilities, experts))
        routes, counts = arranged(experts, self.num_experts, self._capacity(len(tokens)))
        # (choice, token, hidden): rows of dropped routes stay 0
        results = tokens.new_zeros(self.top_k * len(tokens), tokens.shape[1])
        results = results.index_copy(0, routes, self._through_experts(tokens[routes % len(tokens)], counts))
        results = results.view(self.top_k, *tokens.shape)
        return (results * weights.t().unsqueeze(-1)).sum(0).to(hidden.dtype).view_as(hidden)

    def _capacity(self, tokens: int) -> int | None:
        """Tokens that an expert takes from this rank; None for all."""
        if self.capacity_factor is None or not self.training:
            return None
        return math.ceil(self.capacity_factor * self.top_k * tokens / self.num_experts)

    def _through_experts(self, rows: Tensor, counts: Tensor) -> Tensor:
        """What the experts make of the rows of this rank, which are in order of the experts, counts[e] for expert e."""
        ranks, held = self.topology.expert_size, len(self.experts)
        received = counts
        if ranks > 1:
            received = torch.empty_like(counts)
            dist.all_to_all_single(received, counts, group=self.topology.expert_group)
        # (rank, its experts): what goes there; (rank, experts here): what comes from there
        outgoing, incoming = counts.view(ranks, held).tolist(), received.view(ranks, held).tolist()
        arrived = self._exchanged(rows, outgoing, incoming).split([count for sender in incoming for count in sender])
        results = [
            # the layers want three dimensions; experts without tokens run too, so that every weight has a gradient
            expert(torch.cat(arrived[index::held]).unsqueeze(1))
            .squeeze(1)
            .split([sender[index] for sender in incoming])
            for index, expert in enumerate(self.experts.values())
        ]
        by_sender = torch.cat([results[index][rank] for rank in range(ranks) for index in range(held)])
        return self._exchanged(by_sender, incoming, outgoing)

    def _exchanged(self, rows: Tensor, outgoing: list[list[int]], incoming: list[list[int]]) -> Tensor:
        """The rows that come from all ranks of the expert-parallel group for those that go to them."""
        if self.topology.expert_size == 1:
            return rows
        sizes = ([sum(counts) for counts in side] for side in (incoming, outgoing))
        return all_to_all(self.topology.expert_group, rows, *sizes)


class Router(nn.Module):
    """Tokens (tokens, hidden) -> fp32 probabilities (tokens, experts); every rank holds all of it.

    fp32 whatever the weights are: rounded probabilities make training unstable (Fedus et al., 2021: Switch Transformers, 2.4,
    also for the random factors of the inputs).
    """

    def __init__(self, model: ModelConfig):
        super().__init__()
        self.jitter = model.moe_jitter_eps
        self.weight = whole_parameter(model.moe_num_experts, model.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens.float()
        if self.training and self.jitter is not None:
            tokens = tokens * torch.empty_like(tokens).uniform_(1 - self.jitter, 1 + self.jitter)
        return F.linear(tokens, self.weight.float()).softmax(dim=-1)


def chosen(probabilities: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Weights and numbers of each token's likeliest experts, (tokens, top_k), the likeliest first.

    The weight of a single expert is its probability (Switch Transformers), so that the router learns; those of several
    are scaled to add up to 1 (Lepikhin et al., 2020: GShard).
    """
    weights, experts = probabilities.topk(top_k, dim=-1)
    return (weights if top_k == 1 else weights / weights.sum(-1, keepdim=True)), experts


def balancing_loss(probabilities: Tensor, experts: Tensor) -> Tensor:
    """1 where the choices are spread evenly over the experts, up to their number where all go to one.

    The number of experts times the sum over them of (share of the choices) * (mean probability): Switch Transformers,
    equation 4, with all choices of a token counted. Only the probabilities have a gradient.
    """
    num_experts = probabilities.shape[1]
    shares = experts.flatten().bincount(minlength=num_experts) / experts.numel()
    return num_experts * (shares * probabilities.mean(dim=0)).sum()


def arranged(experts: Tensor, num_experts: int, capacity: int | None) -> tuple[Tensor, Tensor]:
    """The routes in order of their experts, and how many each expert has, at most `capacity` of them.

    Route r is choice r // tokens of token r % tokens. Within an expert, all first choices come before all second ones, each in
    the order of the tokens; those beyond the capacity are left out.
    """
    experts = experts.t().flatten()
    counts = experts.bincount(minlength=num_experts)
    routes = experts.argsort(stable=True)
    if capacity is not None:
        starts = counts.cumsum(0) - counts
        places = torch.arange(len(routes), device=routes.device) - starts[experts[routes]]
        routes, counts = routes[places < capacity], counts.clamp(max=capacity)
    return routes, counts


def expert_group_name(topology: Topology) -> str:
    """What DeepSpeed calls the groups of expert parallelism."""
    return f"ep_size_{topology.expert_size}"


def is_shared_out(parameter: nn.Parameter) -> bool:
    """Whether the parameter is of an expert that only some replicas hold."""
    return not getattr(parameter, "allreduce", True)
