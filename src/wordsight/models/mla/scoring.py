"""From patch margins and nearest-neighbour distances to maps and image scores, as published, with any score scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from wordsight.errors import MetricError, WeightsError
from wordsight.models.mla.loss import upsample
from wordsight.types import Float32, Geometry

Mode = Literal["segmentation", "detection", "zero-shot"]
"""segmentation: few-shot with masks, score = max of the fused map of the seg branch.
detection: few-shot without masks, score = mean of the det branch's scaled text and memory scores.
zero-shot: score = det branch's text score; map = text map of the branch that was trained for maps."""


@dataclass(frozen=True, slots=True)
class RawScores:
    """Everything about one image that its scores need, before any scale; a few kilobytes.

    margins: (L, g, g) patch margins of the map branch; distance: (g, g) summed nearest-neighbour distance of the map
    branch, None without memory bank; text: sum over levels of the det branch's mean abnormal probability, [0, L];
    memory: mean of the interpolated distance, None without bank; geometry and source: of the image.
    """

    margins: Float32
    distance: Float32 | None
    text: float
    memory: float | None
    geometry: Geometry
    source: str


@dataclass(frozen=True, slots=True)
class RawMaps:
    """zero: (N, S, S) sum over levels of abnormal probabilities; few: (N, S, S) summed distances, None without bank."""

    zero: Float32
    few: Float32 | None


def raw_maps(raws: Sequence[RawScores], size: int) -> RawMaps:
    """Margins (then sigmoid) and distances at size x size, bilinear with aligned corners, summed over levels."""
    margins = torch.from_numpy(np.stack([raw.margins for raw in raws]))
    zero = upsample(margins, size).sigmoid().sum(dim=1).numpy()
    distances = [raw.distance for raw in raws if raw.distance is not None]
    if not distances:
        return RawMaps(zero, None)
    return RawMaps(zero, upsample(torch.from_numpy(np.stack(distances))[:, None], size)[:, 0].numpy())


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """Ranges that map raw values to [0, 1]: (minimum, maximum) of the text and the memory part.

    origin says what set them: "validation", "support" (leave one image out), or "test" (the papers' protocol, where
    every score depends on the whole test set). Values outside the range leave [0, 1]; ranks do not change.
    memory_weight: share of the memory part in fused scores and maps, in [0, 1] (published: 0.5).
    """

    text: tuple[float, float]
    memory: tuple[float, float] | None
    map_text: tuple[float, float]
    map_memory: tuple[float, float] | None
    origin: str
    memory_weight: float = 0.5

    @classmethod
    def fit(cls, raws: Sequence[RawScores], size: int, origin: str) -> ScoreScale:
        """Minimum and maximum over images (scores) and over all pixels of all images (maps).

        Raises MetricError without images.
        """
        if not raws:
            raise MetricError("expected at least one image to set the score scale, got none.")
        text = [raw.text for raw in raws]
        ranges = []
        for raw in raws:  # one image at a time: the maps of a whole set need not fit in memory
            maps = raw_maps([raw], size)
            few = maps.few
            ranges.append((maps.zero.min(), maps.zero.max(), *((few.min(), few.max()) if few is not None else ())))
        columns = list(zip(*ranges, strict=True))
        memory = [raw.memory for raw in raws if raw.memory is not None]
        memory_map = (float(min(columns[2])), float(max(columns[3]))) if memory else None
        return cls(
            text=(min(text), max(text)),
            memory=(min(memory), max(memory)) if memory else None,
            map_text=(float(min(columns[0])), float(max(columns[1]))),
            map_memory=memory_map,
            origin=origin,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, as stored with a checkpoint."""
        pairs = {name: getattr(self, name) for name in ("text", "memory", "map_text", "map_memory")}
        return {k: None if v is None else list(v) for k, v in pairs.items()} | {
            "origin": self.origin,
            "memory_weight": self.memory_weight,
        }

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
                float(values["memory_weight"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise WeightsError(
                f"expected a score scale with text, memory, map_text, map_memory, got {values}."
            ) from error


def _scaled(value: Any, bounds: tuple[float, float]) -> Any:
    """(value - low) / (high - low); a range without extent subtracts only, since nothing could be told apart."""
    low, high = bounds
    return (value - low) / ((high - low) or 1.0)


def combine(raws: Sequence[RawScores], scale: ScoreScale, mode: Mode, size: int) -> tuple[Float32, Float32]:
    """Scores (N,) and fused maps (N, size, size), both scaled by `scale`."""
    maps, weight = raw_maps(raws, size), scale.memory_weight
    fused = _scaled(maps.zero, scale.map_text)
    if maps.few is not None and scale.map_memory is not None:
        fused = (1 - weight) * fused + weight * _scaled(maps.few, scale.map_memory)
    fused = fused.astype(np.float32)
    if mode == "segmentation":
        return fused.max(axis=(1, 2)), fused
    scores = _scaled(np.array([raw.text for raw in raws], dtype=np.float64), scale.text)
    memory = [raw.memory for raw in raws if raw.memory is not None]
    if mode == "detection" and memory and scale.memory is not None:
        scores = (1 - weight) * scores + weight * _scaled(np.array(memory, dtype=np.float64), scale.memory)
    return scores.astype(np.float32), fused
