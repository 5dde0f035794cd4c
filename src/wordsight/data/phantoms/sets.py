"""The six sets by the folder names of the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType

import numpy as np

from wordsight.data.phantoms.common import SIZE, Phantom, stream
from wordsight.errors import DataError

Draw = Callable[[np.random.Generator, bool, int], Phantom]


def _drawn_by(module: str, function: str = "draw") -> Draw:
    """A draw function that imports its module at the first call, which keeps `import wordsight.data` cheap."""

    def draw(rng: np.random.Generator, abnormal: bool, size: int = SIZE) -> Phantom:
        chosen = getattr(import_module(f"wordsight.data.phantoms.{module}"), function)
        phantom: Phantom = chosen(rng, abnormal, size)
        return phantom

    return draw


SETS: Mapping[str, Draw] = MappingProxyType(
    {
        "Brain": _drawn_by("brain"),
        "Liver": _drawn_by("liver"),
        "Retina_RESC": _drawn_by("oct", "draw_resc"),
        "Retina_OCT2017": _drawn_by("oct", "draw_oct2017"),
        "Chest": _drawn_by("chest"),
        "Histopathology": _drawn_by("histology"),
    }
)
MASKED = frozenset({"Brain", "Liver", "Retina_RESC"})


@cache
def keep_memory() -> None:
    """Once per process, free a large array: glibc then reuses freed memory instead of faulting it in for each array."""
    np.empty(4_000_000, np.float32)


def draw_phantom(name: str, seed: int, index: int, abnormal: bool, size: int = SIZE) -> Phantom:
    """Draw image `index` of set `name` (a key of SETS); the same arguments give the same pixels on every call.

    The normal and the abnormal image of one index show the same anatomy where the set allows it.
    seed, index: integers in [0, 2**32). Raises DataError for an unknown set, SettingsError for a seed out of range.
    """
    if name not in SETS:
        raise DataError(f"unknown phantom set {name!r}: expected one of {', '.join(SETS)}. Check the spelling.")
    keep_memory()
    return SETS[name](stream(name, seed, index), abnormal, size)
