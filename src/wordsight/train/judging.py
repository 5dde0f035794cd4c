"""How well each way to read scores and maps does on labelled images: what model selection goes by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wordsight.errors import DataError
from wordsight.metrics import auroc, pixel_auroc
from wordsight.models.mla.reading import Reading
from wordsight.models.mla.scoring import (
    UNSCALED,
    Float64,
    Mode,
    RawMaps,
    RawScores,
    ScoreScale,
    fused_maps,
    image_scores,
    memory_scores,
    raw_maps,
    text_scores,
    weighed,
)
from wordsight.train.samples import Samples
from wordsight.types import Float32

BLOCK = 32
"""Images whose levels are enlarged at a time."""


def judged(
    raws: Sequence[RawScores],
    samples: Samples,
    mode: Mode,
    size: int,
    scores: Sequence[Reading],
    maps: Sequence[Reading],
) -> tuple[list[float], list[float]]:
    """Image AUROC of each way to read scores, and pixel AUROC of each way to read maps (0 without masks).

    Both are min-max scaled over these very images, as published. Kept at a time: three float32 maps (size, size) of
    each image where there are masks, else those of one block of images. Raises DataError for a single class.
    """
    known = _Known(raws, size, mode)
    images = [np.empty(len(raws), np.float32) for _ in scores]
    pixels = [0.0] * len(maps)
    masks = np.stack([samples.mask(i).numpy() for i in range(len(samples))]) if samples.masked else None
    seen = [(r.smoothing, r.relative) for r in scores] + [(r.map_smoothing, r.map_relative) for r in maps]
    for kind in dict.fromkeys(seen):
        ways = [(i, r) for i, r in enumerate(scores) if (r.smoothing, r.relative) == kind]
        drawn = [(i, r) for i, r in enumerate(maps) if (r.map_smoothing, r.map_relative) == kind]
        kept = known.read(kind, ways, images, keep=masks is not None and bool(drawn))
        if masks is not None:
            for i, reading in drawn:
                pixels[i] = float(pixel_auroc(known.fused(reading, kept), masks))
    return [_image_result(samples, values) for values in images], pixels


def standard_error(value: float, normal: int, abnormal: int) -> float:
    """Of an AUROC from so many images of either class (Hanley and McNeil, Radiology 1982, equation 2); 0 at 0 and 1."""
    both_abnormal, both_normal = value / (2 - value), 2 * value**2 / (1 + value)
    spread = (abnormal - 1) * (both_abnormal - value**2) + (normal - 1) * (both_normal - value**2)
    return float(np.sqrt(max(value * (1 - value) + spread, 0) / (normal * abnormal)))


class _Known:
    """The images that judge, their ranges for each way of reading, and their maps block by block."""

    def __init__(self, raws: Sequence[RawScores], size: int, mode: Mode) -> None:
        self._raws, self._size, self._mode = raws, size, mode
        self._scales: dict[Reading, ScoreScale] = {}
        self._parts: dict[Reading, tuple[Float64, Float64 | None]] = {}
        self._blocks = [slice(start, start + BLOCK) for start in range(0, len(raws), BLOCK)]

    def scale(self, reading: Reading) -> ScoreScale:
        """Ranges over all images; none depends on weights or on the share of the map."""
        same = replace(reading, memory_weight=0.5, map_memory_weight=0.5, map_share=0.0)
        if same not in self._scales:
            self._scales[same] = ScoreScale.fit(self._raws, self._size, "judge", same)
        return self._scales[same]

    def scores(self, reading: Reading) -> Float32:
        """Image scores (N,) of a mode that looks at no map, on the ranges of these very images."""
        text, memory = self._text_and_memory(reading)
        scale = replace(UNSCALED, text=_range(text), memory=None if memory is None else _range(memory))
        return weighed(text, memory, scale, reading.memory_weight)

    def _text_and_memory(self, reading: Reading) -> tuple[Float64, Float64 | None]:
        """Both parts of image scores, block by block; they depend on no weight."""
        same = Reading(image_share=reading.image_share, smoothing=reading.smoothing, relative=reading.relative)
        if same not in self._parts:
            blocks = [self._raws[block] for block in self._blocks]
            text = np.concatenate([text_scores(raws, same) for raws in blocks])
            found = [memory_scores(raws, self._size, same) for raws in blocks] if self._mode == "detection" else []
            memory = [part for part in found if part is not None]
            self._parts[same] = text, np.concatenate(memory) if memory else None
        return self._parts[same]

    def read(
        self, kind: tuple[int, bool], ways: Sequence[tuple[int, Reading]], images: Sequence[Float32], *, keep: bool
    ) -> list[RawMaps]:
        """Fill in the image scores of ways of this kind; the maps of every block, if they are kept.

        kind: over what side the maps are smoothed, and whether their memory is of relative tokens.
        """
        peaks = self._mode == "segmentation"
        if not peaks:
            for i, reading in ways:
                images[i][:] = self.scores(reading)
        kept = []
        for block in self._blocks if keep or peaks else ():
            raws = self._raws[block]
            maps = raw_maps(raws, self._size, *kind)
            for i, reading in ways if peaks else ():
                images[i][block] = image_scores(raws, self.scale(reading), self._mode, self._size, reading, maps=maps)
            if keep:
                kept.append(maps)
        return kept

    def fused(self, reading: Reading, kept: Sequence[RawMaps]) -> Float32:
        """The maps that are shown, (N, size, size)."""
        out = np.empty((len(self._raws), self._size, self._size), np.float32)
        for block, maps in zip(self._blocks, kept, strict=True):
            out[block] = fused_maps(self._raws[block], self.scale(reading), self._size, reading, maps=maps)
        return out


def _range(values: Float64) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _image_result(samples: Samples, scores: Float32) -> float:
    result = auroc(samples.labels.numpy().astype(np.int64), scores)
    if np.isnan(result):
        raise DataError(
            f"{samples.name}: model selection needs normal and abnormal images, got only one class. "
            "Give both, or use protocol 'last'."
        )
    return float(result)
