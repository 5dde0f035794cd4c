"""From patch margins and nearest-neighbour distances to maps and image scores, as published, with any score scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from wordsight.errors import MetricError, WeightsError
from wordsight.models.mla.loss import top_mean, upsample
from wordsight.models.mla.reading import PUBLISHED, Reading
from wordsight.types import Float32, Geometry

Float64 = NDArray[np.float64]

Mode = Literal["segmentation", "detection", "zero-shot"]
"""segmentation: few-shot with masks, score = max of the fused map of the seg branch (or a mean of its highest values).
detection: few-shot without masks, score = mean of the det branch's scaled text and memory scores.
zero-shot: score = det branch's text score; map = text map of the branch that was trained for maps."""


def smooth(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Mean over `side` x `side` patches around each, fewer at the border: (..., g, g) -> (..., g, g).

    A plain form of the Gaussian smoothing of PaDiM (Defard et al., ICPR 2020) and PatchCore (Roth et al., CVPR 2022).
    """
    if side == 1:
        return maps
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return F.avg_pool2d(flat, side, stride=1, padding=side // 2, count_include_pad=False).reshape(maps.shape)


@dataclass(frozen=True, slots=True)
class RawScores:
    """Everything about one image that its scores need, before anything is read off it; a few kilobytes.

    margins, det: (L, g, g) patch margins of the map branch and of the det branch; distance: (g, g) summed
    nearest-neighbour distance of the map branch, None without memory bank; geometry and source: of the image;
    relative: (g, g) the same distance of relative tokens, None without a bank of them.
    """

    margins: Float32
    det: Float32
    distance: Float32 | None
    geometry: Geometry
    source: str
    relative: Float32 | None = None


def _distances(raws: Sequence[RawScores], relative: bool) -> list[Float32]:
    """The distances that a reading goes by; empty without memory bank."""
    found = [raw.relative if relative else raw.distance for raw in raws]
    return [distance for distance in found if distance is not None]


@dataclass(frozen=True, slots=True)
class RawMaps:
    """zero: (N, S, S) sum over levels of abnormal probabilities; few: (N, S, S) summed distances, None without bank."""

    zero: Float32
    few: Float32 | None


def raw_maps(raws: Sequence[RawScores], size: int, smoothing: int = 1, relative: bool = False) -> RawMaps:
    """Margins (then sigmoid) and distances at size x size, bilinear with aligned corners, summed over levels."""
    margins = smooth(torch.from_numpy(np.stack([raw.margins for raw in raws])), smoothing)
    zero = upsample(margins, size).sigmoid().sum(dim=1).numpy()
    distances = _distances(raws, relative)
    if not distances:
        return RawMaps(zero, None)
    grids = smooth(torch.from_numpy(np.stack(distances))[:, None], smoothing)
    return RawMaps(zero, upsample(grids, size)[:, 0].numpy())


def text_scores(raws: Sequence[RawScores], reading: Reading = PUBLISHED) -> Float64:
    """Sum over levels of the det branch's mean abnormal probability, (N,) in [0, L]."""
    det = torch.from_numpy(np.stack([raw.det for raw in raws])).sigmoid()
    levels = top_mean(smooth(det, reading.smoothing).flatten(2), reading.image_share)
    return levels.sum(dim=1).numpy().astype(np.float64)


def memory_scores(raws: Sequence[RawScores], size: int, reading: Reading = PUBLISHED) -> Float64 | None:
    """Mean of the distance interpolated to size x size, (N,); None without memory bank."""
    grids = _distances(raws, reading.relative)
    if not grids:
        return None
    smoothed = smooth(torch.from_numpy(np.stack(grids))[:, None], reading.smoothing)
    return top_mean(upsample(smoothed, size).flatten(1), reading.image_share).numpy().astype(np.float64)


Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """Ranges that map raw values to [0, 1]: (minimum, maximum) of the text and the memory part.

    text, memory: of image scores; map_text, map_memory: of the maps that are shown; peak_text, peak_memory: of the maps
    that the scores of sets with masks are read off. Without memory bank the memory's are None.
    origin says what set them: "validation", "support" (leave one image out), or "test" (the papers' protocol, where
    every score depends on the whole test set). Values outside the range leave [0, 1]; ranks do not change.
    """

    text: Range
    memory: Range | None
    map_text: Range
    map_memory: Range | None
    peak_text: Range
    peak_memory: Range | None
    origin: str

    @classmethod
    def fit(cls, raws: Sequence[RawScores], size: int, origin: str, reading: Reading = PUBLISHED) -> ScoreScale:
        """Minimum and maximum over images (scores) and over all pixels of all images (maps), for one reading.

        Raises MetricError without images.
        """
        if not raws:
            raise MetricError("expected at least one image to set the score scale, got none.")
        text = text_scores(raws, reading)
        memory = [float(score[0]) for raw in raws if (score := memory_scores([raw], size, reading)) is not None]
        maps = map_ranges(raws, size, reading.map_smoothing, reading.map_relative)
        peaks = maps if reading.one_map else map_ranges(raws, size, reading.smoothing, reading.relative)
        scores = (float(text.min()), float(text.max()))
        return cls(scores, (min(memory), max(memory)) if memory else None, *maps, *peaks, origin)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as stored with a checkpoint."""
        pairs = {name: getattr(self, name) for name in _RANGES}
        return {k: None if v is None else list(v) for k, v in pairs.items()} | {"origin": self.origin}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ScoreScale:
        """Read what `to_json` wrote; raises WeightsError on anything else."""
        try:
            pairs = {k: (float(values[k][0]), float(values[k][1])) for k in _RANGES if values[k] is not None}
            optional: dict[str, Any] = {k: None for k in _RANGES if k.endswith("memory")}
            return cls(**{**optional, **pairs}, origin=str(values["origin"]))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise WeightsError(f"expected a score scale with {', '.join(_RANGES)}, got {values}.") from error


_UNIT = (0.0, 1.0)
UNSCALED = ScoreScale(_UNIT, _UNIT, _UNIT, _UNIT, _UNIT, _UNIT, "none")
"""Every range [0, 1]: values stay as they are."""
_RANGES = tuple(field.name for field in fields(ScoreScale) if field.name != "origin")


def map_ranges(
    raws: Sequence[RawScores], size: int, smoothing: int, relative: bool = False
) -> tuple[Range, Range | None]:
    """Minimum and maximum of both parts of the maps, one image at a time: the maps of a whole set need not fit."""
    zero: list[float] = []
    few: list[float] = []
    for raw in raws:
        maps = raw_maps([raw], size, smoothing, relative)
        zero += [float(maps.zero.min()), float(maps.zero.max())]
        few += [] if maps.few is None else [float(maps.few.min()), float(maps.few.max())]
    return (min(zero), max(zero)), (min(few), max(few)) if few else None


def _scaled(value: Any, bounds: Range) -> Any:
    """(value - low) / (high - low); a range without extent subtracts only, since nothing could be told apart."""
    low, high = bounds
    return (value - low) / ((high - low) or 1.0)


def _fused(maps: RawMaps, weight: float, text: Range, memory: Range | None) -> Float32:
    """Both parts on their scales, weighted: (N, S, S)."""
    fused = _scaled(maps.zero, text)
    if maps.few is not None and memory is not None:
        fused = (1 - weight) * fused + weight * _scaled(maps.few, memory)
    return np.asarray(fused, dtype=np.float32)


def fused_maps(
    raws: Sequence[RawScores],
    scale: ScoreScale,
    size: int,
    reading: Reading = PUBLISHED,
    *,
    maps: RawMaps | None = None,
) -> Float32:
    """The maps that are shown, (N, size, size), scaled by `scale`, which was fitted for the same reading.

    maps: `raw_maps` of the reading's map_smoothing and map_relative, where they are known already.
    """
    maps = maps or raw_maps(raws, size, reading.map_smoothing, reading.map_relative)
    return _fused(maps, reading.map_memory_weight, scale.map_text, scale.map_memory)


def image_scores(
    raws: Sequence[RawScores],
    scale: ScoreScale,
    mode: Mode,
    size: int,
    reading: Reading = PUBLISHED,
    *,
    maps: RawMaps | None = None,
) -> Float32:
    """Image scores (N,), scaled by `scale`, which was fitted for the same reading.

    maps: `raw_maps` of the reading's smoothing and relative, where they are known already.
    """
    weight = reading.memory_weight
    if mode == "segmentation":
        maps = maps or raw_maps(raws, size, reading.smoothing, reading.relative)
        peaks = torch.from_numpy(_fused(maps, weight, scale.peak_text, scale.peak_memory)).flatten(1)
        return (top_mean(peaks, reading.map_share) if reading.map_share else peaks.amax(dim=1)).numpy()
    memory = memory_scores(raws, size, reading) if mode == "detection" else None
    return weighed(text_scores(raws, reading), memory, scale, weight)


def weighed(text: Float64, memory: Float64 | None, scale: ScoreScale, weight: float) -> Float32:
    """Both parts of image scores (N,) on their scales, weighted; text alone without memory."""
    scores = _scaled(text, scale.text)
    if memory is not None and scale.memory is not None:
        scores = (1 - weight) * scores + weight * _scaled(memory, scale.memory)
    return np.asarray(scores, dtype=np.float32)


def combine(
    raws: Sequence[RawScores], scale: ScoreScale, mode: Mode, size: int, reading: Reading = PUBLISHED
) -> tuple[Float32, Float32]:
    """Scores (N,) and fused maps (N, size, size), both scaled by `scale`, which was fitted for the same reading."""
    maps = raw_maps(raws, size, reading.map_smoothing, reading.map_relative)
    alike = maps if reading.one_map else None
    return image_scores(raws, scale, mode, size, reading, maps=alike), fused_maps(raws, scale, size, reading, maps=maps)
