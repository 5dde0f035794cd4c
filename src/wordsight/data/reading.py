"""Images of records, read and prepared in other processes while the network is busy with those before them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from wordsight.errors import ImageError
from wordsight.helpers import Helpers
from wordsight.imaging import InputSpec, Prepared, prepared, read_record
from wordsight.types import Image, Record

J = TypeVar("J")
D = TypeVar("D")


def read_records(records: Sequence[Record], *, workers: int = 0, ahead: int = 8) -> Generator[Image | str, None, None]:
    """The image of every record in order, or the message that says why it cannot be read; see `read_ahead`."""
    return read_ahead(read_or_say, records, workers=workers, ahead=ahead)


def read_ahead(
    read: Callable[[J], D], jobs: Sequence[J], *, workers: int = 0, ahead: int = 8
) -> Generator[D, None, None]:
    """What a function of a module reads for every job, in order; see `Helpers`.

    Close the iterator to stop the processes early. Raises DataError if one dies.
    """
    with Helpers(workers, len(jobs)) as helpers:
        yield from helpers.ahead(read, jobs, ahead=ahead)


def read_prepared(job: tuple[Record, InputSpec]) -> Prepared | str:
    """A record's image as a network takes it, or the message that says why it cannot be read."""
    record, spec = job
    image = read_or_say(record)
    return image if isinstance(image, str) else prepared(image, spec)


def read_or_say(record: Record) -> Image | str:
    """A record's image, or the message that says why it cannot be read."""
    try:
        return read_record(record)
    except (ImageError, OSError) as error:
        return str(error)
