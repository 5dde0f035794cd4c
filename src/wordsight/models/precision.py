"""Number formats that networks compute in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from wordsight.errors import SettingsError

Precision = Literal["fp32", "bf16", "fp16"]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Mixed precision for a device; fp32 changes nothing. Raises SettingsError for fp16 without CUDA."""
    if precision == "fp32":
        return nullcontext()
    if precision == "fp16" and device.type != "cuda":
        raise SettingsError(f"precision fp16 needs a CUDA device, got {device.type}. Use bf16 or fp32 there.")
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)
