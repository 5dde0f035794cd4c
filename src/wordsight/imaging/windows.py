"""Grey-level windows: named CT windows in Hounsfield units and the transfer curves of DICOM PS3.3 C.11.2."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import ImageError, SettingsError

Window = tuple[float, float]

CT_WINDOWS: dict[str, Window] = {
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "soft-tissue": (50.0, 400.0),
    "liver": (30.0, 150.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "subdural": (75.0, 215.0),
    "stroke": (40.0, 40.0),
}
"""(centre, width) in Hounsfield units, as radiology textbooks give them (Radiopaedia, "Windowing (CT)")."""

DEFAULT_CT_WINDOW = "soft-tissue"


@dataclass(frozen=True, slots=True)
class ChosenWindow:
    """A window that the caller asked for; `named` windows are in Hounsfield units and so for CT only."""

    centre: float
    width: float
    text: str
    named: bool


def parse_window(window: Window | str | None) -> ChosenWindow | None:
    """A checked window from (centre, width), "centre/width" or a name in CT_WINDOWS, whose units are Hounsfield's.

    Raises SettingsError for anything else.
    """
    if window is None:
        return None
    if isinstance(window, str) and window in CT_WINDOWS:
        centre, width = CT_WINDOWS[window]
        return ChosenWindow(centre, width, f"{window} {centre:g}/{width:g}", True)
    try:
        centre, width = (float(v) for v in (window.split("/") if isinstance(window, str) else window))
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"expected a window (centre, width), such as 40/400, or one named {', '.join(CT_WINDOWS)}, got {window!r}."
        ) from error
    if not (math.isfinite(centre) and math.isfinite(width) and width > 0):
        raise SettingsError(f"expected a window with finite centre and width > 0, got {window!r}.")
    return ChosenWindow(centre, width, f"{centre:g}/{width:g}", False)


def apply_window(
    values: NDArray[np.floating], centre: float, width: float, function: str = "LINEAR"
) -> NDArray[np.float64]:
    """Values -> [0, 1] by a VOI LUT function of DICOM PS3.3 C.11.2.1.

    function: "LINEAR" (needs width >= 1; width 1 is a threshold), "LINEAR_EXACT" or "SIGMOID" (width > 0).
    Raises ImageError for an unknown function or a width outside its range.
    """
    least = 1.0 if function == "LINEAR" else math.nextafter(0.0, 1.0)
    if not (math.isfinite(centre) and math.isfinite(width) and width >= least):
        raise ImageError(
            f"expected a {function} window with width {'>= 1' if function == 'LINEAR' else '> 0'}, "
            f"got centre {centre}, width {width}. Give window=(centre, width)."
        )
    x = np.asarray(values, dtype=np.float64)
    if function == "LINEAR":
        if width == 1.0:
            return np.asarray(x > centre - 0.5, dtype=np.float64)
        return np.clip((x - (centre - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)
    if function == "LINEAR_EXACT":
        return np.clip((x - centre) / width + 0.5, 0.0, 1.0)
    if function == "SIGMOID":
        # Beyond +-40 the curve is 0 or 1 in double precision; the clip only avoids overflow in exp.
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (x - centre) / width, -700.0, 700.0)))
    raise ImageError(f"expected a VOI LUT function LINEAR, LINEAR_EXACT or SIGMOID, got {function!r}. Give window=.")


def stretch(values: NDArray[np.floating], low: float, high: float) -> NDArray[np.float64]:
    """Values -> [0, 1] with `low` at 0 and `high` at 1, clipped; all 0 where the two are equal."""
    if not high > low:
        return np.zeros(values.shape, dtype=np.float64)
    return np.clip((np.asarray(values, dtype=np.float64) - low) / (high - low), 0.0, 1.0)
