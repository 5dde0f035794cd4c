"""wordsight: find disease in medical images from words and a handful of examples."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wordsight import errors as errors
    from wordsight import evaluate as evaluate
    from wordsight import metrics as metrics
    from wordsight.data import records_from as records_from
    from wordsight.evaluate import Evaluation as Evaluation
    from wordsight.imaging import prepare as prepare
    from wordsight.imaging import read_image as read_image
    from wordsight.loading import load as load
    from wordsight.models.carzero.detector import CarZero as CarZero
    from wordsight.models.mla.detector import MlaLp as MlaLp
    from wordsight.models.mla.settings import MlaSettings as MlaSettings
    from wordsight.report import write_evaluation as write_evaluation
    from wordsight.types import Detector as Detector
    from wordsight.types import Geometry as Geometry
    from wordsight.types import Heatmap as Heatmap
    from wordsight.types import Image as Image
    from wordsight.types import Prediction as Prediction
    from wordsight.types import PromptSet as PromptSet
    from wordsight.types import Record as Record
    from wordsight.types import ScoreKind as ScoreKind

__version__ = "0.1.0"

_MODULES = ("errors", "evaluate", "metrics")
_HOMES = {
    "CarZero": "models.carzero.detector",
    "Detector": "types",
    "Evaluation": "evaluate",
    "Geometry": "types",
    "Heatmap": "types",
    "Image": "types",
    "MlaLp": "models.mla.detector",
    "MlaSettings": "models.mla.settings",
    "Prediction": "types",
    "PromptSet": "types",
    "Record": "types",
    "ScoreKind": "types",
    "load": "loading",
    "prepare": "imaging",
    "read_image": "imaging",
    "records_from": "data",
    "write_evaluation": "report",
}
__all__ = ["__version__", *_MODULES, *_HOMES]


def __getattr__(name: str) -> Any:
    """Import public names on first use: `import wordsight` itself loads neither torch nor readers."""
    if name in _MODULES:
        return importlib.import_module(f"wordsight.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'wordsight' has no attribute {name!r}")
    return getattr(importlib.import_module(f"wordsight.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
