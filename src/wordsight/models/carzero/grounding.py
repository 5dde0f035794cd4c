"""Where an image speaks for a sentence: the attention of the image-to-text direction as a map."""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from wordsight.errors import MetricError, SettingsError
from wordsight.models.carzero.settings import CarZeroSettings
from wordsight.types import Float32

Enlarge = Literal["nearest", "smooth"]


def attention_maps(attention: Tensor, settings: CarZeroSettings) -> Tensor:
    """Attention of sentences on image tokens (layers, B, T, n) -> (B, T, g, g), rows from the top.

    The mean of the layers, without the global token and not normalised again: what the global token takes is missing
    from the sum. Raises SettingsError for a network whose memory has no local tokens.
    """
    if settings.memory == "global":
        raise SettingsError(
            "expected memory='local' or 'global+local' to ground findings, got 'global': this network attends to one "
            "token of the whole image. Use another variant."
        )
    cells = attention.mean(dim=0)[..., int(settings.memory == "global+local") :]
    return cells.reshape(*cells.shape[:-1], settings.grid, settings.grid)


def enlarge(maps: Tensor, size: int, how: Enlarge = "smooth") -> Tensor:
    """(B, T, g, g) -> (B, T, size, size): cells repeated as published, or bilinear between their centres for display.

    Raises SettingsError for another way.
    """
    if how == "nearest":
        return F.interpolate(maps, size=(size, size), mode="nearest")
    if how == "smooth":
        return F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)
    raise SettingsError(f"expected 'nearest' or 'smooth', got {how!r}.")


def peak(values: Float32) -> tuple[float, float]:
    """(row, column) of a map's largest value, in continuous coordinates where pixel i covers [i, i + 1).

    values: (h, w), NaN where nothing was seen. Cells that share the largest value (a repeated coarse cell) are
    averaged, so that the nearest and the coarse form of a map point at the same place.
    Raises MetricError for a map without a number.
    """
    if values.ndim != 2 or np.isnan(values).all():
        raise MetricError(f"expected a map (h, w) with numbers, got shape {values.shape}. Check the prediction.")
    rows, columns = np.nonzero(values == np.nanmax(values))
    return float(rows.mean()) + 0.5, float(columns.mean()) + 0.5
