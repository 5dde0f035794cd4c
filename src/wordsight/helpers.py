"""Other processes at work while the network is busy: what is read ahead of it, what is drawn behind it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from wordsight.errors import DataError, SettingsError

J = TypeVar("J")
D = TypeVar("D")
INLINE = 32  # for fewer files starting processes costs more than it saves


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def helper_count(workers: int | None, device: object = "cpu") -> int:
    """Processes that read and draw: as many as given, 0 for none, None for what suits the network's device.

    That is two where the network needs the processor itself, eight where it does not, but no more than usable cores.
    Raises SettingsError below 0.
    """
    if workers is None:
        return min(2 if str(device).partition(":")[0] == "cpu" else 8, usable_cores())
    if workers < 0:
        raise SettingsError(f"workers: expected 0 processes or more, got {workers}. 0 reads in the process itself.")
    return workers


class Helpers:
    """Processes that read, prepare and draw while this one computes; without any, this one does it all.

    count: of processes. jobs: how many pieces of work there will be; for fewer than `few` no process is started.
    They are spawned, so a script that asks for them must run under `if __name__ == "__main__":`. Used as a context,
    which waits for what is being done at its end and drops what was not begun.
    """

    def __init__(self, count: int, jobs: int, *, few: int | None = None) -> None:
        self._count = count if jobs >= (INLINE if few is None else few) else 0
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Helpers:
        if self._count:
            spawning = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._count, mp_context=spawning, initializer=_begin)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def begin(self, work: Callable[[J], D], job: J) -> Future[D]:
        """Have a function of a module do a job; see `result`. Without processes it is done when this returns."""
        if self._pool is not None:
            with _dying():
                return self._pool.submit(work, job)
        done: Future[D] = Future()
        done.set_result(work(job))
        return done

    def ahead(self, work: Callable[[J], D], jobs: Iterable[J], *, ahead: int = 8) -> Iterator[D]:
        """What the function makes of every job, in order.

        ahead: the most results that wait to be taken, which bounds the memory; without processes none is.
        """
        most = max(ahead, 2 * self._count) if self._pool is not None else 1
        waiting: deque[Future[D]] = deque()
        for job in jobs:
            waiting.append(self.begin(work, job))
            if len(waiting) >= most:
                yield result(waiting.popleft())
        while waiting:
            yield result(waiting.popleft())


def result(future: Future[D]) -> D:
    """What came of a job, waited for. Raises what the job raised, and DataError if its process died."""
    with _dying():
        return future.result()


@contextmanager
def _dying() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise DataError(
            "a process that reads or draws images ended early; perhaps memory was short. Do without (workers 0), or, "
            "from a script of your own, call this under `if __name__ == '__main__':`."
        ) from error


def _begin() -> None:
    """A helping process leaves an interruption to its parent, and ends when the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
