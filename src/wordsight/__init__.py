"""wordsight: find disease in medical images from words and a handful of examples."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Detector": "types",
    "Geometry": "types",
    "Heatmap": "types",
    "Image": "types",
    "Prediction": "types",
    "PromptSet": "types",
    "Record": "types",
    "ScoreKind": "types",
    "prepare": "imaging",
    "read_image": "imaging",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import public names on first use: `import wordsight` itself loads neither torch nor readers."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wordsight' has no attribute {name!r}")
    return getattr(importlib.import_module(f"wordsight.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
