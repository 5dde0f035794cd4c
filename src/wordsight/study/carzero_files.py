"""CARZero's published checkpoint <-> our safetensors, every name accounted for and every number compared."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from wordsight.errors import SettingsError
from wordsight.study.checkpoints import OUR_SUFFIX, PUBLISHED_SUFFIXES, Converted, compare_tensors
from wordsight.study.detectors import carzero_settings

if TYPE_CHECKING:
    from wordsight.models.carzero.settings import CarZeroSettings

SUFFIXES = (".ckpt", *PUBLISHED_SUFFIXES)


def convert_carzero(source: Path, target: Path, *, settings: str | None = None, overwrite: bool = False) -> Converted:
    """Read a CARZero, write it to `target` (.ckpt, .pth, .pt: published; .safetensors: ours), read it back, compare.

    A published file holds the fusion's last norm under two names and no settings; ours holds it once, and the settings.
    settings: see `carzero_settings`, None for those of the file, else the published ones.
    Raises WeightsError that lists missing, unexpected and misshapen tensors or those that came back different,
    SettingsError for a target of another kind or one that exists.
    """
    from wordsight.models.carzero.weights import (
        empty_network,
        fill,
        read_state,
        settings_for,
        state_of,
        write_published,
        write_safetensors,
    )

    _check_target(target, overwrite)
    state, metadata = read_state(source)
    known = settings_for(state, metadata, None if settings is None else carzero_settings(settings))
    network = empty_network(known)
    fill(network, state, source)
    ours = target.suffix.lower() == OUR_SUFFIX
    if ours:
        reserved = ("format", "version", "settings")
        write_safetensors(target, network, {key: value for key, value in metadata.items() if key not in reserved})
    else:
        write_published(target, network)
    wanted = state_of(network)
    compare_tensors(wanted, read_state(target)[0], target)
    notes = [] if ours else _lost_settings(known, settings_for(state, {}))
    kinds = sorted({str(t.dtype).removeprefix("torch.") for t in state.values() if t.is_floating_point()} - {"float32"})
    notes += [f"the source has numbers of type {', '.join(kinds)}; all are written as float32"] if kinds else []
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    return Converted(target, "carzero", shapes, {}, tuple(notes))


def _check_target(target: Path, overwrite: bool) -> None:
    if target.suffix.lower() not in (*SUFFIXES, OUR_SUFFIX):
        raise SettingsError(
            f"{target}: expected a name that ends in .safetensors (ours) or .ckpt (published), got {target.name!r}."
        )
    if target.exists() and not overwrite:
        raise SettingsError(f"{target}: exists already and is not overwritten. Choose another name or delete it.")


def _lost_settings(known: CarZeroSettings, guessed: CarZeroSettings) -> list[str]:
    """What a published file cannot say: settings that cannot be read off its tensors."""
    names = [field.name for field in fields(known) if getattr(known, field.name) != getattr(guessed, field.name)]
    if not names:
        return []
    return [f"{', '.join(names)} differ from the published settings; a published file does not store them. Keep both"]
