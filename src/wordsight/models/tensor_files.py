"""Tensor files of any common kind -> name and tensor, without running code of the file; and the account of keys."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wordsight.errors import WeightsError
from wordsight.models.torchscript import is_torchscript, read_torchscript

Shapes = Mapping[str, tuple[int, ...]]
TORCH_PROBLEMS: tuple[type[Exception], ...] = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    AssertionError, OSError, zipfile.BadZipFile, UnicodeDecodeError, OverflowError,
)  # fmt: skip
"""What torch.load(weights_only=True) raises on damaged or unsafe files."""
_SHOWN = 10
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer (the real file was never fetched: run `git lfs pull`)"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x1f\x8b", "a gzip file"),
    (b"%PDF", "a PDF"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x80", "a pickle"),
    (b"PK", "a zip archive"),
)


@dataclass(frozen=True, slots=True)
class TensorFile:
    """Tensors by name as the file has them, what kind of file it was, and its text metadata."""

    tensors: dict[str, Tensor]
    kind: Literal["torchscript", "safetensors", "torch"]
    metadata: Mapping[str, str] = field(default_factory=dict)


def looks_like(path: Path) -> str:
    """In words what a file's first bytes look like, for messages."""
    if path.is_dir():
        return "a folder"
    with open(path, "rb") as stream:
        head = stream.read(512)
    if not head:
        return "an empty file"
    if _has_header(head, path.stat().st_size):
        return "a safetensors file"
    if head[128:132] == b"DICM":
        return "a DICOM file"
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html")):
        return "a web page (a download that ended on a login or error page)"
    if len(head) > 8 and head[8:9] == b"{":
        return "a safetensors file"
    if text.startswith((b"{", b"[")):
        return "JSON text"
    return f"unknown content starting with {head[:8]!r}"


def _has_header(head: bytes, size: int) -> bool:
    """Whether a file starts with the length of a JSON header that fits into it; asked before any signature, since the
    length's first byte can be that of a pickle."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def require_file(path: str | Path) -> Path:
    """The path of an existing regular file; raises WeightsError otherwise."""
    path = Path(path)
    if path.is_dir():
        raise WeightsError(f"{path}: expected a weights file, got a folder. Name the file inside it.")
    if not path.is_file():
        raise WeightsError(f"{path}: expected a weights file, found none. Check the path; nothing is downloaded.")
    return path


def load_torch(path: Path, safe: AbstractContextManager[object] | None = None) -> Any:
    """`torch.load` of plain data on the CPU; raises WeightsError for damaged files and for anything but plain data.

    safe: a torch.serialization.safe_globals context for the few named classes a format needs.
    """
    try:
        with safe or nullcontext(), warnings.catch_warnings():
            # other pickle protocols are read as far as torch can; what it cannot read is an error, not a warning
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except TORCH_PROBLEMS as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        refused = "Weights only load failed" in str(error) and "Unsupported operand" not in str(error)
        wanted = "holds objects other than tensors and plain values" if refused else "cannot be read whole"
        # torch's first line advises to switch its protection off; that advice is not passed on
        lines = [line for line in lines if "weights_only" not in line]
        detail = next((line for line in lines if "Unsupported" in line), (lines or ["no details"])[0])
        raise WeightsError(
            f"{path}: expected a checkpoint of tensors saved by torch, got {looks_like(path)} that {wanted} "
            f"({type(error).__name__}: {detail[:200]}). Nothing of it was run; get the file again from its publisher."
        ) from error


def load_safetensors(path: Path) -> TensorFile:
    """Every tensor of a safetensors file on the CPU; raises WeightsError if it is damaged."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            return TensorFile(tensors, "safetensors", dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: expected a safetensors file, got {looks_like(path)} ({error}). Get or write the file again."
        ) from error


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors" or looks_like(path) == "a safetensors file"


def read_tensor_file(path: str | Path) -> TensorFile:
    """Read a flat state dict: safetensors, a TorchScript archive, or torch.save of tensors by name.

    A checkpoint {"state_dict": {...}, ...} is unwrapped and a "module." before all names (data-parallel training)
    taken off. The kind is told by content. Raises WeightsError if it is none of these.
    """
    path = require_file(path)
    if _is_safetensors(path):
        return load_safetensors(path)
    if is_torchscript(path):
        return TensorFile(read_torchscript(path), "torchscript")
    content = load_torch(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: expected tensors by name, got a {type(content).__name__}. Check the file.")
    strange = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise WeightsError(
            f"{path}: expected a tensor under every name, got something else under {listed(strange)}. "
            "Save the network's state dict alone."
        )
    tensors = {str(name): value for name, value in content.items()}
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return TensorFile(tensors, "torch")


def listed(names: Sequence[str]) -> str:
    """At most ten names and how many more."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def account_for(expected: Shapes, found: Shapes, source: object, hint: str) -> None:
    """Raise WeightsError unless names and shapes agree; the message lists missing, unexpected and misshapen tensors."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    parts = [
        f"{len(names)} {word}: {listed(names)}"
        for word, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if names
    ]
    if parts:
        raise WeightsError(f"{source}: expected {len(expected)} tensors, got {'; '.join(parts)}. {hint}")


def read_json_file(path: Path, limit: int = 2**20) -> dict[str, Any]:
    """A JSON object of at most `limit` bytes; raises WeightsError otherwise."""
    try:
        if path.stat().st_size > limit:
            raise WeightsError(f"{path}: expected a configuration of at most {limit} bytes. Check the file.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: expected JSON, got {error}. Check the file.") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: expected a JSON object, got a {type(value).__name__}. Check the file.")
    return value


def hash_tensors(tensors: Mapping[str, Tensor], salt: str = "", *, as_float: bool = False) -> str:
    """SHA-256 over names, shapes and values in name order (hexadecimal).

    as_float: of the values as float32, so that the same weights in files of any type give the same hash.
    """
    digest = hashlib.sha256(salt.encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        value = value.float() if as_float else value
        shape = value.shape
        digest.update((f"{name} {list(shape)}\n" if as_float else f"{name}{tuple(shape)}{value.dtype}").encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
