"""Steps of the networks that write into memory used before.

New memory is handed out by the system page by page, which can cost as much as what is written into it. On the CPU in
full precision results go into buffers that the next step, layer and batch use again; elsewhere (CUDA has its own pool
of memory, autocast its own formats) they are new tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wordsight.models.carzero.fusion import DecoderLayer, SimilarityFusion

_PAGE = 1024


class Workspace:
    """Buffers by name, for one call at a time, without gradients.

    A tensor that `take` or `linear` returned is overwritten by the next one of the same name. fixed: weights stay as
    they are, so that what speeds up products with them can be kept.
    """

    def __init__(self, *, fixed: bool = False) -> None:
        self._fixed = fixed
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}
        self._turned: dict[nn.Linear, Tensor] = {}

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """(shape) numbers of any value, of the type and device of `like`."""
        if in_new_memory(like):
            return torch.empty(shape, dtype=like.dtype, device=like.device)
        key, size = (name, like.dtype), math.prod(shape)
        kept = self._buffers.get(key)
        if kept is None or kept.numel() < size:
            with torch.inference_mode(False):  # else it could not be written to outside of inference mode
                kept = self._buffers[key] = torch.empty(size, dtype=like.dtype)
        return kept[:size].view(shape)

    def linear(self, name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(R, in) -> (R, out), x weight^T + bias."""
        if in_new_memory(x):
            return F.linear(x, weight, bias)
        return torch.addmm(bias, x, weight.T, out=self.take(name, x, len(x), len(weight)))

    def add_linear(self, x: Tensor, y: Tensor, layer: nn.Linear) -> None:
        """Add layer(y) to x: (R, out), (R, in)."""
        if in_new_memory(x):
            x += layer(y)
        else:
            x.addmm_(y, self._transposed(layer)).add_(layer.bias)

    def feed_forward(self, layer: DecoderLayer, x: Tensor) -> None:
        """Add to x (R, D) what the layer's feed-forward makes of it."""
        hidden = self.linear("wide", layer.norm3(x), layer.linear1.weight, layer.linear1.bias)
        self.add_linear(x, hidden.relu_(), layer.linear2)

    def logits(self, fusion: SimilarityFusion, x: Tensor) -> Tensor:
        """What the last layer leaves, (R, D) -> logits (R,), a new tensor."""
        *hidden, last = [step for step in fusion.mlp_head if isinstance(step, nn.Linear)]
        x = fusion.decoder_norm(x)
        for depth, layer in enumerate(hidden):
            name = "narrow" if depth % 2 else "wide"
            if in_new_memory(x):
                x = layer(x).relu_()
            else:
                out = self.take(name, x, len(x), layer.out_features)
                x = torch.addmm(layer.bias, x, self._transposed(layer), out=out).relu_()
        found: Tensor = last(x)
        return found.squeeze(-1)

    def product(self, out: Tensor, a: Tensor, b: Tensor) -> None:
        """out = a b, for batches of matrices."""
        if in_new_memory(out):
            out.copy_(torch.bmm(a, b))
        else:
            torch.bmm(a, b, out=out)

    def add_product(self, x: Tensor, a: Tensor, b: Tensor) -> None:
        """x += a b, for batches of matrices."""
        if in_new_memory(x):
            x += torch.bmm(a, b)
        else:
            x.baddbmm_(a, b)

    def _transposed(self, layer: nn.Linear) -> Tensor:
        """The weight as (in, out); a copy where rows lie whole pages apart, since those share few places of a cache."""
        if not self._fixed or layer.in_features % _PAGE:
            return layer.weight.T
        if layer not in self._turned:
            with torch.inference_mode(False):
                self._turned[layer] = layer.weight.detach().T.contiguous()
        return self._turned[layer]


class Workspaces:
    """A workspace for every call that runs at the same time in some thread; one in most programs."""

    def __init__(self, *, fixed: bool = False) -> None:
        self._fixed = fixed
        self._idle: list[Workspace] = []

    @contextmanager
    def one(self) -> Iterator[Workspace]:
        """A workspace that no other call has meanwhile."""
        try:
            work = self._idle.pop()
        except IndexError:
            work = Workspace(fixed=self._fixed)
        yield work
        self._idle.append(work)


def in_new_memory(x: Tensor) -> bool:
    """Whether results of this tensor's device and precision are new tensors."""
    return x.device.type != "cpu" or torch.is_autocast_enabled("cpu")
