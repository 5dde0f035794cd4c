"""Where an image speaks for a sentence: the attention of the image-to-text direction as a map."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from wordsight.errors import SettingsError
from wordsight.models.carzero.settings import CarZeroSettings

Enlarge = Literal["nearest", "smooth"]
TOP_TIMES_EVEN = 10.0


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


def even_share(settings: CarZeroSettings) -> float:
    """What each cell would take if attention were spread evenly over all cells: 1/196 of the published network."""
    return 1 / settings.grid**2


def display_limits(settings: CarZeroSettings) -> tuple[float, float]:
    """Shares of attention at the ends of the colour map: none, and TOP_TIMES_EVEN times the even share.

    Fixed, so that colours of two images or findings compare. A scale of drawing, not fitted to any patients.
    """
    return 0.0, TOP_TIMES_EVEN * even_share(settings)
