"""Initial weights that do not depend on the layout: each parameter from a stream of its own, drawn whole, then cut.

Biases start at 0 and norms at 1; weights follow gpt-neox's `init_method`, or `output_layer_init_method` where they
write to the residual stream.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
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


@torch.no_grad()
def draw(parameter: Tensor, fill: Callable, seed: int, rank: int, size: int) -> None:
    """Fill this rank's part of a parameter from the whole, which is drawn in fp32 on the CPU and cut along its partition_dim."""
    shape = list(parameter.shape)
    split = parameter.tensor_model_parallel and size > 1
    if split:
        shape[parameter.partition_dim] *= size
    whole = torch.empty(shape) if split else parameter
    # several projections in one parameter are one matrix to an initialiser, as in gpt-neox
    fill(whole.view(-1, shape[-1]), generator=torch.Generator().manual_seed(seed))
    if split:
        parameter.copy_(whole.chunk(size, dim=parameter.partition_dim)[rank])


@torch.no_grad()
def initialize_weights(
    layers: Iterable[tuple[int, nn.Module]],
    *,
    model: ModelConfig,
    seed: int,
    topology: Topology,
    from_checkpoint: bool = False,
) -> None:
    """Fill every parameter of the layers, each of which comes with its global index, on as many threads as torch has here.

    from_checkpoint: a checkpoint will bring the weights, so that only adapters are drawn, which it may lack; the others are NaN until
    then, so that one which it does not bring is no weight that a run could train with.
    """
    drawings = []
    for index, layer in layers:
        growing = block_matrices(layer)
        for module_name, module in layer.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if from_checkpoint and not isinstance(module, Adapter):
                    parameter.fill_(math.nan)
                    continue
                initial = _initial(module, name, model, grows=parameter in growing)
                if isinstance(initial, float):
                    parameter.fill_(initial)
                else:
                    drawings.append((parameter, initial, stream_seed(seed, index, f"{module_name}.{name}")))
    drawings.sort(key=lambda drawing: drawing[0].numel(), reverse=True)  # so that the threads end together
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(lambda drawing: draw(*drawing, topology.tensor_rank, topology.tensor_size), drawings))


def _initial(module: nn.Module, name: str, model: ModelConfig, *, grows: bool) -> float | Callable[..., Tensor]:
    """What a parameter of a module begins with: a number, or what draws its whole matrix."""
    adapter = isinstance(module, Adapter)
    if name == "bias" or (adapter and name == "up"):
        return 0.0
    if isinstance(module, Norm):
        return 1.0
    if adapter:
        return partial(nn.init.kaiming_uniform_, a=math.sqrt(5))  # as in the paper's code
    to_residual = isinstance(module, RowLinear)
    return initializer(model.output_layer_init_method if to_residual else model.init_method, model, grows=grows)
