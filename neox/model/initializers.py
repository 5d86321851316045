"""Initial weights that do not depend on the layout: each parameter from a stream of its own, drawn whole, then cut.

Biases start at 0 and norms at 1; weights follow gpt-neox's `init_method`, or `output_layer_init_method` where they
write to the residual stream.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from neox.config.mup import base_width, initial_scale
from neox.config.sections import Initializer, ModelConfig
from neox.model.block import block_matrices
from neox.model.linear import RowLinear
from neox.model.lora import Adapter
from neox.model.norms import Norm
from neox.parallel.topology import Topology


def initializer(method: Initializer, model: ModelConfig, *, grows: bool) -> Callable[..., Tensor]:
    """What fills a whole (outputs, inputs) matrix in place from a generator; grows: see standard_deviation."""
    if method.startswith("xavier"):  # Glorot and Bengio, 2010
        return nn.init.xavier_uniform_ if method == "xavier_uniform" else nn.init.xavier_normal_
    if method.endswith("orthogonal"):  # Saxe et al., 2013; the scaled form Nestler et al., 2021
        gain = math.sqrt(2 / (model.num_layers if method == "scaled_orthogonal" else 1))
        return partial(nn.init.orthogonal_, gain=gain)
    return partial(nn.init.normal_, std=standard_deviation(method, model, grows=grows))


def standard_deviation(method: Initializer, model: ModelConfig, *, grows: bool) -> float:
    """Standard deviation of the normal distribution that an initialiser draws from.

    grows: whether both dimensions of the matrix grow with the width, which muP asks.
    """
    width = base_width(model)
    deviations = {
        "normal": model.init_method_std,
        "scaled_normal": model.init_method_std / math.sqrt(2 * model.num_layers),
        "single_residual_scaled_normal": model.init_method_std / math.sqrt(model.num_layers),
        "small_init": math.sqrt(2 / (5 * width)),  # Nguyen and Salazar, 2019
        "wang_init": 2 / (model.num_layers * math.sqrt(width)),  # Wang's, as GPT-NeoX-20B has it
    }
    return deviations[method] * initial_scale(model, grows=grows)


def stream_seed(seed: int, index: int, name: str) -> int:
    """Seed of one parameter's stream; a hash that is the same on every machine and Python."""
    digest = hashlib.sha256(f"{seed}/{index}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def draw(parameter: Tensor, fill: Callable, seed: int, rank: int, size: int) -> Tensor:
    """This rank's part of the whole parameter: drawn whole in fp32 on the CPU, cut along its partition_dim."""
    shape = list(parameter.shape)
    if parameter.tensor_model_parallel:
        shape[parameter.partition_dim] *= size
    whole = torch.empty(shape)
    # several projections in one parameter are one matrix to an initialiser, as in gpt-neox
    fill(whole.view(-1, shape[-1]), generator=torch.Generator().manual_seed(seed))
    return whole.chunk(size, dim=parameter.partition_dim)[rank] if parameter.tensor_model_parallel else whole


@torch.no_grad()
def initialize_weights(layer: nn.Module, *, model: ModelConfig, seed: int, index: int, topology: Topology) -> None:
    """Fill every parameter of the layer with global index `index`."""
    growing = block_matrices(layer)
    for module_name, module in layer.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias" or (isinstance(module, Adapter) and name == "up"):
                parameter.zero_()
            elif isinstance(module, Norm):
                parameter.fill_(1.0)
            else:
                if isinstance(module, Adapter):
                    fill = partial(nn.init.kaiming_uniform_, a=math.sqrt(5))  # as in the paper's code
                else:
                    residual = isinstance(module, RowLinear)
                    method = model.output_layer_init_method if residual else model.init_method
                    fill = initializer(method, model, grows=parameter in growing)
                stream = stream_seed(seed, index, f"{module_name}.{name}")
                parameter.copy_(draw(parameter, fill, stream, topology.tensor_rank, topology.tensor_size))
