"""Reading ahead: the same images in the same order as reading one by one, messages for what cannot be read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from wordsight import helpers as pool_module
from wordsight.data import reading
from wordsight.data.reading import read_prepared, read_records
from wordsight.errors import DataError, SettingsError
from wordsight.helpers import Helpers, helper_count, result, usable_cores
from wordsight.imaging import Prepared, mla_input, prepared, read_record
from wordsight.types import Image, Record


def files(folder: Path, count: int) -> list[Record]:
    """PNG files of which every fifth is damaged, and one that is not there."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        path = folder / f"{number}.png"
        Pillow.fromarray(rng.integers(0, 256, (20 + number, 30), dtype=np.uint8)).save(path)
        if number % 5 == 4:
            path.write_bytes(path.read_bytes()[:50])
        found.append(Record(path, label=None))
    return [*found, Record(folder / "missing.png", label=None)]


def same(ours: Image | str, theirs: Image | str) -> bool:
    if isinstance(ours, str) or isinstance(theirs, str):
        return ours == theirs
    return np.array_equal(ours.pixels, theirs.pixels) and ours.source == theirs.source and ours.bits == theirs.bits


def test_processes_give_what_one_gives_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = files(tmp_path, 12)
    alone = list(read_records(records))
    assert [isinstance(found, str) for found in alone] == [n % 5 == 4 or n == 12 for n in range(13)]
    assert "4.png" in str(alone[4])
    monkeypatch.setattr(pool_module, "INLINE", 1)
    together = list(read_records(records, workers=2, ahead=3))
    assert len(together) == 13
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))


class Pool:
    """A pool that works at once and knows how many results wait."""

    def __init__(self, *_: object, **__: object) -> None:
        self.given = 0
        self.closed = False

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Any:
        from concurrent.futures import Future

        self.given += 1
        future: Future[Any] = Future()
        future.set_result(work(*arguments))
        return future

    def shutdown(self, **_: object) -> None:
        self.closed = True


def test_what_waits_is_bounded_and_closing_stops_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    monkeypatch.setattr(pool_module, "INLINE", 1)
    monkeypatch.setattr(pool_module, "ProcessPoolExecutor", lambda *_, **__: pool)
    found = read_records(files(tmp_path, 12), workers=2, ahead=4)
    for taken in range(1, 6):
        next(found)
        assert pool.given - taken <= 4
    found.close()
    assert pool.closed
    assert pool.given < 13


def test_few_files_start_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pool was started")

    monkeypatch.setattr(pool_module, "ProcessPoolExecutor", refuse)
    assert len(list(read_records(files(tmp_path, 5), workers=2))) == 6


def test_a_process_that_dies_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures.process import BrokenProcessPool

    class Dying(Pool):
        def submit(self, work: Callable[..., Any], *arguments: Any) -> Any:
            raise BrokenProcessPool("gone")

    monkeypatch.setattr(pool_module, "INLINE", 1)
    monkeypatch.setattr(pool_module, "ProcessPoolExecutor", Dying)
    with pytest.raises(DataError, match=r"a process that reads or draws images ended early; perhaps .* Do without \(w"):
        list(read_records(files(tmp_path, 3), workers=1))


def test_prepared_by_a_process_is_as_prepared_here(tmp_path: Path) -> None:
    records, spec = files(tmp_path, 6), mla_input(24)
    with Helpers(1, len(records), few=2) as helpers:
        found = list(helpers.ahead(read_prepared, [(record, spec) for record in records], ahead=3))
    assert [isinstance(image, str) for image in found] == [n in (4, 6) for n in range(7)]
    for record, image in zip(records, found, strict=True):
        if isinstance(image, Prepared):
            wanted = prepared(read_record(record), spec)
            assert np.array_equal(image.array, wanted.array)
            assert (image.geometry, image.source, image.spec) == (wanted.geometry, wanted.source, spec)


def halved(number: int) -> float:
    """A job that fails for odd numbers."""
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number / 2


@pytest.mark.parametrize("processes", [0, 1])
def test_a_job_that_was_begun_is_waited_for(processes: int) -> None:
    with Helpers(processes, 2, few=1) as helpers:
        begun = [helpers.begin(halved, number) for number in (8, 2)]
        assert [result(future) for future in begun] == [4.0, 1.0]
        with pytest.raises(ValueError, match="3 is odd"):
            result(helpers.begin(halved, 3))


def test_without_processes_each_job_is_done_when_it_is_wanted() -> None:
    begun = []
    with Helpers(2, 5) as helpers:
        for found in helpers.ahead(lambda n: begun.append(n) or n, range(5), ahead=4):
            assert begun == list(range(found + 1))


SCRIPT = """
import multiprocessing, sys
from pathlib import Path
from wordsight import helpers
from wordsight.data import reading
from wordsight.types import Record

if __name__ == "__main__":
    helpers.INLINE = 1
    records = [Record(path) for path in sorted(Path(sys.argv[1]).glob("*.png"))]
    images = reading.read_records(records, workers=1, ahead=2)
    next(images)
    print(multiprocessing.active_children()[0].pid, flush=True)
    sys.stdin.read()
"""


def runs(pid: int) -> bool:
    """Whether a process is there and no mere entry of a dead one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks at /proc")
def test_readers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    files(tmp_path, 8)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    source = str(Path(reading.__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    ) as parent:
        assert parent.stdout is not None
        reader = int(parent.stdout.readline())
        assert runs(reader)
        parent.kill()
    deadline = time.monotonic() + 60
    while runs(reader) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs(reader)


def test_workers_are_few_unless_given() -> None:
    assert helper_count(None) == min(2, usable_cores())
    assert helper_count(None, "cuda:1") == min(8, usable_cores())
    assert helper_count(0) == 0
    assert helper_count(7) == 7
    with pytest.raises(SettingsError, match="workers: expected 0 processes or more, got -1"):
        helper_count(-1)
