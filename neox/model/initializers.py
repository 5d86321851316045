"""Initial weights that do not depend on the layout: each parameter from a stream of its own, drawn whole, then cut.

Biases start at 0 and norms at 1; weights follow gpt-neox's `init_method`, or `output_layer_init_method` where they
write to the residual stream.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from neox.config.sections import Initializer, ModelConfig
from neox.model.linear import RowLinear
from neox.model.norms import LayerNorm, RMSNorm
from neox.parallel.topology import Topology


def standard_deviation(method: Initializer, model: ModelConfig) -> float:
    """Standard deviation of the normal distribution that an initialiser draws from."""
    if method == "normal":
        return model.init_method_std
    if method == "scaled_normal":
        return model.init_method_std / math.sqrt(2 * model.num_layers)
    if method == "small_init":
        return math.sqrt(2 / (5 * model.hidden_size))
    assert method == "wang_init", method
    return 2 / (model.num_layers * math.sqrt(model.hidden_size))


def stream_seed(seed: int, index: int, name: str) -> int:
    """Seed of one parameter's stream; a hash that is the same on every machine and Python."""
    digest = hashlib.sha256(f"{seed}/{index}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def draw(parameter: Tensor, deviation: float, seed: int, rank: int, size: int) -> Tensor:
    """This rank's part of the whole parameter: (whole shape) normal in fp32 on the CPU, cut along its partition_dim."""
    shape = list(parameter.shape)
    if parameter.tensor_model_parallel:
        shape[parameter.partition_dim] *= size
    generator = torch.Generator().manual_seed(seed)
    whole = torch.empty(shape).normal_(0.0, deviation, generator=generator)
    return whole.chunk(size, dim=parameter.partition_dim)[rank] if parameter.tensor_model_parallel else whole


@torch.no_grad()
def initialize_weights(layer: nn.Module, *, model: ModelConfig, seed: int, index: int, topology: Topology) -> None:
    """Fill every parameter of the layer with global index `index`."""
    for module_name, module in layer.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                parameter.zero_()
            elif isinstance(module, LayerNorm | RMSNorm):
                parameter.fill_(1.0)
            else:
                residual = isinstance(module, RowLinear)
                deviation = standard_deviation(model.output_layer_init_method if residual else model.init_method, model)
                stream = stream_seed(seed, index, f"{module_name}.{name}")
                parameter.copy_(draw(parameter, deviation, stream, topology.tensor_rank, topology.tensor_size))
