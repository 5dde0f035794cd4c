"""From patch margins and nearest-neighbour distances to maps and image scores, as published, with any score scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
"""segmentation: few-shot with masks, score = max of the fused map of the seg branch.
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
    nearest-neighbour distance of the map branch, None without memory bank; geometry and source: of the image.
    """

    margins: Float32
    det: Float32
    distance: Float32 | None
    geometry: Geometry
    source: str


@dataclass(frozen=True, slots=True)
class RawMaps:
    """zero: (N, S, S) sum over levels of abnormal probabilities; few: (N, S, S) summed distances, None without bank."""

    zero: Float32
    few: Float32 | None


def raw_maps(raws: Sequence[RawScores], size: int, smoothing: int = 1) -> RawMaps:
    """Margins (then sigmoid) and distances at size x size, bilinear with aligned corners, summed over levels."""
    margins = smooth(torch.from_numpy(np.stack([raw.margins for raw in raws])), smoothing)
    zero = upsample(margins, size).sigmoid().sum(dim=1).numpy()
    distances = [raw.distance for raw in raws if raw.distance is not None]
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
    grids = [raw.distance for raw in raws if raw.distance is not None]
    if not grids:
        return None
    smoothed = smooth(torch.from_numpy(np.stack(grids))[:, None], reading.smoothing)
    return top_mean(upsample(smoothed, size).flatten(1), reading.image_share).numpy().astype(np.float64)


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """Ranges that map raw values to [0, 1]: (minimum, maximum) of the text and the memory part.

    origin says what set them: "validation", "support" (leave one image out), or "test" (the papers' protocol, where
    every score depends on the whole test set). Values outside the range leave [0, 1]; ranks do not change.
    """

    text: tuple[float, float]
    memory: tuple[float, float] | None
    map_text: tuple[float, float]
    map_memory: tuple[float, float] | None
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
        ranges = []
        for raw in raws:  # one image at a time: the maps of a whole set need not fit in memory
            maps = raw_maps([raw], size, reading.smoothing)
            few = maps.few
            ranges.append((maps.zero.min(), maps.zero.max(), *((few.min(), few.max()) if few is not None else ())))
        columns = list(zip(*ranges, strict=True))
        memory_map = (float(min(columns[2])), float(max(columns[3]))) if memory else None
        return cls(
            text=(float(text.min()), float(text.max())),
            memory=(min(memory), max(memory)) if memory else None,
            map_text=(float(min(columns[0])), float(max(columns[1]))),
            map_memory=memory_map,
            origin=origin,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, as stored with a checkpoint."""
        pairs = {name: getattr(self, name) for name in ("text", "memory", "map_text", "map_memory")}
        return {k: None if v is None else list(v) for k, v in pairs.items()} | {"origin": self.origin}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ScoreScale:
        """Read what `to_json` wrote; raises WeightsError on anything else."""
        try:
            text, map_text = (float(values["text"][0]), float(values["text"][1])), values["map_text"]
            memory, map_memory = values["memory"], values["map_memory"]
            return cls(
                text,
                None if memory is None else (float(memory[0]), float(memory[1])),
                (float(map_text[0]), float(map_text[1])),
                None if map_memory is None else (float(map_memory[0]), float(map_memory[1])),
                str(values["origin"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise WeightsError(
                f"expected a score scale with text, memory, map_text, map_memory, got {values}."
            ) from error


def _scaled(value: Any, bounds: tuple[float, float]) -> Any:
    """(value - low) / (high - low); a range without extent subtracts only, since nothing could be told apart."""
    low, high = bounds
    return (value - low) / ((high - low) or 1.0)


def combine(
    raws: Sequence[RawScores],
    scale: ScoreScale,
    mode: Mode,
    size: int,
    reading: Reading = PUBLISHED,
    *,
    maps: RawMaps | None = None,
) -> tuple[Float32, Float32]:
    """Scores (N,) and fused maps (N, size, size), both scaled by `scale`, which was fitted for the same reading.

    maps: `raw_maps` of the reading's smoothing, where they are known already.
    """
    maps, weight = maps or raw_maps(raws, size, reading.smoothing), reading.memory_weight
    fused = _scaled(maps.zero, scale.map_text)
    if maps.few is not None and scale.map_memory is not None:
        fused = (1 - weight) * fused + weight * _scaled(maps.few, scale.map_memory)
    fused = fused.astype(np.float32)
    if mode == "segmentation":
        return fused.max(axis=(1, 2)), fused
    scores = _scaled(text_scores(raws, reading), scale.text)
    memory = memory_scores(raws, size, reading)
    if mode == "detection" and memory is not None and scale.memory is not None:
        scores = (1 - weight) * scores + weight * _scaled(memory, scale.memory)
    return scores.astype(np.float32), fused
