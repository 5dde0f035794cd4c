"""Encoded sentences kept on disk, by what decides them: tokens, weights, settings of the text encoder, precision."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from wordsight.errors import DataError, WeightsError
from wordsight.files import atomic_path
from wordsight.models.carzero.settings import CarZeroSettings
from wordsight.models.carzero.text_encoder import TextFeatures
from wordsight.models.carzero.text_input import Tokens
from wordsight.models.tensor_files import hash_tensors, load_safetensors

FORMAT = "wordsight-prompts-1"
ENVIRONMENT = "WORDSIGHT_CACHE"
_FILE_LIMIT = 2**31


def cache_folder() -> Path:
    """Where caches lie: $WORDSIGHT_CACHE, else wordsight in $XDG_CACHE_HOME, else ~/.cache/wordsight."""
    if given := os.environ.get(ENVIRONMENT):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wordsight"


def text_key(tokens: Tokens, weights: str, settings: CarZeroSettings, how: str) -> str:
    """What decides the features of some texts, as 64 hexadecimal digits. how: precision and kind of device."""
    words = hash_tensors({"ids": tokens.ids, "mask": tokens.mask, "word": tokens.word, "words": tokens.words})
    decides = [FORMAT, words, weights, settings.to_json()["text"], settings.last_states, settings.text_length, how]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class PromptCache:
    """A folder of encoded texts, one safetensors file per key.

    A file that is damaged, or that holds something else, counts as missing and is written again. A folder that cannot
    be written costs time, not the work.
    """

    folder: Path

    def get(self, key: str, encode: Callable[[], TextFeatures]) -> TextFeatures:
        """The features of a key, on the CPU where they come from the disk; else those that `encode` makes."""
        path = self.folder / f"{key}.safetensors"
        found = _read(path)
        if found is not None:
            return found
        made = encode()
        tensors = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in (("sentence", made.sentence), ("words", made.words), ("count", made.count))
        }
        metadata = {"format": FORMAT, "length": str(made.length), "hash": hash_tensors(tensors)}
        try:
            with atomic_path(path) as temporary:
                save_file(tensors, temporary, metadata)
        except (DataError, OSError):
            return made
        return made


def _read(path: Path) -> TextFeatures | None:
    """Features of a file; None unless it is there and whole."""
    try:
        if not path.is_file() or path.stat().st_size > _FILE_LIMIT:
            return None
        file = load_safetensors(path)
        tensors = file.tensors
        whole = file.metadata.get("format") == FORMAT and file.metadata.get("hash") == hash_tensors(tensors)
        if not whole:
            return None
        return TextFeatures(tensors["sentence"], tensors["words"], tensors["count"], int(file.metadata["length"]))
    except (WeightsError, OSError, KeyError, ValueError):
        return None
