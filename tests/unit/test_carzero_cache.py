"""Encoded prompts on disk: found again, never mixed up, never trusted when damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny_carzero import make_carzero, text_folder
from wordsight.models.carzero.detector import CarZero
from wordsight.models.carzero.prompt_cache import PromptCache, cache_folder
from wordsight.models.carzero.text_encoder import TextFeatures
from wordsight.types import Image, PromptSet

PROMPTS = PromptSet.of("there is a mass", "there is pleural effusion of the left lung")
IMAGE = Image(np.random.default_rng(0).random((40, 40), dtype=np.float32))


@pytest.fixture
def detector(tmp_path: Path) -> CarZero:
    return CarZero.from_network(make_carzero(), text_folder(tmp_path / "text"))


def forbidden(*_: object) -> TextFeatures:
    raise AssertionError("encoded again")


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_second_time_is_read_and_equal(detector: CarZero, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PromptCache(tmp_path / "cache")
    first = detector.with_prompts(PROMPTS, cache=cache)
    assert len(files(cache.folder)) == 1
    monkeypatch.setattr(CarZero, "_encode_tokens", forbidden)
    second = detector.with_prompts(PROMPTS, cache=cache)
    assert np.array_equal(first.predict([IMAGE])[0].scores, second.predict([IMAGE])[0].scores)
    with pytest.raises(AssertionError, match="encoded again"):
        detector.with_prompts(PROMPTS)


def test_other_sentences_weights_and_settings_are_other_files(detector: CarZero, tmp_path: Path) -> None:
    cache = PromptCache(tmp_path / "cache")
    folder = tmp_path / "text"
    detector.with_prompts(PROMPTS, cache=cache)
    detector.with_prompts(PromptSet.of("there is a mass"), cache=cache)
    CarZero.from_network(make_carzero(1), folder).with_prompts(PROMPTS, cache=cache)
    CarZero.from_network(make_carzero(text_length=20), folder).with_prompts(PROMPTS, cache=cache)
    replace(detector, precision="bf16").with_prompts(PROMPTS, cache=cache)
    assert len(files(cache.folder)) == 5
    detector.with_prompts(PromptSet(("a", "b"), PROMPTS.positive), cache=cache)  # names decide nothing
    assert len(files(cache.folder)) == 5


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_damaged_files_are_written_again(
    detector: CarZero, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PromptCache(tmp_path / "cache")
    wanted = detector.with_prompts(PROMPTS, cache=cache).predict([IMAGE])[0].scores
    path = files(cache.folder)[0]
    whole = path.read_bytes()
    middle = len(whole) - 40  # within the numbers, which only a hash can tell from others
    path.write_bytes(
        {
            "cut": whole[:-9],
            "flip": whole[:middle] + bytes([whole[middle] ^ 64]) + whole[middle + 1 :],
            "empty": b"",
            "other": b"\x89PNG",
        }[damage]
    )
    assert np.array_equal(detector.with_prompts(PROMPTS, cache=cache).predict([IMAGE])[0].scores, wanted)
    monkeypatch.setattr(CarZero, "_encode_tokens", forbidden)
    assert np.array_equal(detector.with_prompts(PROMPTS, cache=cache).predict([IMAGE])[0].scores, wanted)
    assert files(cache.folder) == [path]


def test_a_folder_that_cannot_be_written_does_not_stop_the_work(detector: CarZero, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bound = detector.with_prompts(PROMPTS, cache=PromptCache(tmp_path / "file" / "cache"))
    assert np.array_equal(bound.predict([IMAGE])[0].scores, detector.with_prompts(PROMPTS).predict([IMAGE])[0].scores)


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WORDSIGHT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "wordsight"
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("WORDSIGHT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "wordsight"


def test_features_move_between_devices(detector: CarZero) -> None:
    text = detector.encode_prompts(PROMPTS).text
    moved = text.to("meta")
    assert (moved.sentence.device, moved.length) == (torch.device("meta"), text.length)
