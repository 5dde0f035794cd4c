"""Progress bars with rate and remaining time for work that takes longer than two seconds; silent off a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
QUIET_SECONDS = 2.0


class Progress:
    """A bar that appears once the work has lasted two seconds; `advance` counts, `note` sets the text at its end."""

    def __init__(self, description: str, total: int | None, unit: str, show: bool = True) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._done, self._note = 0, ""
        self._start = time.monotonic()
        self._bar: object | None = None
        self._active = show and sys.stderr.isatty()

    def advance(self, steps: int = 1) -> None:
        """Count finished units."""
        self._done += steps
        self._show()

    def note(self, text: str) -> None:
        """Show a short text (a loss, a score) after the bar."""
        self._note = text
        self._show()

    def _show(self) -> None:
        if not self._active or (self._bar is None and time.monotonic() - self._start < QUIET_SECONDS):
            return
        from rich import progress as rich_progress
        from rich.console import Console

        if self._bar is None:
            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}"),
                rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TextColumn("{task.fields[rate]}"),
                rich_progress.TimeRemainingColumn(),
                rich_progress.TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._bar.add_task(self._description, total=self._total, rate="", note="")
        assert isinstance(self._bar, rich_progress.Progress)
        rate = self._done / max(time.monotonic() - self._start, 1e-9)
        self._bar.update(
            self._bar.task_ids[0], completed=self._done, rate=f"{rate:.1f} {self._unit}/s", note=self._note
        )

    def close(self) -> None:
        """Remove the bar's live display."""
        if self._bar is not None:
            from rich import progress as rich_progress

            assert isinstance(self._bar, rich_progress.Progress)
            self._bar.stop()


@contextmanager
def progress(
    description: str, total: int | None = None, unit: str = "images", *, show: bool = True
) -> Iterator[Progress]:
    """A progress bar for a block; call `advance` on what it yields. show: False in all but one of many processes."""
    bar = Progress(description, total, unit, show)
    try:
        yield bar
    finally:
        bar.close()


def track(items: Iterable[T], description: str, total: int | None = None, unit: str = "images") -> Iterator[T]:
    """Iterate with a progress bar."""
    count = len(items) if total is None and isinstance(items, Sized) else total
    with progress(description, count, unit) as bar:
        for item in items:
            yield item
            bar.advance()
