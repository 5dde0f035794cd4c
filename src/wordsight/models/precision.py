"""Number formats that networks compute in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from wordsight.errors import SettingsError

Precision = Literal["fp32", "bf16", "fp16"]
PrecisionChoice = Literal["fp32", "bf16", "fp16", "auto"]
"""A number format, or "auto" for what `choose_precision` gives."""


def choose_precision(device: torch.device | str) -> Precision:
    """The fastest number format that the device multiplies matrices in by itself, with errors far below the scores'.

    CUDA: bf16 where the card has it (compute capability 8.0, Ampere, and later), else fp16. CPU: bf16 with AMX-BF16
    (Intel since Sapphire Rapids), whose tiles do many times the fp32 work; without it bf16 is converted back and forth
    and slower, so fp32. Any other device: fp32. benchmarks/precision.py measures error and gain.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    return "bf16" if device.type == "cpu" and has_amx_bf16() else "fp32"


def resolve_precision(wanted: PrecisionChoice, device: torch.device | str) -> Precision:
    """The number format that is meant. Raises SettingsError for another name and for fp16 without CUDA."""
    if wanted == "auto":
        return choose_precision(device)
    if wanted not in ("fp32", "bf16", "fp16"):
        raise SettingsError(f"precision: expected fp32, bf16, fp16 or auto, got {wanted!r}. Check the name.")
    autocast(torch.device(device), wanted)
    return wanted


def has_amx_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices in tiles."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        return bool(capabilities().get("amx_bf16", False))
    return "amx_bf16" in _processor_flags()


def _processor_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the first processor says it can do; empty where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = [line.partition(":")[2].split() for line in lines if line.startswith("flags")]
    return frozenset(flags[0]) if flags else frozenset()


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Mixed precision for a device; fp32 is fp32, on CUDA too. Raises SettingsError for fp16 without CUDA."""
    if precision == "fp32":
        return _exact_convolutions() if device.type == "cuda" else nullcontext()
    if precision == "fp16" and device.type != "cuda":
        raise SettingsError(f"precision fp16 needs a CUDA device, got {device.type}. Use bf16 or fp32 there.")
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """Within it CUDA does not round factors of fp32 convolutions to 10 bits, which is PyTorch's default for them."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def rounded_products(device: torch.device, precision: Precision) -> Iterator[None]:
    """Within it CUDA may round factors of fp32 products to 10 bits (TF32), where the precision is reduced anyway.

    For values whose sums and differences need fp32, such as distances: most of a GPU's speed is in its matrix units,
    which take no fp32 factors. Elsewhere, and with fp32, it changes nothing. The setting is PyTorch's own, of the whole
    process, and put back.
    """
    before = torch.get_float32_matmul_precision()
    if device.type != "cuda" or precision == "fp32" or before != "highest":
        yield
        return
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
