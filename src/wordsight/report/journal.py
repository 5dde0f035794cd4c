"""Rows of a running piece of work on disk, one JSON object a line; after a kill whole lines are found again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from wordsight.errors import DataError


class Journal:
    """An append-only file of rows by key; in memory are the keys alone (a hundred bytes a row).

    A line that a kill left unfinished is cut off, and with it anything after a line that cannot be read. Of two rows
    with one key the later counts. Raises DataError where the file cannot be written or another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, int] = {}
        try:
            self._stream: BinaryIO = open(path, "a+b")  # noqa: SIM115  # closed by __exit__
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._lock()
            self._stream.truncate(self._index())
        except BaseException:
            self._stream.close()
            raise

    def _unwritable(self, error: OSError) -> DataError:
        return DataError(f"{self._path}: cannot write here ({error.strerror}). Choose another output folder.")

    def _lock(self) -> None:
        """Keep a second process out, where the system can."""
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{self._path.parent.parent}: another process writes predictions here. Wait for it, or choose another "
                "--out."
            ) from error
        except OSError:
            return  # a file system without locks

    def _index(self) -> int:
        """Find the rows; returns where the last whole line ends."""
        self._stream.seek(0)
        end = 0
        for line in self._stream:
            try:
                key = json.loads(line)["key"] if line.endswith(b"\n") else None
            except (ValueError, KeyError, TypeError):
                break
            if not isinstance(key, str):
                break
            self._places[key] = end
            end += len(line)
        return end

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def append(self, key: str, row: dict[str, Any]) -> None:
        """Write a row; it is on disk (or with the system) when this returns. NaN is refused (ValueError)."""
        line = json.dumps({"key": key, **row}, allow_nan=False).encode() + b"\n"
        try:
            place = self._stream.seek(0, 2)
            self._stream.write(line)
            self._stream.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        self._places[key] = place

    def __iter__(self) -> Iterator[str]:
        """Keys in the order in which their rows were first written."""
        return iter(list(self._places))

    def rows(self, keys: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
        """Rows one at a time, in the order of the keys (default: as first written); keys without a row are skipped."""
        for key in self if keys is None else keys:
            if key in self._places:
                self._stream.seek(self._places[key])
                yield json.loads(self._stream.readline())

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
