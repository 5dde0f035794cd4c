"""Texts -> token ids and the plan that joins WordPieces to words, as CARZero's `process_text` does it or mended."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wordsight.errors import PromptError, WeightsError
from wordsight.models.carzero.settings import CarZeroSettings
from wordsight.models.hub_files import TOKENIZER_FILES, download_text, in_hub_cache, read_tokenizer
from wordsight.text.sentences import enumeration_marks

_WORD = re.compile(r"\w+")
_NUMBER_OR_WORD = re.compile(r"\d*\.\d+|\w+")
_ENUMERATION = re.compile(r"[0-9]+\.")
# a number that opens a sentence and is no decimal; "measures 10. Stable" keeps its ten
_OPENING_NUMBER = re.compile(r"(?:^|(?<=[.;:!?\n]))\s*[0-9]+\.(?![0-9])")
_FULL_STOP = re.compile(r"\.")
_SENTENCE_STOP = re.compile(r"\.(?![0-9])|(?<=[^\W0-9])\.")
_MISREAD = "\ufffd\ufffd"


def clean(text: str, settings: CarZeroSettings) -> str:
    """The line of ASCII words that is tokenised, lower case, one space between words.

    As published, every run of digits before a full stop counts as an enumeration mark and vanishes, sentences of one
    word vanish, and characters beyond ASCII are deleted; `keep_numbers`, `keep_single_words` and `keep_accents` mend
    these three.
    """
    kept = settings.keep_numbers
    if kept:
        text = _OPENING_NUMBER.sub(". ", _without_marks(text))
    text = text.replace("\n", " ")
    pieces = _SENTENCE_STOP.split(text) if kept else _FULL_STOP.split(_ENUMERATION.sub(".", text))
    words = _NUMBER_OR_WORD if kept else _WORD
    fewest = 1 if settings.keep_single_words else 2
    sentences = []
    for piece in pieces:
        found = words.findall(piece.replace(_MISREAD, " ").lower())
        if len(found) >= fewest:
            ascii_words = (_ascii(word, settings.keep_accents) for word in found)
            sentences.append(" ".join(word for word in ascii_words if word))
    return " ".join(sentences)


def _without_marks(text: str) -> str:
    """The text with a full stop for every enumeration mark, also for those within a line ("1. edema 2. mass")."""
    for mark in reversed(enumeration_marks(text)):
        text = f"{text[: mark.start()]}. {text[mark.end() :]}"
    return text


def _ascii(word: str, keep_accents: bool) -> str:
    """The ASCII characters of a word; with keep_accents those that accents stand on, too."""
    if keep_accents:
        word = unicodedata.normalize("NFKD", word)
    return word.encode("ascii", "ignore").decode("ascii")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of T texts and which word each position belongs to.

    ids: (T, L) int64 with [CLS], [SEP] and padding. mask: (T, L) int64, 1 where there is no padding. word: (T, L)
    int64 index of the position's word, L for positions that belong to none (all after the first [SEP]). words: (T,)
    int64 number of words, [CLS] and [SEP] among them.
    """

    ids: Tensor
    mask: Tensor
    word: Tensor
    words: Tensor

    @property
    def length(self) -> int:
        """L, the padded length of every text."""
        return int(self.ids.shape[1])

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def __getitem__(self, rows: slice) -> Tokens:
        return Tokens(self.ids[rows], self.mask[rows], self.word[rows], self.words[rows])

    def to(self, device: torch.device | str) -> Tokens:
        """The same on a device."""
        return Tokens(self.ids.to(device), self.mask.to(device), self.word.to(device), self.words.to(device))


def plan_words(ids: Tensor, mask: Tensor, continues: Tensor, sep: int) -> Tokens:
    """Which word each token belongs to: a token opens a word unless it continues one ("##..."); [SEP] ends the text.

    ids, mask: (T, L) int64. continues: (vocabulary,) bool. sep: id of [SEP].
    """
    is_sep = ids == sep
    before_end = (is_sep.cumsum(1) - is_sep.long()) == 0  # up to the first [SEP], itself included
    opens = ~continues[ids]
    word = torch.where(before_end, (opens.long().cumsum(1) - 1).clamp(min=0), ids.shape[1])
    words = torch.where(before_end, word, -1).amax(1) + 1
    return Tokens(ids, mask, word, words)


class TextInput:
    """Texts to tokens with the WordPiece tokenizer of a folder.

    source: a folder with tokenizer.json or vocab.txt (and config.json or tokenizer_config.json), or the name of a
    repository of the Hugging Face Hub that is in this computer's cache. Nothing is downloaded.
    Raises WeightsError when there is none, or when it is not a BERT tokenizer that fits `settings.text.vocabulary`.
    """

    def __init__(self, source: str | Path, settings: CarZeroSettings) -> None:
        self.settings = settings
        self.folder = find_text_folder(source)
        self._hf: Any = read_tokenizer(self.folder)
        if None in (self._hf.cls_token_id, self._hf.sep_token_id, self._hf.pad_token_id):
            raise WeightsError(
                f"{self.folder}: expected a BERT tokenizer with [CLS], [SEP] and [PAD], got {type(self._hf).__name__} "
                "without one of them. Name the folder of CARZero's text encoder."
            )
        vocabulary = self._hf.get_vocab()
        size, rows = max(vocabulary.values()) + 1, settings.text.vocabulary
        if size > rows:
            raise WeightsError(
                f"{self.folder}: expected a tokenizer of at most {rows} ids, the rows of the word embedding, got "
                f"{size}. Use the tokenizer of the text encoder that the weights were trained with."
            )
        self._continues = torch.zeros(rows, dtype=torch.bool)
        self._continues[[i for token, i in vocabulary.items() if token.startswith("##")]] = True

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Texts as prompts: cleaned, then tokenised."""
        return self.tokenize([clean(text, self.settings) for text in texts])

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts as they are (training captions): cut to L tokens, [CLS] and [SEP] among them, and padded to L.

        Raises PromptError without texts.
        """
        length = self.settings.text_length
        if not texts:
            raise PromptError("expected at least one text, got none. Give a sentence.")
        rows = self._hf(list(texts), truncation=True, padding="max_length", max_length=length)
        ids, mask = torch.tensor(rows["input_ids"]), torch.tensor(rows["attention_mask"])
        return plan_words(ids, mask, self._continues, int(self._hf.sep_token_id))

    def cut(self, text: str) -> str:
        """The words of a prompt that do not fit into L tokens, from the one that is cut; "" where all of them fit."""
        words = clean(text, self.settings).split()
        room = self.settings.text_length - 2  # [CLS] and [SEP] take two
        for place, word in enumerate(words):
            room -= len(self._hf.tokenize(word))
            if room < 0:
                return " ".join(words[place:])
        return ""


def find_text_folder(source: str | Path, *, download: bool = False) -> Path:
    """The folder of a text encoder: a local path, or a Hub repository in this computer's cache.

    download: fetch tokenizer and config.json of a repository that is not there yet; nothing is fetched otherwise.
    Raises WeightsError that says which files to put where.
    """
    folder = Path(source)
    if folder.is_dir() and any((folder / name).is_file() for name in TOKENIZER_FILES):
        return folder
    if not folder.is_dir() and not folder.is_absolute():
        cached = [path for path in (in_hub_cache(str(source), name) for name in TOKENIZER_FILES) if path]
        if cached:
            return cached[0].parent
        if download:
            return download_text(str(source))
    repository = source if str(source) and not folder.is_absolute() else "REPOSITORY"
    raise WeightsError(
        f"text {str(source)!r}: expected a folder with a BERT tokenizer (vocab.txt or tokenizer.json, and "
        "tokenizer_config.json), or a repository in the Hugging Face cache, found neither. Nothing is downloaded "
        "unless asked for (--text-download; in Python download=True): or on a computer with network run "
        f"`hf download {repository} --local-dir FOLDER`, copy FOLDER and name it with text= (command line: --text)."
    )
