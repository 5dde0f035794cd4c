"""Which images a report shows and how: best and worst cases, drawn on the original grid and kept small."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import WordsightError
from wordsight.imaging.overlay import RGB, colour_map, outline, overlay, scaled, to_rgb, write_png
from wordsight.types import Geometry, Heatmap, Image, ScoreKind

if TYPE_CHECKING:
    from wordsight.evaluate import Evaluation

ReadImage = Callable[[str, int | None], Image]
GeometryOf = Callable[[Image], Geometry]
LARGEST = 320
BUDGET = 3_300_000
SIZES = (320, 240, 192, 144, 112, 80)
CASES = (4, 2, 1)
GROUPS = (
    ("Abnormal images with the lowest scores", "what the detector is most likely to miss", 1, False),
    ("Normal images with the highest scores", "the likely false alarms", 0, True),
    ("Abnormal images with the highest scores", "the clearest finds", 1, True),
    ("Normal images with the lowest scores", "the clearest normals", 0, False),
)
ROLES = {"image": "image", "map": "with map", "mask": "with true outline"}


@dataclass(frozen=True, slots=True)
class Pictures:
    """PNG files for a page: (evaluation, image, role) -> bytes, roles "image", "map", "mask".

    limits: values at the ends of the colour map per evaluation. cases: images shown per group.
    """

    files: Mapping[tuple[int, int, str], bytes] = field(default_factory=dict)
    limits: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    cases: int = CASES[0]


def pick_cases(labels: NDArray[np.integer], scores: NDArray[np.floating], count: int) -> list[list[int]]:
    """Indices for each of GROUPS, at most `count` each; no image twice, images without a finite score never.

    Of a small class the harder half goes to the group of errors. Ties keep the order of the data.
    """
    picked: list[list[int]] = []
    for _, _, label, highest in GROUPS:
        members = np.flatnonzero((labels == label) & np.isfinite(scores))
        ordered = members[np.argsort(scores[members], kind="stable")]
        worst_first = ordered if label == 1 else ordered[::-1]
        hard = (len(ordered) + 1) // 2
        chosen = worst_first[:hard] if highest == (label == 0) else worst_first[hard:][::-1]
        picked.append([int(i) for i in chosen[:count]])
    return picked


def colour_limits(maps: NDArray[np.floating]) -> tuple[float, float]:
    """(low, high): 1st and 99.5th percentile over all maps, so that images of one set can be compared."""
    flat = maps.reshape(-1)
    sample = flat[:: max(1, flat.size // 1_000_000)].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 0.0
    low, high = np.percentile(sample, [1.0, 99.5])
    return float(low), float(high)


def whole_image(image_shape: tuple[int, int], array_shape: tuple[int, int]) -> Geometry:
    """The geometry of an image squeezed whole into the array, nothing cut off and nothing padded."""
    scale = array_shape[0] / image_shape[0], array_shape[1] / image_shape[1]
    return Geometry(image_shape, array_shape, scale)


def shrunk(image: Image, largest: int = LARGEST) -> Image:
    """The image with its long side at most `largest`, averaged down; never enlarged."""
    from PIL import Image as Pillow

    height, width = image.shape
    factor = largest / max(height, width)
    if factor >= 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    planes = image.pixels[:, :, None] if image.pixels.ndim == 2 else image.pixels
    small = [
        np.asarray(Pillow.fromarray(np.ascontiguousarray(planes[:, :, c])).resize(size, Pillow.Resampling.BOX))
        for c in range(planes.shape[2])
    ]
    return Image(small[0] if len(small) == 1 else np.stack(small, axis=-1), source=image.source)


def on_grid(geometry: Geometry, shape: tuple[int, int], values: NDArray[np.generic]) -> NDArray[np.float32]:
    """A map on the grid of a smaller copy of the image, (H, W) = shape, NaN where not seen."""
    factors = [geometry.image_shape[axis] / shape[axis] for axis in range(2)]
    scale = geometry.scale[0] * factors[0], geometry.scale[1] * factors[1]
    return Geometry(shape, geometry.array_shape, scale, geometry.offset).to_image(values.astype(np.float32))


def frame_of(name: str, path: str) -> int | None:
    """The frame at the end of a record's name ("scan.dcm#3") that its path does not have, None where there is none."""
    if Path(path).name == Path(name).name:
        return None
    found = re.search(r"#(\d{1,9})$", name)
    return int(found.group(1)) if found else None


@dataclass(frozen=True, slots=True)
class Case:
    """One image of an evaluation as it is drawn; without `read` and `geometry` it can go to another process.

    path, frame, window: of the file. kind: of the scores. values, mask: (h, w) of its map and of its mask, or None.
    limits: ends of the colour map. read: (path, frame) -> Image, None as the evaluation read it. geometry: how the
    prepared array lies on the image, None for squeezed whole.
    """

    path: str
    frame: int | None
    window: str | None
    kind: ScoreKind
    values: NDArray[np.float32] | None
    mask: NDArray[np.bool_] | None
    limits: tuple[float, float] | None
    read: ReadImage | None = None
    geometry: GeometryOf | None = None

    def load(self) -> Image | None:
        """The image, or None if it can no longer be read."""
        from wordsight.imaging import read_image

        try:
            if self.read is not None:
                return self.read(self.path, self.frame)
            return read_image(self.path, frame=self.frame, window=self.window)
        except (WordsightError, OSError):
            return None

    def _on(self, values: NDArray[np.generic], image: Image, full: Image) -> NDArray[np.float32]:
        shape = int(values.shape[0]), int(values.shape[1])
        geometry = self.geometry(full) if self.geometry else whole_image(full.shape, shape)
        return on_grid(geometry, image.shape, values)

    def panels(self, largest: int | None) -> dict[str, RGB]:
        """Pictures by role, long side at most `largest` (None: the image's own grid); none at all is possible."""
        full = self.load()
        if full is None:
            return {} if self.values is None else {"map": colour_map(scaled(self.values, self.limits))}
        image = full if largest is None else shrunk(full, largest)
        panels = {"image": to_rgb(image)}
        if self.values is not None:
            heatmap = Heatmap("abnormal", self._on(self.values, image, full), self.kind)
            panels["map"] = overlay(image, heatmap, limits=self.limits)
        if self.mask is not None:
            truth = np.nan_to_num(self._on(self.mask, image, full)) > 0.5
            panels["mask"] = outline(panels["image"], truth)
        return panels

    def heatmap(self) -> RGB | None:
        """The map over the image on the original grid, true outline on top where there is one."""
        if self.values is None:
            return None
        panels = self.panels(None)
        if "mask" not in panels:
            return panels["map"]
        line = (panels["mask"] != panels["image"]).any(axis=2)
        return np.where(line[:, :, None], panels["mask"], panels["map"])


def case_of(
    evaluation: Evaluation,
    index: int,
    limits: tuple[float, float] | None,
    read: ReadImage | None = None,
    geometry: GeometryOf | None = None,
) -> Case:
    """The evaluation's image with this number."""
    path = evaluation.paths[index]
    masked = evaluation.masks is not None and bool(evaluation.masks[index].any())
    return Case(
        path=path,
        frame=frame_of(evaluation.names[index], path),
        window=(evaluation.windows[index] if evaluation.windows else "") or None,
        kind=evaluation.kind,
        values=None if evaluation.maps is None else evaluation.maps[index].astype(np.float32),
        mask=evaluation.masks[index] if evaluation.masks is not None and masked else None,
        limits=limits,
        read=read,
        geometry=geometry,
    )


def write_heatmap(job: tuple[Case, Path]) -> bool:
    """Write a case's heatmap as PNG; False if there is none."""
    case, path = job
    rgb = case.heatmap()
    if rgb is not None:
        write_png(path, rgb)
    return rgb is not None


def encode_png(rgb: RGB, largest: int, colours: int = 256) -> bytes:
    """A small PNG: long side at most `largest`, grey where it is grey, else a palette."""
    from PIL import Image as Pillow

    picture = Pillow.fromarray(np.ascontiguousarray(rgb))
    picture.thumbnail((largest, largest), Pillow.Resampling.LANCZOS)
    small = np.asarray(picture)
    if small.ndim == 2 or bool((small == small[:, :, :1]).all()):
        picture = picture.convert("L")
    else:
        picture = picture.quantize(colours)
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()


def first_of_each(evaluations: Sequence[Evaluation], groups: Sequence[Sequence[int]]) -> list[int]:
    """The evaluation that shows images for its group: the first that has any."""
    shown = []
    for members in groups:
        shown.append(next((e for e in members if len(evaluations[e].names)), members[0]))
    return shown


def draw_pictures(
    evaluations: Sequence[Evaluation],
    shown: Sequence[int],
    *,
    read: ReadImage | None = None,
    geometry: GeometryOf | None = None,
    budget: int = BUDGET,
) -> Pictures:
    """Draw the cases of the evaluations numbered in `shown`, smaller and then fewer until they fit into `budget` bytes.

    read: (path, frame) -> Image; default, as the evaluation read it. geometry: how a prepared array lies on an image;
    default, the image was squeezed whole into it.
    """
    limits = {e: colour_limits(m) for e in shown if (m := evaluations[e].maps) is not None}
    panels: dict[tuple[int, int, str], RGB] = {}
    for e in shown:
        for group in pick_cases(evaluations[e].labels, evaluations[e].scores, CASES[0]):
            for i in group:
                drawn = case_of(evaluations[e], i, limits.get(e), read, geometry).panels(LARGEST)
                panels.update({(e, i, role): rgb for role, rgb in drawn.items()})
    for cases in CASES:
        kept = {
            (e, i)
            for e in shown
            for group in pick_cases(evaluations[e].labels, evaluations[e].scores, cases)
            for i in group
        }
        wanted = {key: rgb for key, rgb in panels.items() if key[:2] in kept}
        for size in SIZES:
            files = _fit(wanted, size, budget)
            if files is not None:
                return Pictures(files, limits, cases)
    return Pictures({}, limits, CASES[-1])


def _fit(
    panels: Mapping[tuple[int, int, str], RGB], size: int, budget: int
) -> dict[tuple[int, int, str], bytes] | None:
    """All panels as PNG, or None if they exceed the budget; a sample tells most often, before all are encoded."""
    keys = list(panels)
    sample = keys[:: max(1, len(keys) // 8)]
    files = {key: encode_png(panels[key], size) for key in sample}
    if sum(map(len, files.values())) * len(keys) > 1.1 * budget * max(1, len(sample)):
        return None
    files |= {key: encode_png(panels[key], size) for key in keys if key not in files}
    return files if sum(map(len, files.values())) <= budget else None
