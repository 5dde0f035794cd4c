"""The values that travel between the rooms: images, geometry, prompts, records, predictions. NumPy only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import MetricError, PromptError

Float32 = NDArray[np.float32]
Combination = Literal["mean", "max"]
_ROUNDING = 1e-9
"""Pixels; a point on the border of what was seen stays there, whatever rounding says."""


class ScoreKind(StrEnum):
    """What a score means; it travels with the numbers and is never guessed from their range."""

    LOGIT = "logit"
    PROBABILITY = "probability"
    DISTANCE = "distance"
    SCALED = "scaled"
    """Min-max scaled by a stated ScoreScale; higher is more abnormal, [0, 1] on the data that set the scale."""
    SIMILARITY = "similarity"
    """Cosine of features, or a multiple of it: bounded, higher is more alike; no logit and no probability."""
    ATTENTION = "attention"
    """Share of a sentence's attention that a cell of the image takes: 0 or more, at most 1 over all cells together."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image as the networks understand it: bright is high.

    pixels: (H, W) or (H, W, 3) float32 in [0, 1]; MONOCHROME1 already inverted.
    bits: stored bits per sample; 8 lets the published 8-bit resampling be reproduced exactly.
    spacing_mm: (row, column) distance of pixel centres in mm, None when the file does not say.
    photometric: how the file stored it ("MONOCHROME1", "RGB", "L", "P", "array", ...).
    source: path or description for messages. identifiers: patient, study, frame, ...; kept apart from pixels.
    """

    pixels: Float32
    bits: int = 8
    spacing_mm: tuple[float, float] | None = None
    photometric: str = "array"
    source: str = "<array>"
    identifiers: Mapping[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the original grid."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    def grey(self) -> Float32:
        """(H, W) float32 luminance (ITU-R BT.601 weights for colour images, as PIL uses for mode L)."""
        if self.pixels.ndim == 2:
            return self.pixels
        weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
        return np.asarray(self.pixels @ weights, dtype=np.float32)


def _axis_weights(positions: NDArray[np.float64], cells: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Float32]:
    """Linear interpolation along one axis: lower cell, upper cell, weight of the upper one (edges held)."""
    clipped = np.clip(positions, 0.0, cells - 1.0)
    low = np.minimum(np.floor(clipped).astype(np.intp), max(cells - 2, 0))
    high = np.minimum(low + 1, cells - 1)
    return low, high, (clipped - low).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a prepared array lies on the original image, and the way back.

    An axis maps image to array coordinates by `array = image * scale + offset`, in continuous coordinates where
    pixel i covers [i, i + 1). Parts of the image that fall outside the array were never seen by the network.
    """

    image_shape: tuple[int, int]
    array_shape: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)

    def to_array_points(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, 2) image (row, column) -> array (row, column), continuous coordinates."""
        return np.asarray(np.asarray(points, dtype=np.float64) * self.scale + self.offset, dtype=np.float64)

    def to_image_points(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, 2) array (row, column) -> image (row, column), continuous coordinates."""
        return np.asarray((np.asarray(points, dtype=np.float64) - self.offset) / self.scale, dtype=np.float64)

    def to_image(self, values: NDArray[np.floating]) -> Float32:
        """A map over the whole array, (h, w) of any resolution -> (H, W) on the original grid, NaN where not seen.

        Bilinear between cell centres, held constant outside the outermost centres. Raises MetricError on a bad shape.
        """
        if values.ndim != 2 or 0 in values.shape:
            raise MetricError(f"expected a map of shape (h, w) with h, w >= 1, got shape {values.shape}")
        seen, cells = [], []
        for axis in range(2):
            centres = np.arange(self.image_shape[axis]) + 0.5
            place = centres * self.scale[axis] + self.offset[axis]
            seen.append((place >= -_ROUNDING) & (place <= self.array_shape[axis] + _ROUNDING))
            n = values.shape[axis]
            cells.append(_axis_weights(place * n / self.array_shape[axis] - 0.5, n))
        (r0, r1, fr), (c0, c1, fc) = cells
        source = values.astype(np.float32, copy=False)
        rows = source[r0] * (1 - fr)[:, None] + source[r1] * fr[:, None]
        out = rows[:, c0] * (1 - fc) + rows[:, c1] * fc
        out[~(seen[0][:, None] & seen[1][None, :])] = np.nan
        return np.asarray(out, dtype=np.float32)


def _sentences(value: Any, where: str) -> tuple[str, ...]:
    """One sentence or a list of them, from a prompt file."""
    sentences = [value] if isinstance(value, str) else value
    if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
        raise PromptError(f"{where}: expected a sentence or a list of sentences, got {value!r}. Quote each sentence.")
    return tuple(sentences)


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Findings and the sentences that state them (and, where given, their absence).

    findings: (F,) names. positive / negative: per finding a non-empty tuple of sentences; negative may be None.
    how: the score of a finding with several sentences is the "mean" or the "max" of theirs.
    Raises PromptError for an empty set, a repeated finding, a finding without a sentence or an unknown `how`.
    """

    findings: tuple[str, ...]
    positive: tuple[tuple[str, ...], ...]
    negative: tuple[tuple[str, ...], ...] | None = None
    how: Combination = "mean"

    def __post_init__(self) -> None:
        if self.how not in get_args(Combination):
            raise PromptError(f"expected how to be one of {', '.join(get_args(Combination))}, got {self.how!r}.")
        if not self.findings:
            raise PromptError("expected at least one finding, got none. Name a finding and one sentence for it.")
        for sentences in filter(None, (self.positive, self.negative)):
            if len(sentences) != len(self.findings):
                raise PromptError(f"expected sentences for {len(self.findings)} findings, got {len(sentences)}.")
            for finding, group in zip(self.findings, sentences, strict=True):
                if not group or not all(s.strip() for s in group):
                    raise PromptError(
                        f"finding {finding!r} needs at least one sentence. Add one or remove the finding."
                    )
        repeated = sorted({f for f in self.findings if self.findings.count(f) > 1})
        if repeated:
            raise PromptError(f"expected each finding once, got {', '.join(repeated)} more than once.")

    @classmethod
    def of(cls, *sentences: str) -> PromptSet:
        """One finding per sentence, named by the sentence itself."""
        return cls(tuple(sentences), tuple((s,) for s in sentences))

    @classmethod
    def read(cls, path: str | Path) -> PromptSet:
        """Read `{"finding": ["sentence", ...]}` or `{"finding": {"positive": [...], "negative": [...]}}` (JSON).

        One sentence may stand without its list. Raises PromptError for anything else.
        """
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise PromptError(f"{path}: no such prompt file. Give the path of a JSON file.") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise PromptError(f"{path}: expected JSON, got {error}.") from error
        if not isinstance(raw, dict):
            raise PromptError(f"{path}: expected an object of finding -> sentences, got {type(raw).__name__}.")
        entries = [v if isinstance(v, dict) else {"positive": v} for v in raw.values()]
        positive = tuple(_sentences(e.get("positive", []), f"{path}: {f}") for f, e in zip(raw, entries, strict=True))
        negative = tuple(_sentences(e.get("negative", []), f"{path}: {f}") for f, e in zip(raw, entries, strict=True))
        return cls(tuple(raw), positive, negative if any(negative) else None)


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a data set: where it is and what is known of it.

    label: 0 normal, 1 abnormal, None unknown. labels: further findings by name. mask, region: files on the image's
    grid (non-zero = abnormal; non-zero = where pixels count, e.g. the organ). frame: frame or slice of `path`.
    window: grey levels of CT and alike, "centre/width" or a name, see `read_image`; None leaves it to the reader.
    """

    path: Path
    label: int | None = None
    mask: Path | None = None
    region: Path | None = None
    patient: str | None = None
    split: str | None = None
    dataset: str | None = None
    report: str | None = None
    frame: int | None = None
    labels: Mapping[str, int] = field(default_factory=dict, hash=False)
    window: str | None = None

    @property
    def name(self) -> str:
        """File name, with the frame where there is one."""
        return self.path.name if self.frame is None else f"{self.path.name}#{self.frame}"


def peak(values: Float32) -> tuple[float, float]:
    """(row, column) of a map's largest value, in continuous coordinates where pixel i covers [i, i + 1).

    values: (h, w), NaN where nothing was seen. It is the centre of the first largest cell in row order, together with
    the equal ones that follow it in its row and column: a coarse cell that is repeated over its pixels points where the
    cell itself does. Raises MetricError for a map without a number.
    """
    if values.ndim != 2 or np.isnan(values).all():
        raise MetricError(f"expected a map (h, w) with numbers, got shape {values.shape}. Check the prediction.")
    row, column = np.unravel_index(int(np.nanargmax(values)), values.shape)
    height, width = (_run(line, values[row, column]) for line in (values[row:, column], values[row, column:]))
    return float(row) + height / 2, float(column) + width / 2


def _run(values: Float32, value: float) -> int:
    """How many values from the first one on are equal to it."""
    others = np.flatnonzero(values != value)
    return int(others[0]) if len(others) else len(values)


@dataclass(frozen=True, slots=True)
class Heatmap:
    """values: (H, W) float32 on the original image grid, NaN where the network never looked."""

    finding: str
    values: Float32
    kind: ScoreKind


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a detector says of one image.

    findings: (F,) names; scores: (F,) float32; maps: (F, h, w) float32 over the prepared array, of any resolution, or
    None; geometry: from that array back to the image; weights: hash of the weights that made it; map_kind: what the
    maps mean where that is something else than the scores.
    """

    findings: tuple[str, ...]
    scores: Float32
    kind: ScoreKind
    maps: Float32 | None
    geometry: Geometry
    weights: str
    source: str = "<array>"
    map_kind: ScoreKind | None = None

    def heatmap(self, finding: str | None = None) -> Heatmap:
        """The map of one finding (default: the first) on the original grid. Raises MetricError if there is none."""
        wanted, values = self._map(finding)
        return Heatmap(wanted, self.geometry.to_image(values), self.map_kind or self.kind)

    def peak(self, finding: str | None = None) -> tuple[float, float]:
        """(row, column) on the image where a finding's map is largest: the centre of its largest cell.

        Continuous coordinates; outside the image where that cell lies on padding. Raises MetricError without a map.
        """
        _, values = self._map(finding)
        array = np.array([peak(values)]) * self.geometry.array_shape / values.shape
        row, column = self.geometry.to_image_points(array)[0]
        return float(row), float(column)

    def _map(self, finding: str | None) -> tuple[str, Float32]:
        if self.maps is None:
            raise MetricError(f"{self.source}: this prediction has no maps. Ask the detector for maps.")
        wanted = self.findings[0] if finding is None else finding
        if wanted not in self.findings:
            raise MetricError(f"expected one of {', '.join(self.findings)}, got {wanted!r}.")
        return wanted, self.maps[self.findings.index(wanted)]


@runtime_checkable
class Detector(Protocol):
    """Anything that looks at images and says what is abnormal; a protocol, not a base class."""

    @property
    def name(self) -> str:
        """Short name for tables and files."""

    @property
    def findings(self) -> tuple[str, ...]:
        """What `scores` of a prediction are about."""

    @property
    def score_kind(self) -> ScoreKind:
        """What the scores mean."""

    def predict(self, images: Sequence[Image]) -> list[Prediction]:
        """One prediction per image; the same alone or in a batch, in any order."""
