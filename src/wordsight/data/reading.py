"""Images of records, read ahead in other processes while the network is busy with those before them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from wordsight.errors import DataError, ImageError, SettingsError
from wordsight.imaging import read_record
from wordsight.types import Image, Record

J = TypeVar("J")
D = TypeVar("D")
INLINE = 32  # for fewer files starting processes costs more than it saves


def reading_workers(workers: int | None) -> int:
    """Processes that read: as many as given, 0 for none, None for two or the usable cores, if those are fewer.

    Raises SettingsError below 0.
    """
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(2, cores)
    if workers < 0:
        raise SettingsError(f"workers: expected 0 processes or more, got {workers}. 0 reads in the process itself.")
    return workers


def read_records(records: Sequence[Record], *, workers: int = 0, ahead: int = 8) -> Generator[Image | str, None, None]:
    """The image of every record in order, or the message that says why it cannot be read; see `read_ahead`."""
    return read_ahead(_read, records, workers=workers, ahead=ahead)


def read_ahead(
    read: Callable[[J], D], jobs: Sequence[J], *, workers: int = 0, ahead: int = 8
) -> Generator[D, None, None]:
    """What a function of a module reads for every job, in order.

    workers: processes that read, 0 for this one; few files are always read here. ahead: the most results that wait to
    be taken, which bounds the memory. Close the iterator to stop the processes early. They are spawned, so a script
    that asks for them must run under `if __name__ == "__main__":`.
    Raises DataError if a process dies.
    """
    if not workers or len(jobs) < INLINE:
        yield from map(read, jobs)
        return
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    waiting: deque[Future[D]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(read, job))
            if len(waiting) >= max(ahead, workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process that reads images ended early. Read in one process (workers 0), or, from a script of your own, "
            "call this under `if __name__ == '__main__':`."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """A reading process leaves an interruption to its parent, and ends when the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


def _read(record: Record) -> Image | str:
    try:
        return read_record(record)
    except (ImageError, OSError) as error:
        return str(error)
