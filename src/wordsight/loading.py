"""A method's name, or the folder of a trained run, to a detector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wordsight.errors import SettingsError, WeightsError

if TYPE_CHECKING:
    from wordsight.models.mla.detector import MlaLp
    from wordsight.models.mla.settings import MlaSettings

METHODS = ("mla",)


def load(
    name_or_run: str | Path,
    *,
    architecture: str | None = None,
    weights: str | Path | None = None,
    settings: MlaSettings | None = None,
    seed: int | None = None,
    device: str = "cpu",
) -> MlaLp:
    """A trained detector from its run folder, or an untrained one by its method's name, "mla".

    weights: the file of the frozen backbone; for a run only where it is not where training found it. device: "cpu",
    "cuda" or "cuda:<number>". For a name only: architecture (default "tiny", the backbone of this package; else see
    `load_clip`), settings (default: as published) and seed of the untrained adapters (default 111).
    A name wins over a folder of that name: write "./mla" for the folder. A backbone is never drawn at random here.
    Raises SettingsError for an unknown name or settings that a run has already, WeightsError for files that do not fit.
    """
    from wordsight.models.mla.detector import MlaLp

    if name_or_run in METHODS:
        named = "tiny" if architecture is None else architecture
        _check_weights(named, weights)
        return MlaLp.from_clip(
            named,
            weights,
            settings=settings,
            seed=111 if seed is None else seed,
            device=device,
        )
    folder = Path(name_or_run)
    if not folder.is_dir():
        raise SettingsError(
            f"expected {' or '.join(METHODS)}, or the folder of a trained run, got {str(name_or_run)!r}. "
            "Train one with `wordsight train mla`."
        )
    given = {"architecture": architecture, "settings": settings, "seed": seed}
    surplus = [name for name, value in given.items() if value is not None]
    if surplus:
        raise SettingsError(f"{folder}: a trained run has its own {', '.join(surplus)}. Leave it out.")
    try:
        return MlaLp.load(folder, weights=weights, device=device)
    except WeightsError as error:
        draws = sorted(p.parent.name for p in folder.glob("*/detector.json"))
        if not draws:
            raise
        raise WeightsError(
            f"{folder}: expected one trained detector, got a folder of several: {', '.join(draws)}. Name one of them."
        ) from error


def _check_weights(architecture: str, weights: str | Path | None) -> None:
    """Raise WeightsError if neither the caller nor the architecture's folder names weights."""
    from wordsight.models.mla.architectures import find_architecture

    if weights is None and find_architecture(architecture).weights is None:
        raise WeightsError(
            f"architecture {architecture}: expected the file of its trained weights, got none. Name it with weights=."
        )
