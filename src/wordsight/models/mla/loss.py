"""Losses of MLA-LP and MVFA on the margin z_abnormal - z_normal of patches and text.

Two-class softmax needs only the margin: softmax(z)[abnormal] = sigmoid(margin), and bilinear interpolation is linear,
so interpolating the margin equals interpolating both logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wordsight.models.mla.settings import DetectionLoss, MlaSettings


def upsample(maps: Tensor, size: int) -> Tensor:
    """(B, L, g, g) -> (B, L, size, size), bilinear with aligned corners as published."""
    return F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=True)


def top_mean(values: Tensor, share: float) -> Tensor:
    """Mean of the highest `share` of the last axis, at least one value; 1.0 is the plain mean."""
    if share >= 1:
        return values.mean(dim=-1)
    return values.topk(max(1, round(share * values.shape[-1])), dim=-1).values.mean(dim=-1)


def detection_loss(
    margin: Tensor, label: Tensor, kind: DetectionLoss = "sigmoid_of_probability", share: float = 1.0
) -> Tensor:
    """Image-level loss of one level, averaged over the batch.

    margin: (B, P) patch margins; label: (B,) float, 1 = abnormal. With a = mean over patches of sigmoid(margin), the
    published loss is BCE-with-logits(a, y): another sigmoid on a probability, so it stays within [0.313, 1.313].
    share: of the patches that a averages, most abnormal first.
    """
    if kind == "margin":
        return F.binary_cross_entropy_with_logits(top_mean(margin, share), label)
    probability = top_mean(margin.sigmoid(), share)
    if kind == "sigmoid_of_probability":
        return F.binary_cross_entropy_with_logits(probability, label)
    bounded = probability.float().clamp(1e-6, 1 - 1e-6)  # autocast forbids BCE on half-precision probabilities
    return -(label * bounded.log() + (1 - label) * (1 - bounded).log()).mean()


def focal_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """Two-class focal loss with gamma 2 and no class weight, mean over all pixels (Lin et al., ICCV 2017).

    probability: (B, H, W) of abnormal; mask: (B, H, W) in {0, 1}. One-hot targets are clamped to [1e-5, 1 - 1e-5] and
    1e-5 is added to the probability of the true class, as published.
    """
    target = mask.clamp(1e-5, 1 - 1e-5)
    other = (1 - mask).clamp(1e-5, 1 - 1e-5)
    true = target * probability + other * (1 - probability) + 1e-5
    return (-((1 - true) ** 2) * true.log()).mean()


def dice_loss(probability: Tensor, mask: Tensor, *, on_normal: bool = True) -> Tensor:
    """1 - (2 sum(p m) + 1) / (sum p + sum m + 1) per image, mean over the batch; shapes as in `focal_loss`.

    on_normal=False leaves images with an empty mask out of the sum (they give next to no gradient).
    """
    p, m = probability.flatten(1), mask.flatten(1)
    loss = 1 - (2 * (p * m).sum(1) + 1) / (p.sum(1) + m.sum(1) + 1)
    return (loss if on_normal else loss * m.any(1)).mean()


def segmentation_losses(
    margins: Sequence[Tensor], mask: Tensor, *, on_normal: bool = True
) -> tuple[list[Tensor], list[Tensor]]:
    """Focal and dice losses of every level, computed on the mask's grid.

    margins: per level (B, P) patch margins of a square grid; mask: (B, S, S) in {0, 1}.
    """
    size = mask.shape[-1]
    stacked = torch.stack([square(margin) for margin in margins], dim=1)
    levels = upsample(stacked, size).sigmoid().unbind(dim=1)
    return [focal_loss(p, mask) for p in levels], [dice_loss(p, mask, on_normal=on_normal) for p in levels]


def square(patches: Tensor) -> Tensor:
    """(..., P) row-major patches -> (..., g, g)."""
    side = round(patches.shape[-1] ** 0.5)
    return patches.reshape(*patches.shape[:-1], side, side)


@dataclass(frozen=True, slots=True)
class LossParts:
    """Scalar losses per level; focal and dice are empty for sets without masks."""

    det: tuple[Tensor, ...]
    focal: tuple[Tensor, ...] = ()
    dice: tuple[Tensor, ...] = ()

    @property
    def total(self) -> Tensor:
        """Plain sum of all terms, all weights 1."""
        return torch.stack([*self.focal, *self.dice, *self.det]).sum()


def training_loss(
    det_margins: Sequence[Tensor],
    seg_margins: Sequence[Tensor],
    label: Tensor,
    mask: Tensor | None,
    settings: MlaSettings,
) -> LossParts:
    """All losses of one batch: margins (B, P) per level, label (B,) float, mask (B, S, S) in {0, 1} or None."""
    det = tuple(detection_loss(margin, label, settings.detection_loss, settings.image_share) for margin in det_margins)
    if mask is None:
        return LossParts(det)
    focal, dice = segmentation_losses(seg_margins, mask, on_normal=settings.dice_on_normal)
    return LossParts(det, tuple(focal), tuple(dice))
