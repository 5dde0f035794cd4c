"""A detector and records to arrays: one pass over the images in bounded memory; what cannot be read is set aside.

Kept per image: its score, and with maps 4 + 1 + 1 bytes per pixel of the prepared grid (map, mask, region): 0.35 MB at
240 x 240. Beyond that, one batch of images; with `transductive` also the detector's raw values and the masks as bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wordsight import progress as bars
from wordsight.errors import DataError, ImageError, MetricError, SettingsError
from wordsight.types import Detector, Float32, Geometry, Image, Prediction, Record, ScoreKind

if TYPE_CHECKING:
    from wordsight.imaging import InputSpec, Prepared

Mask = NDArray[np.bool_]
Rule = Literal["any", "half"]
T = TypeVar("T")


@runtime_checkable
class RawDetector(Detector, Protocol):
    """A detector whose look at an image (`raw`, opaque) is apart from the scaling of its scores (`finish`)."""

    def raw(self, images: Sequence[Image]) -> list[Any]:
        """One small value per image, from which `finish` makes predictions without the image."""

    def with_scale_from(self, raws: Sequence[Any]) -> RawDetector:
        """The same detector with its scores scaled by the range of these values."""

    def finish(self, raws: Sequence[Any]) -> list[Prediction]:
        """One prediction per value."""


@runtime_checkable
class PreparedDetector(Protocol):
    """A detector that takes images which are prepared already, by its `input_spec`; processes that read do that."""

    @property
    def input_spec(self) -> InputSpec:
        """What `prepare` must do with an image."""

    @property
    def takes_prepared(self) -> bool:
        """Whether `predict` (and `raw`) take `Prepared` images too."""


@dataclass(frozen=True, slots=True)
class _Item:
    """A record that was read; its masks, of the image's `shape`, as packed bits: 1/8 byte per pixel."""

    record: Record
    label: int
    shape: tuple[int, int]
    mask: NDArray[np.uint8] | None
    region: NDArray[np.uint8] | None

    def on(self, bits: NDArray[np.uint8]) -> Mask:
        height, width = self.shape
        return np.unpackbits(bits, count=height * width).reshape(self.shape).astype(np.bool_)


def _mask(record: Record, path: Any, rule: Rule) -> Mask:
    """The mask of the record's frame; a single one holds for all frames. Raises ImageError."""
    from wordsight.imaging import image_count, read_mask

    frame = record.frame if image_count(path) > 1 else None
    return read_mask(path, rule=rule, frame=frame)


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be read, and prepared if `spec` says how."""

    record: Record
    label: int
    rule: Rule
    spec: InputSpec | None


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read; problems: (path, message) of what could not be, without an item if that is the image."""

    found: tuple[_Item, Image | Prepared] | None
    problems: tuple[tuple[str, str], ...] = ()


def _read(job: _Job) -> _Read:
    """Image and masks of a record. Messages, not errors: they come from other processes."""
    from wordsight.imaging import prepared, read_record

    record, problems = job.record, list[tuple[str, str]]()
    try:
        image = read_record(record)
        mask = _packed(record, record.mask if job.label else None, job.rule, image.shape, problems)
        region = _packed(record, record.region, "any", image.shape, problems)
    except (ImageError, OSError) as error:
        return _Read(None, (*problems, (str(record.path), str(error))))
    item = _Item(record, job.label, image.shape, mask, region)
    return _Read((item, image if job.spec is None else prepared(image, job.spec)), tuple(problems))


def _packed(
    record: Record, path: Any, rule: Rule, shape: tuple[int, int], problems: list[tuple[str, str]]
) -> NDArray[np.uint8] | None:
    """The bits of a mask of an image of this shape; one of another shape is a problem of the mask alone, and None."""
    if path is None:
        return None
    mask = _mask(record, path, rule)
    if mask.shape == shape:
        return np.packbits(mask)
    told = f"expected a mask of the image's {shape}, got {mask.shape}: the image counts, its pixels do not."
    problems.append((str(path), f"{path}: {told} Resample the mask."))
    return None


class _Reader:
    """Records to batches of images; what cannot be read is collected in `failures` and left out.

    spec: how they are prepared, None for images as they are. workers: processes that do so for the next batch
    meanwhile, 0 for none.
    """

    def __init__(
        self, records: Sequence[Record], labels: Sequence[int], rule: Rule, spec: InputSpec | None, workers: int
    ) -> None:
        self._jobs = [_Job(record, label, rule, spec) for record, label in zip(records, labels, strict=True)]
        self._workers = workers
        self.failures: list[tuple[str, str]] = []

    def fail(self, record: Record, error: Exception) -> None:
        """Note why a record is left out."""
        self.failures.append((str(record.path), str(error)))

    def batches(self, size: int, bar: Any) -> Iterator[tuple[list[_Item], list[Any]]]:
        """Up to `size` images at a time."""
        from wordsight.data.reading import read_ahead

        items: list[_Item] = []
        images: list[Image | Prepared] = []
        with closing(read_ahead(_read, self._jobs, workers=self._workers, ahead=size)) as everything:
            for read in everything:
                self.failures += read.problems
                if read.found is not None:
                    items.append(read.found[0])
                    images.append(read.found[1])
                if bar is not None:
                    bar.advance()
                if len(items) == size:
                    yield items, images
                    items, images = [], []
        if items:
            yield items, images


class Results:
    """What is kept per image: score, map, mask and region on one grid; (4 + 1 + 1) bytes per pixel of the grid."""

    def __init__(self, capacity: int, finding: str | None, spec: Any) -> None:
        self._capacity, self._finding, self._spec = capacity, finding, spec
        self.items: list[_Item] = []
        self.scores: list[float] = []
        self.kind, self.weights = ScoreKind.SCALED, ""
        self._maps: Float32 | None = None
        self._masks: Mask | None = None
        self._regions: Mask | None = None

    def add(self, item: _Item, prediction: Prediction) -> None:
        """Take one prediction. Raises MetricError if it does not fit the ones before."""
        place = self._place(prediction)
        score = float(prediction.scores[place])
        if not np.isfinite(score):
            raise MetricError(
                f"{item.record.path}: expected a finite score, got {score}. Check the detector's weights."
            )
        self.kind, self.weights = prediction.kind, prediction.weights
        if self.items and (prediction.maps is None) != (self._maps is None):
            raise MetricError(f"{item.record.path}: expected maps for all images or for none. Check the detector.")
        if prediction.maps is not None:
            self._add_map(item, prediction.maps[place], prediction.geometry)
        self.items.append(item)
        self.scores.append(score)

    def _place(self, prediction: Prediction) -> int:
        if self._finding is not None and self._finding in prediction.findings:
            return prediction.findings.index(self._finding)
        if self._finding is None and len(prediction.findings) == 1:
            return 0
        known = ", ".join(prediction.findings)
        if self._finding is None:
            raise MetricError(f"expected one finding, got {known}. Choose one with finding=.")
        raise MetricError(f"expected finding= one of {known}, got {self._finding!r}.")

    def _add_map(self, item: _Item, values: Float32, geometry: Geometry) -> None:
        if self._spec is not None and values.shape != self._spec.size:
            values = Geometry(self._spec.size, self._spec.size, (1.0, 1.0)).to_image(values)
        if self._maps is None or self._masks is None or self._regions is None:
            shape = (self._capacity, *values.shape)
            self._maps, self._masks, self._regions = np.empty(shape, np.float32), np.zeros(shape, bool), None
            self._regions = np.zeros(shape, bool)
        if values.shape != self._maps.shape[1:]:
            raise MetricError(
                f"{item.record.path}: expected a map of shape {self._maps.shape[1:]} like the first one, "
                f"got {values.shape}. Give the detector one input size."
            )
        i = len(self.items)
        rows, columns = _image_cells(geometry, values.shape)
        seen = (rows >= 0)[:, None] & (columns >= 0)[None, :]
        self._maps[i] = np.where(seen, values, np.nan)
        for bits, target in ((item.mask, self._masks), (item.region, self._regions)):
            if bits is not None:
                target[i] = self._on_grid(item.on(bits), rows, columns)

    def _on_grid(self, mask: Mask, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Mask:
        if self._spec is not None:
            from wordsight.imaging import prepare_mask

            return prepare_mask(mask, self._spec)
        inside = (rows >= 0)[:, None] & (columns >= 0)[None, :]
        return np.asarray(mask[np.ix_(rows, columns)] & inside)

    @property
    def maps(self) -> Float32 | None:
        """(N, h, w) or None."""
        return None if self._maps is None else self._maps[: len(self.items)]

    @property
    def masks(self) -> Mask | None:
        """(N, h, w), None without maps or when no record has a mask."""
        known = self._masks is not None and any(item.mask is not None for item in self.items)
        return self._masks[: len(self.items)] if known and self._masks is not None else None

    @property
    def regions(self) -> Mask | None:
        """(N, h, w), None without maps or when no record has a region."""
        known = self._regions is not None and any(item.region is not None for item in self.items)
        return self._regions[: len(self.items)] if known and self._regions is not None else None


def _image_cells(geometry: Geometry, shape: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column of the image under the centre of every map row and column, -1 outside the image."""
    found = []
    for axis, cells in enumerate(shape):
        array = (np.arange(cells) + 0.5) * geometry.array_shape[axis] / cells
        place = np.floor((array - geometry.offset[axis]) / geometry.scale[axis]).astype(np.intp)
        found.append(np.where((place >= 0) & (place < geometry.image_shape[axis]), place, -1))
    return found[0], found[1]


@dataclass(frozen=True, slots=True)
class _Pass:
    """How one pass over the images is done."""

    detector: Detector
    reader: _Reader
    results: Results

    def direct(self, items: list[_Item], images: list[Image]) -> None:
        """Predict a batch; if it holds an image that the detector refuses, that one alone is set aside."""
        for item, prediction in self._each(items, images, self._predict):
            self.results.add(item, prediction)

    def _predict(self, images: Sequence[Image]) -> list[Prediction]:
        if isinstance(self.detector, RawDetector):
            return self.detector.finish(self.detector.raw(images))
        return self.detector.predict(images)

    def look(self, items: list[_Item], images: list[Image]) -> list[tuple[_Item, Any]]:
        """Raw values of a batch."""
        assert isinstance(self.detector, RawDetector)
        return self._each(items, images, self.detector.raw)

    def finish(self, looked: Sequence[tuple[_Item, Any]], batch_size: int, progress: bool) -> None:
        """Scale by all raw values, then predict in batches."""
        assert isinstance(self.detector, RawDetector)
        bound = self.detector.with_scale_from([raw for _, raw in looked])
        with bars.progress("Scaling scores", len(looked)) if progress else nullcontext() as bar:
            for start in range(0, len(looked), batch_size):
                part = looked[start : start + batch_size]
                predictions = bound.finish([raw for _, raw in part])
                for (item, _), prediction in zip(part, predictions, strict=True):
                    self.results.add(item, prediction)
                if bar is not None:
                    bar.advance(len(part))

    def _each(
        self, items: list[_Item], images: list[Image], look: Callable[[Sequence[Image]], list[T]]
    ) -> list[tuple[_Item, T]]:
        try:
            return list(zip(items, look(images), strict=True))
        except ImageError:
            kept = []
        for item, image in zip(items, images, strict=True):
            try:
                kept.append((item, look([image])[0]))
            except ImageError as error:
                self.reader.fail(item.record, error)
        return kept


def collect(
    detector: Detector,
    records: Sequence[Record],
    labels: Sequence[int],
    *,
    batch_size: int,
    mask_rule: Rule,
    transductive: bool,
    progress: bool,
    finding: str | None,
    workers: int = 0,
) -> tuple[Results, list[tuple[str, str]]]:
    """Predict every record that can be read; the results and (path, message) of the others.

    workers: processes that read the next images meanwhile, see `read_ahead`.
    Raises DataError when nothing could be read, SettingsError for settings that the detector cannot follow.
    """
    if transductive and not isinstance(detector, RawDetector):
        raise SettingsError(
            f"expected a detector with raw, with_scale_from and finish for transductive=True, got {detector.name}. "
            "Use transductive=False."
        )
    ready = detector.input_spec if isinstance(detector, PreparedDetector) and detector.takes_prepared else None
    reader = _Reader(records, labels, mask_rule, ready, workers)
    results = Results(len(records), finding, getattr(detector, "input_spec", None))
    work = _Pass(detector, reader, results)
    looked: list[tuple[_Item, Any]] = []
    with bars.progress("Evaluating", len(records)) if progress else nullcontext() as bar:
        for items, images in reader.batches(batch_size, bar):
            if transductive:
                looked += work.look(items, images)
            else:
                work.direct(items, images)
    if looked:
        work.finish(looked, batch_size, progress)
    if not results.items:
        first = "\n".join(f"  {path}: {message}" for path, message in reader.failures[:5])
        raise DataError(f"expected at least one readable image, all {len(records)} failed. The first are:\n{first}")
    return results, reader.failures
