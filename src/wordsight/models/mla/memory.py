"""The memory bank: tokens of the augmented normal support images, searched for the nearest neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK_BYTES = 8 << 20
"""Largest similarity block while searching: it should still be in the processor's cache when its maximum is taken."""


@dataclass(frozen=True, slots=True)
class MemoryBank:
    """Normalised rows per level, and which support image each row stems from.

    rows: L tensors (R, D), unit length (norms clamped at 1e-8 as in the published cosine);
    owner: (R,) int64 index of the support image, the same for its augmentations;
    relative: whether rows and queries are `relative_tokens`, in place of the tokens themselves as published.
    """

    rows: tuple[Tensor, ...]
    owner: Tensor
    relative: bool = False

    @classmethod
    def build(
        cls,
        tokens: Sequence[Tensor],
        owner: Tensor,
        *,
        class_token: bool = True,
        prefix: int = 1,
        relative: bool = False,
    ) -> MemoryBank:
        """tokens: per level (images, prefix + P, D), class token first; owner: (images,) support index.

        class_token: whether the prefix tokens (1 for CLIP's class token, 0 or more for other towers) are rows too; of
        relative rows they are none, since only patches have others of their image to be compared with.
        """
        first = 0 if class_token and not relative else prefix
        kept = [level[:, first:] for level in tokens]
        rows = tuple(_unit(level, relative).flatten(0, 1) for level in kept)
        return cls(rows, owner.repeat_interleave(kept[0].shape[1]), relative)

    def to(self, device: torch.device | str) -> MemoryBank:
        """The same bank on another device."""
        return MemoryBank(tuple(level.to(device) for level in self.rows), self.owner.to(device), self.relative)

    @property
    def content(self) -> str:
        """Hash of the rows and their owners (hexadecimal, 16 digits)."""
        from wordsight.models.tensor_files import hash_tensors

        return hash_tensors({"owner": self.owner, **{f"rows.{i}": rows for i, rows in enumerate(self.rows)}})[:16]

    def distance(self, patches: Sequence[Tensor], *, leave_out: int | None = None) -> Tensor:
        """Cosine distance to the nearest row, summed over levels: (B, P), in [0, 2 L].

        patches: per level (B, P, D) without class token. leave_out: a support image whose rows do not count.
        """
        keep = None if leave_out is None else self.owner != leave_out
        total = torch.zeros(patches[0].shape[:2], device=patches[0].device)
        for rows, level in zip(self.rows, patches, strict=True):
            queries = _unit(level, self.relative)
            total += 1 - self._nearest(queries, rows if keep is None else rows[keep])
        return total

    @staticmethod
    def _nearest(queries: Tensor, rows: Tensor) -> Tensor:
        """Largest cosine of each query to any row, in blocks of bounded memory: (B, P, D), (R, D) -> (B, P)."""
        flat = queries.flatten(0, 1)
        step = max(1, BLOCK_BYTES // (4 * len(flat)))
        best = torch.full((len(flat),), -torch.inf, device=flat.device)
        for start in range(0, len(rows), step):
            best = torch.maximum(best, (flat @ rows[start : start + step].T).amax(dim=1))
        return best.view(queries.shape[:2])


def relative_tokens(patches: Tensor) -> Tensor:
    """Every channel less its mean over the image's patches, in its deviations over them: (..., P, D) -> the same.

    Takes off what all patches of an image share, such as stain, exposure and scanner: instance normalisation (Ulyanov
    et al., 2016) of features. An image without any difference becomes 0.
    """
    mean, deviation = patches.mean(dim=-2, keepdim=True), patches.std(dim=-2, keepdim=True, correction=0)
    return (patches - mean) / (deviation + 1e-6)


def _unit(patches: Tensor, relative: bool) -> Tensor:
    """Tokens (B, P, D) at unit length in fp32, norms clamped at 1e-8; relative: of each image's relative tokens."""
    values = patches.float()
    return F.normalize(relative_tokens(values) if relative else values, dim=-1, eps=1e-8)


def distance_within(patches: Sequence[Tensor], grid: tuple[int, int], reach: int, *, relative: bool = False) -> Tensor:
    """What `MemoryBank.distance` says of images that only themselves are remembered of: (B, P), in [0, 2 L].

    A patch is compared with those of its own image that are more than `reach` rows or columns away, since the nearer
    ones share what it shows. patches: per level (B, P, D) without class token, P = rows * columns of the grid.
    relative: compare relative tokens.
    """
    rows, columns = (torch.arange(count, device=patches[0].device) for count in grid)
    place = torch.cartesian_prod(rows, columns)
    near = (place[:, None] - place[None]).abs().amax(dim=-1) <= reach
    total = torch.zeros(patches[0].shape[:2], device=patches[0].device)
    for level in patches:
        unit = _unit(level, relative)
        total += 1 - (unit @ unit.mT).masked_fill(near, -1.0).amax(dim=-1)
    return total
