"""Images with reports, streamed: rows of a table, decoded and augmented in worker processes, batch by batch.

What an image looks like and which captions it gets depend on seed, epoch and its row alone: not on the workers, the
processes or where a run was resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wordsight.data.listing import few
from wordsight.data.manifest import read_column, read_manifest
from wordsight.errors import DataError, ImageError, SettingsError, WordsightError
from wordsight.imaging import InputSpec, prepare, read_image
from wordsight.models.carzero.detector import input_spec
from wordsight.models.carzero.settings import CarZeroSettings
from wordsight.progress import track
from wordsight.text.aligned import read_aligned
from wordsight.train.carzero_augment import augment, centre
from wordsight.train.carzero_captions import Caption, CaptionBatch, ReportCaptions, draw, match, report_captions
from wordsight.train.carzero_settings import CarZeroTraining
from wordsight.types import Record

_CAPTIONS, _PICTURES, _ORDER, _HELD_OUT = range(4)  # streams of random numbers


@dataclass(frozen=True, slots=True)
class ReportImage:
    """One image and what is said of it."""

    path: Path
    frame: int | None
    report: ReportCaptions
    window: str | None = None


@dataclass(frozen=True, slots=True)
class ReportSets:
    """What is learned from and what the epochs are judged by.

    how: how the second came about. without: images left out, whose report has no sentence.
    """

    train: tuple[ReportImage, ...]
    valid: tuple[ReportImage, ...]
    how: str
    without: int = 0

    def fingerprint(self) -> str:
        """SHA-256 of file names and captions."""
        digest = hashlib.sha256()
        for row in (*self.train, *self.valid):
            texts = "\0".join(caption.text for caption in row.report.captions)
            digest.update(f"{row.path.name}\0{row.frame}\0{texts}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Row:
    """A record, and the prompts that were made of its report beforehand."""

    record: Record
    prompts: tuple[str, ...] | None


def report_sets(
    manifest: str | Path,
    training: CarZeroTraining,
    settings: CarZeroSettings,
    *,
    allow_outside: bool = False,
    captions_column: str | None = None,
) -> ReportSets:
    """Rows of a table (see `read_manifest`) with path and report: split "train" to learn from, "valid" to judge by.

    Rows without any split are for training; without "valid" rows a share of the patients is held out (of the images,
    where patients are not named). Other splits are never opened. Images without a sentence are left out.
    captions_column: a column of prompts made beforehand (see `read_aligned`), used as `report_captions` says; the table
    then needs no reports.
    Raises DataError for a table without reports, for prompts that cannot be read, and where nothing is left to train on
    or to judge by; SettingsError where the training has no use for the column.
    """
    path = Path(manifest)
    if captions_column is not None and training.style == "sections" and training.captions == "sentences":
        raise SettingsError(
            f"captions: expected aligned or both with a column of prompts ({captions_column}), got sentences. Leave "
            "the column out, or change captions."
        )
    rows = _rows(path, captions_column, allow_outside)
    train = [row for row in rows if row.record.split in (None, "train")]
    valid = [row for row in rows if row.record.split == "valid"]
    how = "split valid of the table"
    if not valid:
        train, valid = _held_out(train, training)
        how = f"{training.valid_share:.1%} of the patients, held out from training"
    both = [_with_captions(part, training, settings) for part in (train, valid)]
    for name, found, need in (("learn from", both[0], training.batch_size(0)), ("judge by", both[1], 2)):
        if len(found) < need:
            raise DataError(f"{path}: expected at least {need} images with sentences to {name}, got {len(found)}.")
    without = len(train) + len(valid) - len(both[0]) - len(both[1])
    return ReportSets(tuple(both[0]), tuple(both[1]), how, without)


def _rows(path: Path, captions_column: str | None, allow_outside: bool) -> list[_Row]:
    """Records, with their prompts where a column holds some."""
    records = read_manifest(path, allow_outside=allow_outside)
    if captions_column is None:
        if not any(record.report for record in records):
            raise DataError(
                f"{path}: expected a column `report` with text, got none. `wordsight data prepare` makes one."
            )
        return [_Row(record, None) for record in records]
    prompts, wrong = [], []
    for number, cell in enumerate(read_column(path, captions_column), start=1):
        try:
            prompts.append(tuple(read_aligned(cell)))
        except DataError as error:
            wrong.append(f"row {number}: {error}")
    if wrong:
        raise DataError(f"{path}, column {captions_column}: {few(wrong, 2)}")
    if not any(prompts):
        raise DataError(f"{path}: expected prompts in column {captions_column}, got empty cells alone. Name another.")
    return [_Row(record, found) for record, found in zip(records, prompts, strict=True)]


def _held_out(rows: Sequence[_Row], training: CarZeroTraining) -> tuple[list[_Row], list[_Row]]:
    """All images of a share of the patients apart."""
    records = [row.record for row in rows]
    names = [str(record.path) if record.patient is None else record.patient for record in records]
    patients = sorted(set(names))
    count = max(round(len(patients) * training.valid_share), 1)
    rng = np.random.default_rng([training.seed, _HELD_OUT])
    held = {patients[int(i)] for i in rng.choice(len(patients), size=count, replace=False)}
    return (
        [row for row, name in zip(rows, names, strict=True) if name not in held],
        [row for row, name in zip(rows, names, strict=True) if name in held],
    )


def _with_captions(rows: Sequence[_Row], training: CarZeroTraining, settings: CarZeroSettings) -> list[ReportImage]:
    known: dict[tuple[str, tuple[str, ...] | None], ReportCaptions] = {}  # images of a study share their report
    found = []
    for row in track(rows, "reading reports"):
        told = row.record.report or "", row.prompts
        if told not in known:
            known[told] = report_captions(told[0], training, settings, told[1])
        if known[told].captions:
            found.append(ReportImage(row.record.path, row.record.frame, known[told], row.record.window))
    return found


@dataclass(frozen=True, slots=True)
class Batch:
    """One step: this process's images (b, S, S) uint8, the captions of all processes' images, and the step's number.

    sizes: how many images each process has; files that cannot be read are left out.
    """

    epoch: int
    number: int
    images: Tensor
    captions: CaptionBatch
    sizes: tuple[int, ...]


Agree = Callable[[Mapping[int, WordsightError]], Collection[int]]
"""Told which rows of a batch this process could not read and why: the rows that all processes leave out."""


def refuse(failed: Mapping[int, WordsightError]) -> Collection[int]:
    """Leave nothing out: raise the first error."""
    for error in failed.values():
        raise error
    return ()


class ReportData(Dataset[Tensor | WordsightError]):
    """A set of images with reports, ready for batches. augmented: whether images are varied (training)."""

    def __init__(
        self, rows: Sequence[ReportImage], settings: CarZeroSettings, training: CarZeroTraining, *, augmented: bool
    ) -> None:
        self.rows, self.settings, self.training, self.augmented = rows, settings, training, augmented
        self._spec = square_spec(settings)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> Tensor | WordsightError:
        """(epoch, row) -> (S, S) uint8; an error of this package is returned, since workers would disguise it."""
        epoch, row = key
        size = self.settings.image_size
        try:
            image = read_image(self.rows[row].path, frame=self.rows[row].frame, window=self.rows[row].window)
            square = np.rint(prepare(image, self._spec)[0][0] * 255).astype(np.uint8)
        except WordsightError as error:
            return error
        except OSError as error:
            return ImageError(f"{self.rows[row].path}: expected a file that can be read, got {error}. Check the disk.")
        if self.augmented:
            return torch.from_numpy(augment(square, size, self.training, self._rng(_PICTURES, epoch, row)).copy())
        return torch.from_numpy(centre(square, size).copy())

    def _rng(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.training.seed, *numbers])

    def drawn(self, epoch: int, row: int) -> list[Caption]:
        """Captions of an image in an epoch."""
        return draw(self.rows[row].report, self.training, self.settings, self._rng(_CAPTIONS, epoch, row))

    def captions(self, epoch: int, rows: Sequence[int]) -> CaptionBatch:
        """Captions of the images of a batch."""
        reports = [self.rows[row].report for row in rows]
        return match(reports, [self.drawn(epoch, row) for row in rows], self.training, self.settings)

    def order(self, epoch: int) -> list[list[int]]:
        """Rows of every batch of an epoch, over all processes; the rest that fills no batch waits for another epoch."""
        size = self.training.batch_size(epoch)
        order = self._rng(_ORDER, epoch).permutation(len(self)).tolist()
        return [order[i : i + size] for i in range(0, len(order) - size + 1, size)]

    def fixed(self) -> list[list[int]]:
        """Rows in batches of nearly valid_batch, the same in every epoch, none left out."""
        order = self._rng(_ORDER).permutation(len(self))
        parts = max(round(len(order) / self.training.valid_batch), 1)
        return [part.tolist() for part in np.array_split(order, parts) if len(part)]

    def stream(
        self, epoch: int, batches: Sequence[Sequence[int]], rank: int = 0, world: int = 1, agree: Agree = refuse
    ) -> Iterator[Batch]:
        """Batches in order; of each, process `rank` of `world` gets its share of the images and all captions.

        agree: called for every batch, in all processes. Raises what it raises, and ImageError where nothing is left.
        """
        shares = [[(epoch, row) for row in share(rows, rank, world)] for rows in batches]
        loader: DataLoader[Tensor | WordsightError] = DataLoader(
            self, batch_sampler=shares, num_workers=self.training.workers, collate_fn=list
        )
        for number, (rows, items) in enumerate(zip(batches, loader, strict=True)):
            own = share(rows, rank, world)
            lost = agree({r: item for r, item in zip(own, items, strict=True) if isinstance(item, WordsightError)})
            parts = [[row for row in share(rows, k, world) if row not in lost] for k in range(world)]
            left = [row for part in parts for row in part]
            if not left:
                names = few(self.rows[row].path.name for row in rows)
                raise ImageError(f"expected images that can be read, got a whole batch of others ({names}).")
            size = self.settings.image_size
            images = [item for item in items if isinstance(item, Tensor)]
            stacked = torch.stack(images) if images else torch.zeros(0, size, size, dtype=torch.uint8)
            yield Batch(epoch, number, stacked, self.captions(epoch, left), tuple(map(len, parts)))


def share(items: Sequence[int], rank: int, world: int) -> Sequence[int]:
    """The consecutive part of process `rank`; parts differ by one at most."""
    return items[len(items) * rank // world : len(items) * (rank + 1) // world]


def square_spec(settings: CarZeroSettings) -> InputSpec:
    """The whole padded square, of which training crops a part; [0, 1]."""
    spec = input_spec(settings)
    assert spec.resize_to is not None
    return replace(spec, size=(spec.resize_to, spec.resize_to), colour=False, channels=1, mean=None, std=None)


class Round:
    """Some batches of an epoch, read when iterated."""

    def __init__(self, data: ReportData, epoch: int, first: int, rows: list[list[int]], how: tuple[Any, ...]) -> None:
        self._data, self._epoch, self._first, self._rows, self._how = data, epoch, first, rows, how

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._data.stream(self._epoch, self._rows, *self._how):
            yield replace(batch, number=self._first + batch.number)


def rounds(data: ReportData, epoch: int, rank: int, world: int, agree: Agree = refuse) -> list[Round]:
    """The batches of an epoch in rounds of `save_every`; see `ReportData.stream`."""
    rows, size = data.order(epoch), data.training.save_every
    return [Round(data, epoch, i, rows[i : i + size], (rank, world, agree)) for i in range(0, len(rows), size)]
