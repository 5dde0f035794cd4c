"""The symmetric contrastive loss over all pairs of a batch."""

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
