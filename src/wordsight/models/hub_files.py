"""Files in Hugging Face's layout: a folder's tokenizer, what the Hub's cache holds, and downloads where asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wordsight.errors import WeightsError

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
                   "vocab.json")  # fmt: skip
TEXT_FILES = ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
              "added_tokens.json")  # fmt: skip
"""Of a BERT; the first of them every repository has."""
_FILE_LIMIT = 128 * 2**20


def in_hub_cache(repository: str, file: str) -> Path | None:
    """A file that was downloaded before by any program of Hugging Face; a look at the disk, nothing else."""
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(repository, file, local_files_only=True)
    except (OSError, ValueError):  # not there, or no name that a repository can have
        return None
    return None if found is None else Path(found)


def download_text(repository: str) -> Path:
    """Fetch a BERT's config.json and tokenizer into the Hub's cache, and return their folder; never its weights.

    Raises WeightsError where the Hub, or the repository, cannot be reached.
    """
    from transformers.utils.hub import cached_file

    found: list[Path] = []
    for name in TEXT_FILES:
        try:
            path = cached_file(repository, name)
        except (OSError, ValueError) as error:  # no network, no such repository, or none that has this file
            if not found:
                reason = str(error).strip().partition("\n")[0][:200]
                raise WeightsError(
                    f"text {repository!r}: expected a repository of the Hugging Face Hub with {name}, got none "
                    f"({reason}). Check the name and the network, or copy the folder here."
                ) from error
            continue
        found += [] if path is None else [Path(path)]
    return found[0].parent


def read_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer of a local folder; nothing is fetched and no code of the folder is run."""
    from transformers import AutoTokenizer

    large = [
        path.name for path in folder.iterdir() if path.name in TOKENIZER_FILES and path.stat().st_size > _FILE_LIMIT
    ]
    if large:
        raise WeightsError(
            f"{folder}: expected tokenizer files of at most {_FILE_LIMIT} bytes, got {', '.join(large)}."
        )
    try:
        # transformers has no types here; the Rust parser of tokenizer.json raises plain Exception
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise WeightsError(
            f"{folder}: expected a tokenizer in Hugging Face's layout, got files that transformers cannot read "
            f"({type(error).__name__}: {str(error).strip()[:200]}). Put tokenizer.json and tokenizer_config.json of "
            "the text tower there."
        ) from error
