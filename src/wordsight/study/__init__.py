"""Whole pieces of work: train on draws and seeds, evaluate runs, predict folders, convert checkpoints, a demonstration.

Everything that the commands do, for use from Python; the command line only translates arguments.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "CarZeroOptions": "pretrain",
    "CarZeroStudy": "pretrain",
    "EvaluateOptions": "options",
    "PredictOptions": "options",
    "ScoreOptions": "score",
    "Study": "options",
    "TrainOptions": "options",
    "convert": "checkpoints",
    "demo": "showcase",
    "demo_carzero": "showcase",
    "evaluate_study": "evaluate",
    "predict_study": "predict",
    "score_predictions": "score",
    "train_carzero": "pretrain",
    "train_study": "train",
    "write_score": "score",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Import on first use: options are light, the work itself needs torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wordsight.study' has no attribute {name!r}")
    return getattr(importlib.import_module(f"wordsight.study.{_HOMES[name]}"), name)
