"""Texts -> token ids: CLIP's byte pairs, or the tokenizer of a Hugging Face folder; nothing is downloaded."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from open_clip.tokenizer import SimpleTokenizer, get_clean_fn
from torch import Tensor

from wordsight.errors import PromptError, SettingsError, WeightsError
from wordsight.models.hub_files import read_tokenizer

_MERGES_LIMIT = 16 * 2**20
_OPTIONS = ("clean", "strip_sep_token")
_CLEANING = ("canonicalize", "lower", "whitespace")


class Tokenizer(Protocol):
    """Texts -> ids (N, context_length) int64: special tokens, the text, special tokens, padding on the right."""

    context_length: int
    vocab_size: int
    prefix: int
    """Special tokens before the text: CLIP and BERT 1, T5 0."""
    special: int
    """Special tokens in all."""

    def __call__(self, texts: list[str]) -> Tensor:
        """Ids; raises PromptError for texts that do not fit, which would otherwise lose their end."""

    def length(self, text: str) -> int:
        """Tokens of a text without special ones."""


@cache
def _clip_vocabulary(clean: str) -> Any:
    """CLIP's own byte pairs, parsed once."""
    return SimpleTokenizer(clean=clean)


class ClipTokenizer:
    """Tokenizer of CLIP's byte pairs, zero-padded; the end of text is the highest id of its row.

    merges: a gzip file of merges in open_clip's format; None is CLIP's own vocabulary of 49,408 ids. clean: open_clip's
    name of how texts are cleaned.
    """

    prefix, special = 1, 2

    def __init__(self, context_length: int, merges: Path | None = None, *, clean: str = "lower") -> None:
        self.context_length = context_length
        if merges is None:
            self._bpe = _clip_vocabulary(clean)
        else:
            _check_merges(merges)
            self._bpe = SimpleTokenizer(str(merges), clean=clean)
        self.vocab_size = int(self._bpe.vocab_size)

    def length(self, text: str) -> int:
        """See Tokenizer."""
        return len(self._bpe.encode(text))

    def __call__(self, texts: list[str]) -> Tensor:
        """See Tokenizer."""
        ids = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            tokens = [self._bpe.sot_token_id, *self._bpe.encode(text), self._bpe.eot_token_id]
            _check_length(len(tokens), self.context_length, text)
            row[: len(tokens)] = torch.tensor(tokens)
        return ids


class FolderTokenizer:
    """Tokenizer of a local folder in Hugging Face's layout, cleaning and padding as open_clip's HFTokenizer does.

    embeddings: rows of the network's embedding, which no id may exceed. options: text_cfg.tokenizer_kwargs, of which
    clean and strip_sep_token are known. Raises WeightsError for folders that hold no tokenizer or one of another
    network, SettingsError for other options.
    """

    def __init__(self, folder: Path, context_length: int, embeddings: int, options: Mapping[str, Any]) -> None:
        self.context_length, self._folder, self._embeddings = context_length, folder, embeddings
        self._clean = _clean_function(options, "whitespace")
        self._strip_sep = bool(options.get("strip_sep_token", False))
        self._hf = read_tokenizer(folder)
        self.vocab_size = len(self._hf)
        full, bare = self._ids("X"), self._ids("X", add_special_tokens=False)
        starts = [i for i in range(len(full)) if full[i : i + len(bare)] == bare]
        if self._hf.padding_side != "right" or self._hf.pad_token_id is None or not bare or not starts:
            raise WeightsError(
                f"{folder}: expected a tokenizer that pads on the right and keeps the text between special tokens, got "
                f"padding on the {self._hf.padding_side} with {self._hf.pad_token!r} and ids {full} for 'X'. "
                "Use the tokenizer that came with the weights."
            )
        self.prefix, self.special = starts[0], len(full) - len(bare)
        self(["a lesion"])

    def _ids(self, text: str, **how: Any) -> list[int]:
        ids: list[int] = self._hf(self._clean(text), **how)["input_ids"]
        return ids

    def length(self, text: str) -> int:
        """See Tokenizer."""
        return len(self._ids(text, add_special_tokens=False))

    def __call__(self, texts: list[str]) -> Tensor:
        """See Tokenizer."""
        rows = torch.full((len(texts), self.context_length), int(self._hf.pad_token_id), dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            tokens = self._ids(text)
            _check_length(len(tokens), self.context_length, text)
            row[: len(tokens)] = torch.tensor(tokens)
        if len(texts) and int(rows.max()) >= self._embeddings:
            raise WeightsError(
                f"{self._folder}: expected token ids below {self._embeddings}, the rows of the text tower's embedding, "
                f"got {int(rows.max())}. Use the tokenizer that came with the weights."
            )
        return torch.where(rows == self._hf.sep_token_id, 0, rows) if self._strip_sep else rows


def clip_cleaning(options: Mapping[str, Any]) -> str:
    """The cleaning that text_cfg.tokenizer_kwargs asks of CLIP's tokenizer; raises SettingsError for other options."""
    _clean_function(options, "lower")
    return str(options.get("clean", "lower"))


def _clean_function(options: Mapping[str, Any], default: str) -> Any:
    clean = options.get("clean", default)
    unknown = sorted(set(options) - set(_OPTIONS))
    if clean not in _CLEANING:
        unknown.append(f"clean={clean!r}")
    if unknown:
        raise SettingsError(
            f"text_cfg.tokenizer_kwargs: expected clean ({', '.join(_CLEANING)}) and strip_sep_token, got "
            f"{', '.join(unknown)}. Remove it."
        )
    return get_clean_fn(clean)


def _check_length(length: int, most: int, text: str) -> None:
    if length > most:
        raise PromptError(
            f"expected prompts of at most {most} tokens, got {length} for {text[:60]!r}. Shorten the text."
        )


def _check_merges(path: Path) -> None:
    """Refuse merges that unpack to more than 16 MiB or are no gzip text."""
    try:
        with gzip.open(path, "rb") as stream:
            content = stream.read(_MERGES_LIMIT + 1)
        content.decode("utf-8")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise WeightsError(f"{path}: expected gzip-packed text of merges, got {error}. Write it again.") from error
    if len(content) > _MERGES_LIMIT:
        raise WeightsError(f"{path}: expected at most {_MERGES_LIMIT} bytes of merges. Check the file.")
