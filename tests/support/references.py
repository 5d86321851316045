"""The reference of DPO in the workers of a group."""

from __future__ import annotations

import torch

from neox.checkpoint.source import Source
from neox.config.read import config_from_values
from neox.parallel.topology import Topology
from neox.training.pretrain import read_reference  # with all that a run imports


def logits_and_share(topology: Topology, *, keys: dict) -> tuple[torch.Tensor, float]:
    """Logits of the reference for some tokens, and the share of its weights that this process holds afterwards."""
    config = config_from_values(keys)
    with Source("load", config.checkpoint.load, topology) as source:
        model = read_reference(config, 512, source, topology).model
    tokens = torch.arange(24).view(2, 12)
    with torch.no_grad():
        logits = model(tokens)
    whole = [getattr(weight, "ds_numel", weight.numel()) for weight in model.parameters()]
    held = [weight.numel() or weight.ds_tensor.numel() for weight in model.parameters()]  # gathered, or a share
    return logits, sum(held) / sum(whole)
