"""Images that a training leaves out because their files cannot be read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from wordsight.errors import ImageError, WordsightError
from wordsight.train.gather import gather_items

if TYPE_CHECKING:
    from wordsight.train.carzero_data import ReportImage


class Unreadable:
    """What was left out so far: file -> why, the same in all processes.

    limit: with more files than that, the next one is an error.
    """

    def __init__(self, limit: int, world: int, device: torch.device) -> None:
        self.found: dict[str, str] = {}
        self._limit, self._world, self._device = limit, world, device

    def agree(
        self, rows: Sequence[ReportImage], failed: Mapping[int, WordsightError], *, alone: bool = False
    ) -> Collection[int]:
        """The rows of one step that any process could not read; every process calls this, unless alone.

        Raises ImageError beyond the limit.
        """
        everywhere = dict(failed) if alone else gather_items(failed, self._world, self._device)
        for row, error in everywhere.items():
            self.found[str(rows[row].path)] = str(error)
            self._check(str(error))
        return everywhere

    def merge(self) -> None:
        """Make known to all what each has found alone; every process calls this. Raises as `agree`."""
        self.found |= gather_items(self.found, self._world, self._device)
        self._check(next(iter(self.found.values()), ""))

    def _check(self, why: str) -> None:
        if len(self.found) > self._limit:
            raise ImageError(
                f"{why} So {len(self.found)} images cannot be read, and {self._limit} may be left out. Mend the files, "
                "or allow a larger share of them (unreadable); the same command then goes on."
            )

    def names(self) -> list[str]:
        """The files, in order."""
        return sorted(self.found)
