"""Names and run folders to detectors, and the typed, lazy public names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import wordsight
from tiny_carzero import make_carzero, text_folder
from tiny_clip import CONFIG, make_clip
from wordsight import CarZero, Image, MlaLp, MlaSettings, PromptSet, load
from wordsight.errors import SettingsError, WeightsError
from wordsight.models.mla.backbone import save_clip_bundle

SIZE = 56


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model folder with weights."""
    folder = tmp_path_factory.mktemp("clip")
    save_clip_bundle(folder, CONFIG, make_clip(SIZE).model.state_dict(), None)
    return str(folder)


@pytest.fixture(scope="module")
def detector(architecture: str) -> MlaLp:
    return load("mla", architecture=architecture, settings=MlaSettings(image_size=SIZE, levels=(2, 4)), seed=5)


def picture() -> Image:
    return Image(np.random.default_rng(0).random((60, 44), dtype=np.float32))


def test_a_method_name_gives_an_untrained_detector(detector: MlaLp) -> None:
    assert isinstance(detector, MlaLp)
    assert detector.settings.levels == (2, 4)
    assert detector.predict([picture()])[0].maps is not None


def test_the_seed_decides_the_adapters(architecture: str, detector: MlaLp) -> None:
    settings = detector.settings
    again, other = (load("mla", architecture=architecture, settings=settings, seed=seed) for seed in (5, 6))
    assert again.weights_hash == detector.weights_hash
    assert other.weights_hash != detector.weights_hash


def test_a_run_folder_gives_the_trained_detector(tmp_path: Path, detector: MlaLp) -> None:
    bound = detector.with_support([picture()])
    bound.save(tmp_path / "run")
    for source in (tmp_path / "run", str(tmp_path / "run")):
        loaded = load(source)
        assert loaded.weights_hash == bound.weights_hash
        np.testing.assert_array_equal(loaded.predict([picture()])[0].scores, bound.predict([picture()])[0].scores)


def test_settings_belong_to_names_only(tmp_path: Path, detector: MlaLp) -> None:
    detector.save(tmp_path / "run")
    with pytest.raises(SettingsError, match=r"a trained run has its own architecture, seed\. Leave it out"):
        load(tmp_path / "run", architecture="tiny", seed=1)


def test_what_is_neither_name_nor_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected mla or carzero, or the folder of a trained run, got 'carzilla'"):
        load("carzilla")
    with pytest.raises(WeightsError, match=r"expected a trained detector \(detector.json inside\), found none"):
        load(tmp_path)


def test_a_backbone_without_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny-test.json"
    path.write_text(json.dumps(CONFIG))
    with pytest.raises(WeightsError, match=r"expected the file of its trained weights, got none\. Name it with"):
        load("mla", architecture=str(path))


def test_a_folder_of_several_runs_names_them(tmp_path: Path, detector: MlaLp) -> None:
    for draw in ("draw-0", "draw-1"):
        detector.save(tmp_path / draw)
    with pytest.raises(WeightsError, match=r"got a folder of several: draw-0, draw-1\. Name one of them"):
        load(tmp_path)


def test_carzero_by_name(tmp_path: Path) -> None:
    text = text_folder(tmp_path / "text")
    original = CarZero.from_network(make_carzero(), text)
    original.save(tmp_path / "cz.safetensors")
    loaded = load("carzero", weights=tmp_path / "cz.safetensors", text=text)
    assert isinstance(loaded, CarZero)
    assert loaded.weights_hash == original.weights_hash
    prompts = PromptSet.of("there is no effusion")
    np.testing.assert_array_equal(
        loaded.with_prompts(prompts).predict([picture()])[0].scores,
        original.with_prompts(prompts).predict([picture()])[0].scores,
    )


def test_carzero_needs_both_files_and_its_own_settings(tmp_path: Path) -> None:
    text = text_folder(tmp_path / "text")
    for given, missing in (({"text": text}, "no weights"), ({"weights": tmp_path / "x"}, "no text")):
        with pytest.raises(
            WeightsError, match=rf"carzero: expected weights= \(CARZero_best_model.ckpt.*, got {missing}"
        ):
            load("carzero", **given)
    with pytest.raises(SettingsError, match="carzero: expected settings of type CarZeroSettings, got MlaSettings"):
        load("carzero", weights=tmp_path / "x", text=text, settings=MlaSettings())  # type: ignore[call-overload]
    with pytest.raises(SettingsError, match=r"carzero takes no architecture, seed\. Leave it out"):
        load("carzero", architecture="tiny", seed=1)
    with pytest.raises(SettingsError, match=r"mla takes no text\. It belongs to carzero: leave it out"):
        load("mla", text=text)  # type: ignore[call-overload]


def test_public_names_are_few_sorted_and_documented() -> None:
    assert len(wordsight.__all__) <= 21  # twenty and the version
    assert dir(wordsight) == sorted(wordsight.__all__)
    assert all(getattr(wordsight, name).__doc__ for name in wordsight.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match="module 'wordsight' has no attribute 'nothing'"):
        _ = wordsight.nothing


def test_type_checkers_see_every_public_name() -> None:
    """The names under TYPE_CHECKING are those that are served at run time."""
    source = Path(str(wordsight.__file__)).read_text(encoding="utf-8")
    typed = {line.split(" as ")[1].strip() for line in source.splitlines() if " as " in line and "import" in line}
    assert typed == set(wordsight.__all__) - {"__version__"}
