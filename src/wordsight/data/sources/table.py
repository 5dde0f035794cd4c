"""What a label file says: images, findings, labels, whose images they are, and boxes where there are any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordsight.data.listing import few
from wordsight.errors import DataError
from wordsight.types import Record

Boxes = Mapping[str, NDArray[np.float64]]
"""Finding -> (n, 4) boxes x1, y1, x2, y2 in pixels."""


@dataclass(frozen=True, eq=False)
class LabelTable:
    """The labels of a benchmark, one row per image (or study), in the order of the file.

    dataset: its name. names: (N,) images as the file names them. findings: (F,) names. labels: (N, F) int8, 0/1.
    groups: (N,) what is drawn together in a bootstrap; unit: what a group is ("patients", "reports", ...).
    boxes: per image the boxes of its findings, None where the data set has none. rows: what a row is. size: (height,
    width) of the images that the boxes were drawn on, None without boxes.
    Raises DataError for no rows, repeated images or findings, other labels, or lengths that do not fit.
    """

    dataset: str
    names: tuple[str, ...]
    findings: tuple[str, ...]
    labels: NDArray[np.int8]
    groups: tuple[str, ...]
    unit: str
    boxes: tuple[Boxes, ...] | None = None
    rows: str = "images"
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.names or not self.findings:
            raise DataError(f"{self.dataset}: expected images and findings, got {self.labels.shape} labels.")
        if self.labels.shape != (len(self.names), len(self.findings)) or len(self.groups) != len(self.names):
            raise DataError(
                f"{self.dataset}: expected labels and groups for {len(self.names)} images and {len(self.findings)} "
                f"findings, got labels {self.labels.shape} and {len(self.groups)} groups."
            )
        for what, values in (("image", self.names), ("finding", self.findings)):
            repeated = repeats(values)
            if repeated:
                raise DataError(f"{self.dataset}: expected each {what} once, got {few(repeated)} more than once.")
        if not np.isin(self.labels, (0, 1)).all():
            raise DataError(f"{self.dataset}: expected labels 0 or 1, got {few(np.unique(self.labels))}.")

    @property
    def positives(self) -> NDArray[np.int64]:
        """(F,) how many images have each finding."""
        return np.asarray(self.labels.sum(axis=0, dtype=np.int64))

    def take(self, rows: Sequence[int]) -> LabelTable:
        """The table of some rows, in the order given."""
        chosen = [int(row) for row in rows]
        return replace(
            self,
            names=tuple(self.names[row] for row in chosen),
            labels=self.labels[chosen],
            groups=tuple(self.groups[row] for row in chosen),
            boxes=None if self.boxes is None else tuple(self.boxes[row] for row in chosen),
        )

    def records(self, folder: str | Path, *, split: str | None = "test") -> list[Record]:
        """Records of the images below a folder, with the findings in `labels` and the group as patient.

        An image is looked for under its whole name, then under shorter ends of it as long as these tell all images
        apart: lists with subfolders also serve a flat folder. Raises DataError that lists images not found, and for
        names that leave the folder.
        """
        folder = Path(folder)
        depth = tail_depth(self.names)
        files = [_find(folder, name, depth) for name in self.names]
        missing = [name for name, file in zip(self.names, files, strict=True) if file is None]
        if missing:
            raise DataError(
                f"{folder}: expected the {len(files)} images of {self.dataset}, {len(missing)} missing: {few(missing)}."
                " Give the folder that holds them."
            )
        return [
            Record(
                file,
                patient=None if self.unit == "images" else group,
                split=split,
                dataset=self.dataset,
                labels=dict(zip(self.findings, map(int, row), strict=True)),
            )
            for file, group, row in zip(filter(None, files), self.groups, self.labels, strict=True)
        ]


def repeats(values: Iterable[str]) -> list[str]:
    """The values that occur more than once."""
    return [value for value, count in Counter(values).items() if count > 1]


def tail(name: str, depth: int) -> str:
    """The last `depth` parts of a path."""
    return "/".join(PurePosixPath(name.replace("\\", "/")).parts[-depth:])


def tail_depth(names: Sequence[str]) -> int:
    """How many of their last parts tell all of these paths apart; all of them at worst."""
    longest = max((len(PurePosixPath(name.replace("\\", "/")).parts) for name in names), default=1)
    return next((d for d in range(1, longest) if len({tail(n, d) for n in names}) == len(names)), longest)


def _find(folder: Path, name: str, depth: int) -> Path | None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or PurePosixPath(name).is_absolute() or "\0" in name:
        raise DataError(f"expected the name of an image below {folder}, got {name!r}. Check the label file.")
    tails = (folder.joinpath(*parts[start:]) for start in range(max(len(parts) - depth, 0) + 1))
    return next((file for file in tails if file.is_file()), None)


def binary_labels(rows: Sequence[Iterable[str]], findings: Sequence[str]) -> NDArray[np.int8]:
    """(N, F) labels from the findings that each image has; findings that are not among these are ignored."""
    column = {finding: i for i, finding in enumerate(findings)}
    labels: NDArray[Any] = np.zeros((len(rows), len(findings)), dtype=np.int8)
    for row, present in enumerate(rows):
        for finding in present:
            if finding in column:
                labels[row, column[finding]] = 1
    return labels
