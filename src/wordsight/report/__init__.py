"""Evaluations and predictions -> files and self-contained pages that people read."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "read_results": "store",
    "rebuild_report": "store",
    "render_report": "html",
    "write_evaluation": "store",
    "prediction_folder": "predictions",
    "write_predictions": "predictions",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Import on first use: pages and figures are needed only when a report is written."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wordsight.report' has no attribute {name!r}")
    return getattr(importlib.import_module(f"wordsight.report.{_HOMES[name]}"), name)
