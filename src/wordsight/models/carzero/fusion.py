"""The similarity of a picture and a sentence, read off cross-attention (SimR, "similarity representation").

One decoder with one set of weights serves both directions: image tokens asked by sentences, words asked by images.
Queries never see each other, so every (memory, query) pair has its own logit, whatever stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wordsight.models.carzero.settings import CarZeroSettings


@dataclass(frozen=True, slots=True)
class Memory:
    """Keys and values of M memories in every layer, computed once for any number of queries.

    keys, values: per layer (M, H, n, d). bias: (n,) logarithm of how many equal positions each key stands for, None
    where each stands for itself. padding: how many positions the last key stands for, 0 if it is one of its own.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    bias: Tensor | None
    padding: int

    def __len__(self) -> int:
        return int(self.keys[0].shape[0])

    def __getitem__(self, rows: slice) -> Memory:
        return Memory(tuple(k[rows] for k in self.keys), tuple(v[rows] for v in self.values), self.bias, self.padding)

    def spread(self, attention: Tensor) -> Tensor:
        """(..., n) attention on keys -> attention on all positions; what a key stands for shares its weight."""
        if not self.padding:
            return attention
        shared = attention[..., -1:] / self.padding
        return torch.cat([attention[..., :-1], shared.expand(*shared.shape[:-1], self.padding)], dim=-1)


class DecoderLayer(nn.Module):
    """Pre-norm cross-attention and feed-forward. `self_attn` and `norm1` are in the published files and unused."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.self_attn = nn.MultiheadAttention(width, heads).requires_grad_(False)
        self.multihead_attn = nn.MultiheadAttention(width, heads)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm1 = nn.LayerNorm(width).requires_grad_(False)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def _split(self, x: Tensor) -> Tensor:
        """(..., n, D) -> (..., H, n, d)."""
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(-2, -3)

    def remember(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Normed memory (M, n, D) -> its keys and values (M, H, n, d)."""
        weight, bias = self.multihead_attn.in_proj_weight, self.multihead_attn.in_proj_bias
        width = memory.shape[-1]
        keys, values = F.linear(memory, weight[width:], bias[width:]).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, maps: bool
    ) -> tuple[Tensor, Tensor | None]:
        """x: (M or 1, Q, D) -> (M, Q, D), and with `maps` the attention (M, Q, n), mean of the heads."""
        weight, offset = self.multihead_attn.in_proj_weight, self.multihead_attn.in_proj_bias
        width = x.shape[-1]
        queries = self._split(F.linear(self.norm2(x), weight[:width], offset[:width]))
        queries = queries.expand(len(keys), -1, -1, -1)  # (M, H, Q, d)
        read, attention = self.attend(queries, keys, values, bias, maps)
        x = x + self.dropout(self.multihead_attn.out_proj(read.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.feed_forward(x)), attention

    def feed_forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D), what is added to x."""
        out: Tensor = self.linear2(self.dropout(F.relu(self.linear1(self.norm3(x)), inplace=True)))
        return out

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, maps: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Scaled dot-product attention, fused unless its weights are wanted."""
        drop = self.dropout.p if self.training else 0.0
        if not maps:
            mask = None if bias is None else bias.to(queries.dtype).expand(queries.shape[-2], -1)
            return F.scaled_dot_product_attention(queries, keys, values, mask, dropout_p=drop), None
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])  # (M, H, Q, n)
        attention = (scores if bias is None else scores + bias).softmax(dim=-1)
        return F.dropout(attention, drop) @ values, attention.mean(dim=1)


class Decoder(nn.Module):
    """The layers, and the norm that the published files list here a second time."""

    def __init__(self, layers: list[DecoderLayer], norm: nn.LayerNorm) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def __iter__(self) -> Iterator[DecoderLayer]:
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            yield layer


class SimilarityFusion(nn.Module):
    """Queries read a memory through the decoder; what they come back with is turned into one logit.

    `decoder_norm` acts three times: on memories, on queries, on the decoder's output. `logit_scale` is unused.
    """

    def __init__(self, settings: CarZeroSettings) -> None:
        super().__init__()
        width = settings.width
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)), requires_grad=False)
        self.decoder_norm = nn.LayerNorm(width)
        shape = (width, settings.fusion_heads, settings.fusion_hidden, settings.dropout)
        self.decoder = Decoder([DecoderLayer(*shape) for _ in range(settings.fusion_layers)], self.decoder_norm)
        self.dropout = nn.Dropout(settings.dropout)
        self.mlp_head = similarity_head(settings)
        self.apply(_initialise)

    def remember(self, tokens: Tensor, padding: int = 0) -> Memory:
        """Memories (M, n, D) and `padding` more positions of zero vectors -> their keys and values.

        Zero vectors are not masked: the norm turns each into the same vector, which is attended to. They are one key
        whose weight is multiplied by their number; in training, where dropout tells them apart, they are spelled out.
        """
        normed, bias = self.norm_memory(tokens, padding)
        keys, values = zip(*(layer.remember(normed) for layer in self.decoder), strict=True)
        return Memory(keys, values, bias, 0 if bias is None else padding)

    def norm_memory(self, tokens: Tensor, padding: int = 0) -> tuple[Tensor, Tensor | None]:
        """What every layer looks at, (M, n', D), and the (n',) bias of `Memory`."""
        if padding:
            rows = padding if self.training else 1
            tokens = F.pad(tokens, (0, 0, 0, rows))
        normed = self.decoder_norm(tokens)
        if not padding or self.training:
            return normed, None
        bias = torch.zeros(tokens.shape[1], device=tokens.device)
        bias[-1] = math.log(padding)
        return normed, bias

    def decode(self, memory: Memory, queries: Tensor, *, maps: bool = False) -> tuple[Tensor, Tensor | None]:
        """What Q queries (Q, D) read in M memories, (M, Q, D); with `maps` the attention (layers, M, Q, positions)."""
        x = self.decoder_norm(queries)[None]  # (1, Q, D): the same for every memory until the first layer is done
        attention = []
        for layer, keys, values in zip(self.decoder, memory.keys, memory.values, strict=True):
            x, weights = layer(x, keys, values, memory.bias, maps)
            if weights is not None:
                attention.append(memory.spread(weights))
        return self.decoder_norm(x), torch.stack(attention) if maps else None

    def compare(self, memory: Memory, queries: Tensor) -> Tensor:
        """Logits (M, Q) of queries (Q, D); neither a sigmoid nor a temperature follows."""
        return self.head(self.decode(memory, queries)[0])

    def compare_with_maps(self, memory: Memory, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (M, Q) and the attention of every layer (layers, M, Q, positions), mean of the heads."""
        x, attention = self.decode(memory, queries, maps=True)
        assert attention is not None
        return self.head(x), attention

    def logits(self, x: Tensor) -> Tensor:
        """What the last layer leaves, (..., D) -> logits (...)."""
        return self.head(self.decoder_norm(x))

    def head(self, x: Tensor) -> Tensor:
        """What `decode` returns, (..., D) -> logits (...)."""
        logits: Tensor = self.mlp_head(self.dropout(x))
        return logits.squeeze(-1)

    def forward(self, tokens: Tensor, queries: Tensor, padding: int = 0) -> Tensor:
        """Memories (M, n, D) with `padding` more zero vectors each, queries (Q, D) -> logits (M, Q)."""
        return self.compare(self.remember(tokens, padding), queries)


def similarity_head(settings: CarZeroSettings) -> nn.Sequential:
    """From the decoder's output to one number."""
    sizes = (settings.width, *(settings.mlp_sizes if settings.head == "mlp" else ()))
    layers: list[nn.Module] = []
    for size, following in pairwise(sizes):
        layers += [nn.Linear(size, following), nn.ReLU(), nn.Dropout(settings.dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


def _initialise(module: nn.Module) -> None:
    """N(0, 0.02) for the weights of linear layers and attention, as published; biases as PyTorch draws them."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
    elif isinstance(module, nn.MultiheadAttention):
        nn.init.normal_(module.in_proj_weight, std=0.02)
