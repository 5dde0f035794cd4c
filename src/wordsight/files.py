"""Files are written whole or not at all: to a temporary name beside the target, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from wordsight.errors import DataError


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; rename it to `target` on success, remove it on failure.

    The folder is made when missing. The suffix is kept, since some writers choose a format by it.
    Raises DataError if the folder cannot be written.
    """
    target = Path(target)
    try:
        handle, name = _temporary(target)
    except OSError as error:
        raise DataError(f"{target}: cannot write here ({error.strerror}). Choose another output path.") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(target: Path) -> tuple[int, str]:
    """An open temporary file beside the target; the folder is made when missing."""
    make = partial(tempfile.mkstemp, prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    try:
        return make()
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        return make()


def write_text(target: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target: str | Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, since JSON has no such numbers (use None)."""
    write_text(target, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
