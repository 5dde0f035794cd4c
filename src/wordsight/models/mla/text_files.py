"""Files that an open_clip configuration names for its text tower: transformers' configuration and the tokenizer.

Both are looked for on this computer only: the folder that the configuration names, the folder beside the weights or
the configuration, and what the Hugging Face Hub's cache already holds. Nothing is ever downloaded.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wordsight.errors import SettingsError, WeightsError
from wordsight.models.hub_files import TOKENIZER_FILES, in_hub_cache
from wordsight.models.tensor_files import read_json_file

TEXT_KINDS = ("bert", "roberta", "xlm-roberta", "mt5", "m2m_100")
"""Values of model_type whose towers open_clip's HFTextEncoder knows."""
POOLERS = ("mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler")
_LARGEST = 2_000_000
_LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
# what would choose code or number formats instead of a shape
_DROPPED = ("auto_map", "quantization_config", "attn_implementation", "dtype", "torch_dtype")


@dataclass(frozen=True, slots=True)
class TextFiles:
    """config: transformers' configuration of the text tower; tokenizer: a folder. None: CLIP's own."""

    config: Mapping[str, Any] | None = None
    tokenizer: Path | None = None


def find_text_files(text: Mapping[str, Any], folders: Sequence[Path], name: str) -> TextFiles:
    """What text_cfg.hf_model_name and hf_tokenizer_name mean; folders: those of the architecture and its weights.

    Raises WeightsError that says which file is missing and where it may be put, SettingsError for a text tower of
    another kind.
    """
    model = text.get("hf_model_name")
    tokenizer = text.get("hf_tokenizer_name") or model
    config = None
    if model:
        path = next((p for p in _places(str(model), folders, ("config.json",)) if _is_text_config(p)), None)
        if path is None:
            raise _missing(name, "config.json of the text tower", str(model), "hf_model_name", folders)
        config = check_text_config(read_json_file(path), path, int(text.get("context_length", 77)))
    if not tokenizer:
        return TextFiles()
    place = next(_places(str(tokenizer), folders, TOKENIZER_FILES), None)
    if place is None:
        files = "tokenizer.json and tokenizer_config.json of the text tower"
        raise _missing(name, files, str(tokenizer), "hf_tokenizer_name", folders)
    return TextFiles(config, place.parent)


def _places(wanted: str, folders: Sequence[Path], files: Sequence[str]) -> Iterator[Path]:
    """Existing files of these names, most specific folder first."""
    named = Path(wanted)
    candidates = [named] if named.is_absolute() else []
    candidates += [folder / named.name for folder in folders if named.name != ".."] + list(folders)
    for candidate in candidates:
        yield from (candidate / file for file in files if (candidate / file).is_file())
    if not named.is_absolute():
        yield from filter(None, (in_hub_cache(wanted, file) for file in files))


def _is_text_config(path: Path) -> bool:
    """Whether a config.json is that of a text tower: model folders have others of that name."""
    return read_json_file(path).get("model_type") in TEXT_KINDS


def _missing(name: str, files: str, wanted: str, key: str, folders: Sequence[Path]) -> WeightsError:
    where = ", ".join(dict.fromkeys(str(folder) for folder in folders)) or "no folder"
    advice = f"put it into {folders[0]}" if folders else "put it into one folder with the weights and name that folder"
    return WeightsError(
        f"architecture {name!r}: expected the {files} {wanted!r} on this computer, found none in {where} nor in the "
        f"Hugging Face cache. Nothing is downloaded: {advice}, or make text_cfg.{key} the path of a local folder."
    )


def check_text_config(content: Mapping[str, Any], path: Path, context_length: int) -> dict[str, Any]:
    """The sizes of a text tower, bounded, without what would choose code; raises SettingsError."""
    kind = content.get("model_type")
    config = {k: v for k, v in content.items() if not k.startswith("_") and k not in _DROPPED}
    for key, value in config.items():
        limit = 256 if key in _LAYERS else _LARGEST
        if isinstance(value, int) and not isinstance(value, bool) and not -1 <= value <= limit:
            raise SettingsError(f"{path}: expected {key} of at most {limit}, got {value}. Check the file.")
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and kind != "mt5":
        # RoBERTa counts positions from the one after padding
        usable = positions - (int(config.get("pad_token_id", 1)) + 1 if kind in ("roberta", "xlm-roberta") else 0)
        if context_length > usable:
            raise SettingsError(
                f"text_cfg.context_length: expected at most the {usable} positions of {path}, got {context_length}. "
                "Set it to the length that the weights were trained with."
            )
    return config


@contextmanager
def local_config(config: Mapping[str, Any]) -> Iterator[str]:
    """A temporary folder with nothing but this config.json, for builders that take a path."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
        yield folder
