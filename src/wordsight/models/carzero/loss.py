"""The symmetric contrastive loss over all pairs of a batch, as published and with pairs that are left out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wordsight.errors import TrainingError
from wordsight.models.carzero.model import PairLogits


def contrastive_loss(logits: Tensor) -> Tensor:
    """(cross-entropy over rows + over columns) / 2 of square logits (B, B), the diagonal being right; no temperature.

    Raises TrainingError for logits that are not square.
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise TrainingError(
            f"expected logits (B, B), one text per image, got shape {list(logits.shape)}. "
            "Give as many texts as images, in the same order."
        )
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def pair_loss(logits: PairLogits) -> Tensor:
    """Sum of the losses of both directions; 2 ln(batch) at chance. Equal texts of other images count as wrong."""
    return contrastive_loss(logits.i2t) + contrastive_loss(logits.t2i)


def matching_loss(logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """The same loss where an image has several texts, a text several images, and some pairs are neither.

    logits: (B, T). right: (n, 2) int64 pairs (image, text) that belong together. wrong: (B, T) bool pairs that do not;
    what is neither right nor wrong has no part. Each right pair competes with the wrong pairs of its image and with
    those of its text: the mean of both cross-entropies. With the diagonal right and all else wrong it is
    `contrastive_loss`. Raises TrainingError without a right pair and for shapes that do not fit.
    """
    if not len(right) or wrong.shape != logits.shape:
        raise TrainingError(
            f"expected at least one right pair and marks of shape {list(logits.shape)}, got {len(right)} and "
            f"{list(wrong.shape)}. Give every batch an image with a caption."
        )
    # far below any logit, yet finite: a row without wrong pairs then costs nothing and has no gradient
    others = logits.float().masked_fill(~wrong, torch.finfo(torch.float32).min / 4)
    image, text = right.unbind(1)
    own = logits.float()[image, text]
    rows, columns = others.logsumexp(dim=1)[image], others.logsumexp(dim=0)[text]
    return (F.softplus(rows - own).mean() + F.softplus(columns - own).mean()) / 2
