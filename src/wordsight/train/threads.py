"""How many CPU threads torch may use."""

from __future__ import annotations

import torch

from wordsight.errors import SettingsError


def use_threads(threads: int | None) -> None:
    """Set torch's CPU threads; None leaves them to torch. Raises SettingsError below 1."""
    if threads is None:
        return
    if threads < 1:
        raise SettingsError(f"threads: expected 1 or more, got {threads}. Leave it out for torch's own choice.")
    torch.set_num_threads(threads)
