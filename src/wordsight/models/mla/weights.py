"""Trained adapters and contexts on disk: the published checkpoints, and safetensors of our own.

Published MLA-LP: {"state_dict": {"seg_adapters", "det_adapters", "prompt_learner"}, "AUC", "pAUC", "best", "epoch"};
published MVFA: {"seg_adapters", "det_adapters"}. Adapters are bias-free: "<level>.fc1.0.weight" (middle, width) and
"<level>.fc2.0.weight" (width, middle); contexts are "ctx.<normal|abnormal>_<position>" (words, context, text width).
"""

from __future__ import annotations

import json
import math
import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from wordsight.errors import SettingsError, WeightsError
from wordsight.files import atomic_path
from wordsight.models.tensor_files import (
    Shapes,
    account_for,
    listed,
    load_safetensors,
    load_torch,
    looks_like,
    require_file,
)

Scalar = float | int | str | bool | None
FORMAT, VERSION = "wordsight-mla", 1
_ADAPTER = re.compile(r"\d+\.fc[12]\.0\.weight")
_CONTEXT = re.compile(r"ctx\.(normal|abnormal)_(end|middle|front)")
_GROUPS = ("seg_adapters", "det_adapters", "prompt_learner")
_METADATA_KEY = "wordsight"
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True, eq=False)
class AdapterWeights:
    """What training changes: seg and det adapters, contexts (None for MVFA), and the numbers stored with them.

    seg, det: "0.fc1.0.weight" -> (middle, width), ...; contexts: "ctx.normal_end" -> (words, context, text width).
    info: plain scalars; a published MLA-LP file has AUC, pAUC (None without masks), best, epoch.
    """

    seg: Mapping[str, Tensor]
    det: Mapping[str, Tensor]
    contexts: Mapping[str, Tensor] | None
    info: Mapping[str, Scalar] = field(default_factory=dict)

    def flat(self) -> dict[str, Tensor]:
        """All tensors under "seg_adapters.", "det_adapters." and "prompt_learner."."""
        groups = zip(_GROUPS, (self.seg, self.det, self.contexts or {}), strict=True)
        return {f"{group}.{name}": tensor for group, tensors in groups for name, tensor in tensors.items()}


def expected_shapes(
    levels: int,
    width: int,
    middle: int,
    contexts: tuple[int, int] | None,
    context_length: int,
    text_width: int,
    position: Literal["end", "middle", "front"] = "end",
) -> dict[str, tuple[int, ...]]:
    """Shapes of a checkpoint's tensors by flat name.

    levels: adapters per branch; width: of the image tower; middle: of the bottleneck; contexts: numbers of (normal,
    abnormal) state words, None without learned prompts; context_length: context vectors per word.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for branch in ("seg_adapters", "det_adapters"):
        for level in range(levels):
            shapes[f"{branch}.{level}.fc1.0.weight"] = (middle, width)
            shapes[f"{branch}.{level}.fc2.0.weight"] = (width, middle)
    if contexts is not None:
        for name, words in zip(("normal", "abnormal"), contexts, strict=True):
            shapes[f"prompt_learner.ctx.{name}_{position}"] = (words, context_length, text_width)
    return shapes


class _FloatType:
    """Stands for numpy.dtype while a checkpoint is read: double and single floats only."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in ("f8", "f4"):
            raise pickle.UnpicklingError(f"Weights only load failed: NumPy type {code!r}")
        self.code, self.order = "d" if code == "f8" else "f", "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _float_scalar(kind: object, data: object) -> float:
    """Stands for NumPy's scalar maker: a Python float of the same value."""
    if not isinstance(kind, _FloatType) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("Weights only load failed: NumPy scalar of an unknown form")
    return float(struct.unpack(kind.order + kind.code, data)[0])


def _numpy_floats() -> Any:
    """Under these names a pickle may ask for our two stand-ins, and for nothing else of NumPy."""
    return torch.serialization.safe_globals(
        [
            (_FloatType, "numpy.dtype"),
            (_FloatType, "numpy.dtypes.Float64DType"),
            (_FloatType, "numpy.dtypes.Float32DType"),
            (_float_scalar, "numpy.core.multiarray.scalar"),
            (_float_scalar, "numpy._core.multiarray.scalar"),
        ]
    )


def read_published(path: str | Path, *, expect: Shapes | None = None) -> AdapterWeights:
    """Read a checkpoint of the published MLA-LP or MVFA; no code of the file is run.

    expect: shapes by flat name (`expected_shapes`); None checks names and that fc1 and fc2 of a level fit together.
    Raises WeightsError for anything else than such a checkpoint, listing missing, unexpected and misshapen tensors.
    """
    path = require_file(path)
    if looks_like(path) not in ("a zip archive", "a pickle"):
        raise WeightsError(
            f"{path}: expected a published checkpoint (.pth saved by torch), got {looks_like(path)}. "
            "Use read_safetensors for files of this package; otherwise check the path."
        )
    content = load_torch(path, _numpy_floats())
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: expected a dictionary, got a {type(content).__name__}. Check the file.")
    nested = content.get("state_dict", content)
    outside = {name: value for name, value in content.items() if name != "state_dict"} if nested is not content else {}
    strange = [str(name) for name in nested if name not in _GROUPS] if isinstance(nested, Mapping) else ["state_dict"]
    if strange or not {"seg_adapters", "det_adapters"} <= set(nested):
        raise WeightsError(
            f"{path}: expected seg_adapters, det_adapters and perhaps prompt_learner, got "
            f"{listed([str(name) for name in content])}"
            f"{f' with {listed(strange)}' if strange and nested is not content else ''}. "
            "This is no adapter checkpoint of MLA-LP or MVFA; a CLIP is loaded by load_clip."
        )
    groups = {group: _tensors(nested[group], group, path) for group in _GROUPS if group in nested}
    weights = AdapterWeights(
        groups["seg_adapters"], groups["det_adapters"], groups.get("prompt_learner"), _scalars(outside, path)
    )
    _check(weights, expect, path)
    return weights


def _tensors(group: object, name: str, path: Path) -> dict[str, Tensor]:
    """One group's tensors; all must be floating point."""
    if not isinstance(group, Mapping):
        raise WeightsError(f"{path}: expected tensors by name in {name}, got a {type(group).__name__}. Check the file.")
    bad = [str(k) for k, v in group.items() if not isinstance(v, Tensor) or not v.is_floating_point()]
    if bad:
        raise WeightsError(f"{path}: expected floating-point tensors in {name}, got others: {listed(bad)}.")
    return {str(key): value.detach() for key, value in group.items()}


def _scalars(values: Mapping[Any, Any], path: Path) -> dict[str, Scalar]:
    """Numbers stored beside the tensors, as plain Python values."""
    info: dict[str, Scalar] = {}
    for name, value in values.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if not isinstance(value, float | int | str | None):
            raise WeightsError(
                f"{path}: expected a number or text under {name!r}, got a {type(value).__name__}. "
                "This is no checkpoint of the published code."
            )
        info[str(name)] = value
    return info


def _check(weights: AdapterWeights, expect: Shapes | None, source: object) -> None:
    """Account for every tensor; without `expect`, against the shapes that the first fc1 and the contexts imply."""
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.flat().items()}
    hint = "Use settings (levels, width, state words, context vectors) that this checkpoint was trained with."
    if expect is not None:
        account_for(expect, shapes, source, hint)
        return
    odd = [f"seg_adapters.{n}" for n in weights.seg if not _ADAPTER.fullmatch(n)]
    odd += [f"det_adapters.{n}" for n in weights.det if not _ADAPTER.fullmatch(n)]
    odd += [f"prompt_learner.{n}" for n in weights.contexts or {} if not _CONTEXT.fullmatch(n)]
    if odd:
        raise WeightsError(f"{source}: expected names like 0.fc1.0.weight and ctx.normal_end, got {listed(odd)}.")
    first = shapes.get("seg_adapters.0.fc1.0.weight", ())
    if len(first) != 2:
        raise WeightsError(
            f"{source}: expected seg_adapters.0.fc1.0.weight (middle, width), got shape {list(first)}. Check the file."
        )
    levels = 1 + max(int(name.split(".")[0]) for name in (*weights.seg, *weights.det))
    implied = expected_shapes(min(levels, 1000), first[1], first[0], None, 0, 0)
    implied |= {name: shape for name, shape in shapes.items() if name.startswith("prompt_learner.") and len(shape) == 3}
    account_for(implied, shapes, source, "The adapters of all levels must have the same width. Check the file.")
    named = set(weights.contexts or {})
    twins = {
        name: name.replace("ctx.", "ctx.ab") if "abnormal" not in name else name.replace("ab", "") for name in named
    }
    lone = [name for name, twin in twins.items() if twin not in named]
    if lone:
        raise WeightsError(
            f"{source}: expected normal and abnormal contexts in pairs, got only {listed(sorted(lone))}."
        )


def write_published(path: str | Path, weights: AdapterWeights, format: Literal["mla", "mvfa"] = "mla") -> None:
    """Write the published layout, atomically. "mvfa" holds adapters alone and drops info; it has no contexts.

    Raises SettingsError if the format and the contexts contradict each other.
    """
    if format not in ("mla", "mvfa"):
        raise SettingsError(f"format: expected 'mla' or 'mvfa', got {format!r}. Choose one of the two.")
    if (format == "mla") != (weights.contexts is not None):
        raise SettingsError(
            f"format {format!r}: expected weights {'with' if format == 'mla' else 'without'} learned contexts, got "
            f"them {'without' if format == 'mla' else 'with'}. Use format {'mvfa' if format == 'mla' else 'mla'!r}."
        )
    groups = {"seg_adapters": _plain(weights.seg), "det_adapters": _plain(weights.det)}
    content: dict[str, Any] = dict(groups)
    if weights.contexts is not None:
        content = {"state_dict": {**groups, "prompt_learner": _plain(weights.contexts)}, **weights.info}
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached CPU tensors that own just their values."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def write_safetensors(path: str | Path, weights: AdapterWeights, metadata: Mapping[str, Any] | None = None) -> None:
    """Write our format atomically: safetensors with flat names and one JSON object of metadata.

    metadata: JSON values to keep besides format, version and info, e.g. {"settings": ..., "backbone": hash}.
    Raises SettingsError for values that JSON does not have and for reserved names.
    """
    extra = dict(metadata or {})
    reserved = sorted({"format", "version", "info"} & set(extra))
    if reserved:
        raise SettingsError(f"metadata: expected other names than {listed(reserved)}, which are set here. Rename them.")
    info = {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in weights.info.items()
    }
    try:
        text = json.dumps({"format": FORMAT, "version": VERSION, "info": info, **extra}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"metadata: expected plain JSON values, got {error}. Convert them first.") from error
    with atomic_path(path) as temporary:
        save_file(_plain(weights.flat()), temporary, {_METADATA_KEY: text})


def read_safetensors(path: str | Path, *, expect: Shapes | None = None) -> tuple[AdapterWeights, dict[str, Any]]:
    """Read our format: the weights and all metadata (format, version, info, settings, ...).

    Raises WeightsError for other files, newer versions and tensors that do not fit.
    """
    path = require_file(path)
    if looks_like(path) != "a safetensors file":
        raise WeightsError(
            f"{path}: expected a safetensors file of this package, got {looks_like(path)}. "
            "Use read_published for checkpoints of the published code."
        )
    file = load_safetensors(path)
    metadata = _metadata(file.metadata, path)
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in file.tensors.items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = tensor
    if not {"seg_adapters", "det_adapters"} <= set(groups) <= set(_GROUPS):
        raise WeightsError(
            f"{path}: expected seg_adapters, det_adapters and perhaps prompt_learner, got {listed(sorted(groups))}."
        )
    ordered = {group: _tensors(_in_order(groups[group]), group, path) for group in groups}
    info = {n: _NOT_FINITE.get(v, v) if isinstance(v, str) else v for n, v in metadata["info"].items()}
    weights = AdapterWeights(
        ordered["seg_adapters"], ordered["det_adapters"], ordered.get("prompt_learner"), _scalars(info, path)
    )
    _check(weights, expect, path)
    return weights, metadata


def _in_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Levels by number, normal before abnormal, as the published files have them (safetensors sorts by size)."""

    def key(name: str) -> tuple[int, bool, str]:
        level = name.split(".")[0]
        return int(level) if level.isdigit() else 0, "abnormal" in name, name

    return {name: tensors[name] for name in sorted(tensors, key=key)}


def _metadata(stored: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The metadata object, its format and version checked."""
    try:
        metadata = json.loads(stored.get(_METADATA_KEY, "null"))
    except ValueError as error:
        raise WeightsError(f"{path}: expected JSON metadata, got {error}. The file is damaged.") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT or not isinstance(metadata.get("info"), dict):
        raise WeightsError(
            f"{path}: expected metadata of format {FORMAT!r}, got a safetensors file without it. "
            "This is no adapter file; a CLIP is loaded by load_clip."
        )
    if metadata.get("version") != VERSION:
        raise WeightsError(
            f"{path}: expected version {VERSION} of {FORMAT}, got {metadata.get('version')!r}. Update this package."
        )
    return metadata
