"""A method's name, or the folder of a trained run, to a detector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from wordsight.errors import SettingsError, WeightsError

if TYPE_CHECKING:
    from wordsight.models.carzero.detector import CarZero
    from wordsight.models.carzero.settings import CarZeroSettings
    from wordsight.models.mla.detector import MlaLp
    from wordsight.models.mla.settings import MlaSettings

METHODS = ("mla", "carzero")


@overload
def load(
    name_or_run: Literal["carzero"],
    *,
    weights: str | Path,
    text: str | Path | None = None,
    settings: CarZeroSettings | None = None,
    device: str = "cpu",
) -> CarZero: ...


@overload
def load(
    name_or_run: str | Path,
    *,
    architecture: str | None = None,
    weights: str | Path | None = None,
    settings: MlaSettings | None = None,
    seed: int | None = None,
    device: str = "cpu",
) -> Any: ...


def load(
    name_or_run: str | Path,
    *,
    architecture: str | None = None,
    weights: str | Path | None = None,
    text: str | Path | None = None,
    settings: Any = None,
    seed: int | None = None,
    device: str = "cpu",
) -> MlaLp | CarZero:
    """A trained detector from its run folder, or one by its method's name: "mla" (untrained) or "carzero".

    device: "cpu", "cuda" or "cuda:<number>". settings: for a name only (default: as published).
    A run: of `wordsight train mla` (weights is the file of the frozen backbone, where it is not where training found
    it) or of `wordsight train carzero` (weights: another file of the same network; while it trains, the best so far).
    "mla": weights is that of the frozen backbone; architecture (default "tiny", the backbone of this package; else see
    `load_clip`); seed of the untrained adapters (default 111).
    "carzero": weights is the published checkpoint or a file of this package; text, the folder of its text encoder or
    its name on the Hugging Face Hub, where it is in this computer's cache (see `CarZero.from_published`).
    weights="tiny" is the small CARZero of this package, trained on phantoms.
    A name wins over a folder of that name: write "./mla" for the folder. A backbone is never drawn at random here.
    Raises SettingsError for an unknown name, for arguments of another method and for settings that a run has already,
    WeightsError for files that are missing or do not fit.
    """
    if name_or_run == "carzero":
        _refuse("carzero takes no", "Leave it out.", architecture=architecture, seed=seed)
        return _load_carzero(weights, text, settings, device)
    if name_or_run == "mla":
        _refuse("mla takes no", "It belongs to carzero: leave it out.", text=text)
        return _load_mla(architecture, weights, settings, seed, device)
    folder = Path(name_or_run)
    if not folder.is_dir():
        raise SettingsError(
            f"expected {' or '.join(METHODS)}, or the folder of a trained run, got {str(name_or_run)!r}. "
            "Train one with `wordsight train mla` or `wordsight train carzero`."
        )
    from wordsight.models.carzero.storage import is_carzero_folder

    own = {"architecture": architecture, "settings": settings, "seed": seed, "text": text}
    _refuse(f"{folder}: a trained run has its own", "Leave it out.", **own)
    if is_carzero_folder(folder):
        from wordsight.models.carzero.storage import load_folder

        return load_folder(folder, weights=weights, device=device)
    return _load_run(folder, weights, device)


def _refuse(complaint: str, advice: str, **given: object) -> None:
    """Raise SettingsError for arguments that do not belong to what is loaded."""
    surplus = [name for name, value in given.items() if value is not None]
    if surplus:
        raise SettingsError(f"{complaint} {', '.join(surplus)}. {advice}")


def _load_carzero(weights: str | Path | None, text: str | Path | None, settings: Any, device: str) -> CarZero:
    """Both files must be named: neither comes with this package."""
    from wordsight.models.carzero.detector import CarZero
    from wordsight.models.carzero.settings import CarZeroSettings

    if weights == "tiny":
        from wordsight.models.carzero.storage import load_folder, tiny_folder

        _refuse("carzero 'tiny' has its own", "Leave it out.", text=text, settings=settings)
        return load_folder(tiny_folder(), device=device)
    if weights is None or text is None:
        missing = "no weights" if weights is None else "no text"
        raise WeightsError(
            "carzero: expected weights= (CARZero_best_model.ckpt, or a .safetensors of this package) and text= (the "
            f"folder of its BERT with tokenizer and config.json), got {missing}. Neither comes with this package; "
            "download them from their publisher, or try weights='tiny'."
        )
    _check_settings("carzero", settings, CarZeroSettings)
    return CarZero.from_published(weights, text=text, settings=settings, device=device)


def _load_mla(
    architecture: str | None, weights: str | Path | None, settings: Any, seed: int | None, device: str
) -> MlaLp:
    """Untrained adapters on a backbone whose weights are known."""
    from wordsight.models.mla.detector import MlaLp
    from wordsight.models.mla.settings import MlaSettings

    _check_settings("mla", settings, MlaSettings)
    named = "tiny" if architecture is None else architecture
    _check_weights(named, weights)
    return MlaLp.from_clip(named, weights, settings=settings, seed=111 if seed is None else seed, device=device)


def _check_settings(method: str, settings: object, kind: type) -> None:
    if settings is not None and not isinstance(settings, kind):
        raise SettingsError(f"{method}: expected settings of type {kind.__name__}, got {type(settings).__name__}.")


def _load_run(folder: Path, weights: str | Path | None, device: str) -> MlaLp:
    """The trained detector of a run folder."""
    from wordsight.models.mla.detector import MlaLp

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
