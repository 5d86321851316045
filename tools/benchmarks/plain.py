"""The peer of the benchmark: a GPT and its training loop as one writes them in a single file of plain PyTorch.

Pre-norm blocks with rotary positions, GELU and an output layer of its own; hidden states are (batch, sequence, hidden).
Needs torch alone: nothing here comes from neox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# fp32 throughout; bf16 by autocast over fp32 weights; bf16 weights and gradients beside fp32 masters
Precision = Literal["fp32", "autocast", "masters"]


@dataclass(frozen=True)
class PlainShape:
    """Sizes of the model."""

    num_layers: int
    hidden_size: int
    num_heads: int
    seq_length: int
    vocab_size: int  # padded
    rotary_base: int = 10_000
    norm_epsilon: float = 1e-5


def rotate(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: (batch, heads, seq, head_dim) turned by angles of (seq, head_dim / 2)."""
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, shape: PlainShape):
        super().__init__()
        self.num_heads = shape.num_heads
        self.qkv = nn.Linear(shape.hidden_size, 3 * shape.hidden_size)
        self.out = nn.Linear(shape.hidden_size, shape.hidden_size)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, seq, width = hidden.shape
        query, key, value = (
            part.view(batch, seq, self.num_heads, -1).transpose(1, 2) for part in self.qkv(hidden).split(width, dim=2)
        )
        cos, sin = cos.to(query.dtype), sin.to(query.dtype)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, seq, width))


class Block(nn.Module):
    """Attention and MLP, each behind its norm, added to the residual stream."""

    def __init__(self, shape: PlainShape):
        super().__init__()
        self.norm_1 = nn.LayerNorm(shape.hidden_size, eps=shape.norm_epsilon)
        self.attention = Attention(shape)
        self.norm_2 = nn.LayerNorm(shape.hidden_size, eps=shape.norm_epsilon)
        self.widen = nn.Linear(shape.hidden_size, 4 * shape.hidden_size)
        self.narrow = nn.Linear(4 * shape.hidden_size, shape.hidden_size)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.norm_1(hidden), cos, sin)
        return hidden + self.narrow(F.gelu(self.widen(self.norm_2(hidden))))


class PlainGPT(nn.Module):
    """tokens (batch, seq) -> logits (batch, seq, vocab_size)."""

    def __init__(self, shape: PlainShape):
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.norm = nn.LayerNorm(shape.hidden_size, eps=shape.norm_epsilon)
        self.head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        dims = shape.hidden_size // shape.num_heads
        frequencies = shape.rotary_base ** -(torch.arange(0, dims, 2) / dims)
        angles = torch.outer(torch.arange(shape.seq_length), frequencies)
        # in no module's buffers, so that a cast of the model does not round them before their cosines are taken
        self.angles = angles.cos(), angles.sin()

    def forward(self, tokens: Tensor) -> Tensor:
        cos, sin = (table[: tokens.shape[1]].to(tokens.device) for table in self.angles)
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden, cos, sin)
        return self.head(self.norm(hidden))


def loss_of(model: Callable[[Tensor], Tensor], tokens: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of (batch, seq) labels, in fp32."""
    logits = model(tokens).float()
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.reshape(-1))


class PlainTrainer:
    """The training loop's body: forward, backward, clip, AdamW."""

    def __init__(
        self,
        model: PlainGPT,
        *,
        precision: Precision,
        device: torch.device,
        compiled: bool = False,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
        clip: float = 1.0,
    ):
        self.device, self.clip, self.precision = device, clip, precision
        model.to(device)
        self.weights = list(model.parameters())
        self.masters = self.weights
        if precision == "masters":
            self.masters = [weight.detach().clone() for weight in self.weights]
            model.bfloat16()
        groups = [
            {"params": [master for master in self.masters if master.dim() >= 2], "weight_decay": weight_decay},
            {"params": [master for master in self.masters if master.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
        self.model = torch.compile(model) if compiled else model

    def step(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """One update from a batch on the CPU, (batch, seq) each; the loss before it, on the device."""
        tokens, labels = (tensor.to(self.device, non_blocking=True) for tensor in (tokens, labels))
        autocast = torch.autocast(self.device.type, torch.bfloat16) if self.precision == "autocast" else nullcontext()
        with autocast:
            loss = loss_of(self.model, tokens, labels)
        loss.backward()
        if self.precision == "masters":
            for master, weight in zip(self.masters, self.weights):
                master.grad, weight.grad = weight.grad.float(), None
        nn.utils.clip_grad_norm_(self.masters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.precision == "masters":
            with torch.no_grad():
                torch._foreach_copy_(self.weights, self.masters)
        return loss.detach()


def random_batches(vocab_size: int, batch_size: int, seq_length: int, pool: int = 4) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (tokens, labels) of random ids, (batch_size, seq_length) int64 each; the same for every caller."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(vocab_size, (pool, batch_size, seq_length + 1), generator=generator)
    pairs = [(sample[:, :-1].contiguous(), sample[:, 1:].contiguous()) for sample in samples]
    if torch.cuda.is_available():
        pairs = [(tokens.pin_memory(), labels.pin_memory()) for tokens, labels in pairs]
    while True:
        yield from pairs
