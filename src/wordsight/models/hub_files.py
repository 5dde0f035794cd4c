"""Files in Hugging Face's layout on this computer: a folder's tokenizer, and what the Hub's cache already holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wordsight.errors import WeightsError

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
                   "vocab.json")  # fmt: skip
_FILE_LIMIT = 128 * 2**20


def in_hub_cache(repository: str, file: str) -> Path | None:
    """A file that was downloaded before by any program of Hugging Face; a look at the disk, nothing else."""
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(repository, file, local_files_only=True)
    except (OSError, ValueError):  # not there, or no name that a repository can have
        return None
    return None if found is None else Path(found)


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
