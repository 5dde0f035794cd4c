"""One batch spread over processes: what all need of each other, with gradients that are those of one process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

K = TypeVar("K")
V = TypeVar("V")


class _Gather(torch.autograd.Function):
    """Rows of all processes; backward adds up what every process does with this one's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        most = max(sizes)
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].contiguous()
        distributed.all_reduce(total)
        start = sum(ctx.sizes[: ctx.rank])
        return total[start : start + ctx.sizes[ctx.rank]], None, None


def gather(rows: Tensor, sizes: list[int], rank: int) -> Tensor:
    """(n, ...) of every process -> all rows in the order of the processes; sizes: n of each; as it is for one process.

    When every process takes the same loss of gathered values and the gradients of weights are averaged
    (`average_gradients`), they are exactly those of one process that holds the whole batch.
    """
    if len(sizes) == 1:
        return rows
    found: Tensor = _Gather.apply(rows, sizes, rank)
    return found


def average_gradients(parameters: Iterable[nn.Parameter], world: int) -> None:
    """Replace every gradient by its mean over the processes."""
    if world == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    for work in [distributed.all_reduce(gradient, async_op=True) for gradient in gradients]:
        assert work is not None
        work.wait()
    for gradient in gradients:
        gradient /= world


def gather_items(own: Mapping[K, V], world: int, device: torch.device) -> dict[K, V]:
    """Items of the mappings of all processes, in the order of the processes; seldom any, so only a count is sent."""
    if world == 1:
        return dict(own)
    count = torch.tensor(len(own), device=device)
    distributed.all_reduce(count)
    if not count.item():
        return {}
    parts: list[Any] = [None] * world
    distributed.all_gather_object(parts, dict(own))
    return {key: value for part in parts for key, value in part.items()}
