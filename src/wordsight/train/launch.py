"""Processes that torchrun started on one machine or several, as their environment tells."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from wordsight.errors import SettingsError

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")


@dataclass(frozen=True, slots=True)
class Launched:
    """This process among all: its rank of `world`; here: processes on this machine, the same on each."""

    rank: int
    world: int
    here: int

    @property
    def machines(self) -> int:
        """How many machines take part."""
        return self.world // self.here


def launched(environment: Mapping[str, str] | None = None) -> Launched | None:
    """What a launcher such as torchrun says in RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR; None without all of them.

    environment: None for this process's own. Raises SettingsError for values that are no such numbers.
    """
    known = os.environ if environment is None else environment
    if any(name not in known for name in _NAMES):
        return None
    world = known["WORLD_SIZE"]
    texts = {"RANK": known["RANK"], "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": known.get("LOCAL_WORLD_SIZE", world)}
    if all(text.isdecimal() for text in texts.values()):
        found = Launched(*(int(text) for text in texts.values()))
        if found.rank < found.world and found.here > 0 and found.world % found.here == 0:
            return found
    told = ", ".join(f"{name}={text}" for name, text in texts.items())
    raise SettingsError(f"expected RANK below WORLD_SIZE, a multiple of LOCAL_WORLD_SIZE, got {told}. Use torchrun.")


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    found = launched()
    return found is None or found.rank == 0
