"""Pictures of one prediction: heatmaps on the original grid and small panels for the page; by any process."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wordsight.imaging.overlay import overlay, to_rgb, write_png
from wordsight.report import words
from wordsight.report.pictures import encode_png, on_grid, shrunk
from wordsight.types import Float32, Geometry, Heatmap, Image, Prediction, ScoreKind

THUMBNAIL = 192
SHOWN_MAPS = 2
Panels = list[list[str]]


@dataclass(frozen=True, slots=True)
class Drawing:
    """How predictions are drawn.

    heatmaps: whether PNG files are written; max_findings: per image, for that many highest-scored findings, None for
    all. limits: ends of the colour map, None for 0 and 1 of probabilities and scaled scores, else each map's own
    range; limits_words: what the ends are, for people. max_thumbnails: images shown in the page.
    """

    heatmaps: bool = True
    max_findings: int | None = 3
    limits: tuple[float, float] | None = None
    limits_words: str = ""
    max_thumbnails: int = 200

    def limits_for(self, kind: ScoreKind) -> tuple[float, float] | None:
        """Colour limits of maps of a kind."""
        default = (0.0, 1.0) if kind in (ScoreKind.PROBABILITY, ScoreKind.SCALED) else None
        return self.limits or default


@dataclass(frozen=True, slots=True)
class Sketch:
    """What is to be drawn of an image, small enough to go to another process.

    maps: (finding, values, file) of those that are drawn, the highest score first; file: of the heatmap, None for the
    page alone. panels: whether the page shows the image. kind, limits: of all maps.
    """

    maps: Sequence[tuple[str, Float32, Path | None]]
    panels: bool
    geometry: Geometry
    kind: ScoreKind
    limits: tuple[float, float] | None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be drawn."""
        return not self.panels and all(file is None for _, _, file in self.maps)

    def draw(self, image: Image) -> Panels:
        """Write the heatmaps, and return (label, PNG in base 64) of the panels: the image and its first maps."""
        for finding, values, file in self.maps:
            if file is not None:
                heatmap = Heatmap(finding, self.geometry.to_image(values), self.kind)
                write_png(file, overlay(image, heatmap, limits=self.limits))
        return self._panels(image) if self.panels else []

    def _panels(self, image: Image) -> Panels:
        small = shrunk(image, THUMBNAIL)
        found = [("image", encode_png(to_rgb(small), THUMBNAIL))]
        for finding, values, _ in self.maps[:SHOWN_MAPS]:
            heatmap = Heatmap(finding, on_grid(self.geometry, small.shape, values), self.kind)
            drawn = overlay(small, heatmap, limits=self.limits)
            found.append((f"map: {words.printable(finding, 80)}", encode_png(drawn, THUMBNAIL)))
        return [[label, b64encode(png).decode("ascii")] for label, png in found]


def highest(prediction: Prediction, most: int | None) -> list[int]:
    """Numbers of the highest-scored findings, at most so many."""
    return [int(i) for i in np.argsort(-prediction.scores, kind="stable")[:most]]
