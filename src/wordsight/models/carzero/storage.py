"""A trained CARZero in a folder: weights, settings and the tokenizer's files; also the small one of this package."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from wordsight.errors import WeightsError
from wordsight.files import atomic_path, write_json
from wordsight.models.carzero.detector import CarZero
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.text_input import find_text_folder
from wordsight.models.carzero.weights import FORMAT, VERSION, load_network, write_safetensors
from wordsight.models.precision import Precision
from wordsight.models.tensor_files import read_json_file, require_file

CARD, WEIGHTS, TEXT = "carzero.json", "weights.safetensors", "text"
TEXT_FILES = (
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
)
TINY = "tiny"


def is_carzero_folder(folder: Path) -> bool:
    """Whether a folder holds a CARZero (or the start of one)."""
    return (folder / CARD).is_file()


def copy_text_files(source: str | Path, folder: Path) -> Path:
    """The tokenizer's files of a text encoder into <folder>/text; returns that. Raises WeightsError if it has none."""
    found = find_text_folder(source)
    for name in TEXT_FILES:
        if (found / name).is_file():
            with atomic_path(folder / TEXT / name) as temporary:
                shutil.copyfile(found / name, temporary)
    return folder / TEXT


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """What is known of the network, as JSON values, atomically."""
    write_json(folder / CARD, {"format": FORMAT, "version": VERSION, **card})


def read_card(folder: Path) -> dict[str, Any]:
    """What `write_card` wrote. Raises WeightsError for a folder without it or of another kind."""
    if not is_carzero_folder(folder):
        raise WeightsError(f"{folder}: expected a trained CARZero ({CARD} inside), found none. Check the path.")
    card = read_json_file(folder / CARD, limit=1 << 26)  # the losses of every round are in it
    if card.get("format") != FORMAT or card.get("version") != VERSION:
        raise WeightsError(f"{folder / CARD}: expected {FORMAT!r} of version {VERSION}. Update this package.")
    return card


def save_folder(folder: Path, network: CarZeroNetwork, text: str | Path, card: Mapping[str, Any]) -> None:
    """Weights with their settings, the tokenizer's files, and the card last, which marks the folder as whole."""
    copy_text_files(text, folder)
    write_safetensors(folder / WEIGHTS, network)
    write_card(folder, {"settings": network.settings.to_json(), **card})


def load_folder(
    folder: str | Path, *, device: str = "cpu", precision: Precision = "fp32", weights: str | Path | None = None
) -> CarZero:
    """The CARZero of a run folder, of an unfinished run the best so far; weights: another file of the same network.

    Raises WeightsError for a folder without weights yet, and for files that do not fit.
    """
    folder = Path(folder)
    read_card(folder)
    path = folder / WEIGHTS if weights is None else Path(weights)
    if weights is None and not path.is_file():
        raise WeightsError(
            f"{folder}: expected {WEIGHTS}, found none: the training has not finished an epoch. Give the same command "
            "again and it goes on."
        )
    return CarZero.from_network(load_network(require_file(path)), folder / TEXT, device=device, precision=precision)


def tiny_folder() -> Path:
    """The small CARZero of this package, trained on phantoms. Raises WeightsError where it was not installed."""
    folder = Path(str(resources.files("wordsight.models.carzero") / TINY))
    if not is_carzero_folder(folder):
        raise WeightsError(
            "carzero 'tiny': expected the small network of this package, found none in this installation. Make it with "
            "`python scripts/train_tiny_carzero.py`, or name weights= and text= of another."
        )
    return folder
