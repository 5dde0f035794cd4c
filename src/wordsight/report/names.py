"""File names from strangers made safe, and folders replaced only when everything in them is ready."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from wordsight.errors import DataError

LONGEST = 120
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?$", re.IGNORECASE)
OURS = ("results.json", "predictions.json")


def safe_name(text: str) -> str:
    """One path component that stays where it is put and is allowed on every file system.

    Folders are joined by "__"; "." and ".." are dropped; anything but letters, digits, "-", "_" and "." becomes "_".
    Two texts may give the same name: see SafeNames.
    """
    parts = [p for p in re.split(r"[\\/]+", unicodedata.normalize("NFC", text)) if p not in ("", ".", "..")]
    joined = "__".join(re.sub(r"[^\w.-]", "_", part) for part in parts).strip(".")
    cleaned = joined.encode("utf-8", "replace").decode("utf-8").replace("?", "_") or "unnamed"
    if len(cleaned.encode("utf-8")) > LONGEST:
        tail = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        cleaned = cleaned.encode("utf-8")[: LONGEST - 9].decode("utf-8", "ignore") + "-" + tail
    return f"_{cleaned}" if _RESERVED.match(cleaned) else cleaned


class SafeNames:
    """Gives safe names and never the same twice, upper and lower case taken as equal."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def reserve(self, name: str) -> None:
        """Take a name that was given before."""
        self._taken.add(unicodedata.normalize("NFKC", name).casefold())

    def of(self, text: str) -> str:
        """A name for `text`; a number is added where it is already taken."""
        wanted = name = safe_name(text)
        count = 1
        while unicodedata.normalize("NFKC", name).casefold() in self._taken:
            count += 1
            name = f"{wanted}-{count}"
        self._taken.add(unicodedata.normalize("NFKC", name).casefold())
        return name


@contextmanager
def replacing(folder: Path, *, heatmaps: str = "heatmaps", waiting: str | None = None) -> Iterator[Path]:
    """Yield an empty folder; on success move what is in it into `folder`, on failure leave `folder` as it was.

    An older heatmaps folder goes, since its pictures belong to older numbers; other files stay. Files move one by one,
    each whole, the pages (*.html) last. waiting: name of a folder inside `folder`, in whose subfolder `new` the files
    wait; on failure it stays and is yielded again the next time, with what is in it. None: one that never stays.
    Raises DataError if the folder cannot be written, or if it holds heatmaps but no results of an earlier run.
    """
    created = not folder.exists()
    old = folder / heatmaps
    if old.exists() and not any((folder / name).exists() for name in OURS):
        raise DataError(f"{folder}: holds {heatmaps}/ that no report wrote. Choose another output folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".report-", dir=folder)) if waiting is None else folder / waiting
        (staging / "new").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot write here ({error.strerror}). Choose another output folder.") from error
    keep = waiting is not None
    try:
        new = staging / "new"
        yield new
        if old.exists():
            shutil.rmtree(staging / "old", ignore_errors=True)
            os.replace(old, staging / "old")
        for path in sorted(new.iterdir(), key=lambda p: (p.suffix == ".html", p.name)):
            os.replace(path, folder / path.name)
        created = keep = False
    finally:
        if not keep:
            shutil.rmtree(staging, ignore_errors=True)
            if created:
                remove_if_empty(folder)


def remove_if_empty(folder: Path) -> None:
    """Remove the folder if it is empty."""
    if not any(folder.iterdir()):
        folder.rmdir()
