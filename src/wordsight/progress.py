"""Progress bars with rate and remaining time for work that takes longer than two seconds; silent off a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
QUIET_SECONDS = 2.0
_LOCK = threading.RLock()


class Progress:
    """A bar that appears once the work has lasted two seconds; `advance` counts, `note` sets the text at its end."""

    def __init__(self, description: str, total: int | None, unit: str, show: bool = True) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._done, self._note = 0, ""
        self._start = time.monotonic()
        self._task: int | None = None
        self._active = show and sys.stderr.isatty()
        self._timer = threading.Timer(QUIET_SECONDS, self._show)
        self._timer.daemon = True
        if self._active:
            self._timer.start()  # a first unit that takes long shows its bar too

    def advance(self, steps: int = 1) -> None:
        """Count finished units."""
        self._done += steps
        self._show()

    def note(self, text: str) -> None:
        """Show a short text (a loss, a score) after the bar."""
        self._note = text
        self._show()

    def _show(self) -> None:
        with _LOCK:
            passed = time.monotonic() - self._start
            if not self._active or (self._task is None and passed < QUIET_SECONDS):
                return
            if self._task is None:
                self._task = _SCREEN.add(self._description, self._total)
            rate = f"{self._done / max(passed, 1e-9):.1f} {self._unit}/s"
            _SCREEN.update(self._task, completed=self._done, rate=rate, note=self._note)

    def close(self) -> None:
        """Leave the display; the last bar leaves its line on the terminal."""
        self._timer.cancel()
        with _LOCK:
            self._active = False
            if self._task is not None:
                _SCREEN.remove(self._task)
                self._task = None


class _Screen:
    """The one live display of all bars, so that one may run inside another."""

    def __init__(self) -> None:
        self._display: Any = None
        self._open = 0

    def add(self, description: str, total: int | None) -> int:
        """A line for a bar; the first one starts the display."""
        if self._display is None:
            self._display = _display()
            self._display.start()
        self._open += 1
        return int(self._display.add_task(description, total=total, rate="", note=""))

    def update(self, task: int, **values: object) -> None:
        """Change what a line shows."""
        self._display.update(task, **values)

    def remove(self, task: int) -> None:
        """Take a line away; with the last one the display ends."""
        self._open -= 1
        if self._open:
            self._display.remove_task(task)
        else:
            self._display.stop()
            self._display = None


_SCREEN = _Screen()


def _display() -> object:
    from rich import progress as rich_progress
    from rich.console import Console

    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[rate]}"),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )


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
