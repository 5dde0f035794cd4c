"""CARZero in a folder: saved, loaded by name and by folder; the small one of the package and its scripts."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny_carzero import make_carzero, text_folder
from wordsight import CarZero, Image, PromptSet, load
from wordsight.data.phantoms.reports import FINDINGS, State, draw_report_phantom
from wordsight.errors import SettingsError, WeightsError
from wordsight.models.carzero import storage
from wordsight.models.carzero.storage import load_folder, read_card, save_folder, tiny_folder, write_card
from wordsight.models.carzero.weights import write_safetensors
from wordsight.study import phantom_findings

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]
carzero_phantoms = pytest.importorskip(
    "carzero_phantoms", reason="the repository's benchmarks are not beside the tests"
)
tiny_carzero_network = pytest.importorskip("tiny_carzero_network", reason="the repository's scripts are not here")
train_tiny_carzero = pytest.importorskip("train_tiny_carzero", reason="the repository's scripts are not here")
del sys.path[:2]

PROMPTS = PromptSet.of("There is pleural effusion", "There is no mass")


def picture() -> Image:
    return Image(np.random.default_rng(0).random((60, 44), dtype=np.float32))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_folder(tmp_path / "run", make_carzero(), text_folder(tmp_path / "text"), {"finished": True, "epoch": 3})
    return tmp_path / "run"


def test_a_folder_gives_the_detector_back(saved: Path, tmp_path: Path) -> None:
    expected = CarZero.from_network(make_carzero(), tmp_path / "text").with_prompts(PROMPTS)
    for loaded in (load(saved), load(str(saved)), load_folder(saved)):
        assert isinstance(loaded, CarZero)
        assert loaded.weights_hash == expected.weights_hash
        found = loaded.with_prompts(PROMPTS).predict([picture()])[0]
        np.testing.assert_array_equal(found.scores, expected.predict([picture()])[0].scores)
    assert read_card(saved)["epoch"] == 3
    assert {path.name for path in (saved / "text").iterdir()} == {"vocab.txt", "tokenizer_config.json", "config.json"}


def test_half_precision_files_are_read_as_single(saved: Path, tmp_path: Path) -> None:
    half = copy.deepcopy(make_carzero()).half()
    write_safetensors(tmp_path / "half.safetensors", half)
    loaded = load(saved, weights=tmp_path / "half.safetensors")
    assert {p.dtype for p in loaded.network.parameters()} == {torch.float32}
    assert loaded.weights_hash != load(saved).weights_hash


def test_folders_that_are_not_whole_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected a trained CARZero"):
        load_folder(tmp_path)
    (saved / "weights.safetensors").unlink()
    with pytest.raises(WeightsError, match="has not finished an epoch"):
        load(saved)
    (saved / "carzero.json").write_text(json.dumps({"format": "other", "version": 1}))
    with pytest.raises(WeightsError, match="expected 'wordsight-carzero' of version 1"):
        load(saved)
    write_card(saved, {})
    with pytest.raises(SettingsError, match="has its own text"):
        load(saved, text=tmp_path / "text")


def test_a_missing_tiny_network_says_how_to_make_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "TINY", "not-there")
    with pytest.raises(WeightsError, match=r"found none in this installation.*train_tiny_carzero\.py"):
        load("carzero", weights="tiny")


def test_the_tiny_network_takes_no_other_text(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="has its own text"):
        load("carzero", weights="tiny", text=tmp_path)


def test_the_tiny_network_is_small_says_what_it_is_and_knows_its_findings() -> None:
    files = [path for path in tiny_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8 * 2**20
    card = json.loads((tiny_folder() / "card.json").read_text(encoding="utf-8"))
    assert "knows nothing of patients" in card["note"]
    assert card["made_by"] == "scripts/train_tiny_carzero.py"
    assert "masks" in card["seeing"]
    assert read_card(tiny_folder())["training"]["image_rate"] == 0.1
    detector = load("carzero", weights="tiny")
    phantoms = [draw_report_phantom(12, index, 224) for index in range(120)]
    results = phantom_findings.measure(detector, phantoms)
    found = phantom_findings.means(results)
    assert found["stated"] >= 0.98
    assert found["denied"] <= 0.03
    assert found["pair"] >= 0.98
    assert found["pointing"] >= 0.85
    assert min(result.stated for result in results) >= 0.93
    assert min(result.pointing for result in results if result.pointing is not None) >= 0.5


# -- the script and the measurement ------------------------------------------------------------------------------------


def test_the_vocabulary_spells_every_word(tmp_path: Path) -> None:
    from wordsight.models.carzero.text_input import TextInput

    words = tiny_carzero_network.learn_vocabulary(["there is no mass"], ["There is cardiomegaly and xerosis"], 120)
    assert words[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(words) == len(set(words))
    settings = tiny_carzero_network.sizes(len(words))
    tiny_carzero_network.write_text_folder(tmp_path, words, settings)
    tokens = TextInput(tmp_path, settings)(["There is no mass, 3.5 cm", "xerosis of zygoma"])
    assert words.index("[UNK]") not in tokens.ids.tolist()[0]
    assert words.index("[UNK]") not in tokens.ids.tolist()[1]
    assert tokens.words.tolist()[1] == 5


def test_heads_begin_with_looking_where_they_are_told() -> None:
    """Weights of `look_at` on the places of all patches: the strongest attention lies at the asked offset."""
    grid, angles = tiny_carzero_network.GRID, tiny_carzero_network.ANGLES
    axis = (torch.arange(grid)[:, None] + 0.5) * angles
    axis = torch.cat([axis.cos(), axis.sin()], dim=1)
    places = torch.cat([axis[:, None].expand(-1, grid, -1), axis[None].expand(grid, -1, -1)], dim=2).flatten(0, 1)
    for row, column, mirror in ((-1, 0, False), (0, 2, False), (0, 0, True), (0, 0, False)):
        query, key = tiny_carzero_network.look_at(row, column, 0.0, mirror)
        best = ((places @ query.T) @ (places @ key.T).T).argmax(dim=1)
        for r, c in ((5, 4), (7, 6)):
            wanted = (r + row, (grid - 1 - c if mirror else c) + column)
            assert divmod(int(best[r * grid + c]), grid) == wanted


def test_seeds_of_evaluations_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_tiny_carzero.options_of(["--out", "somewhere", "--seed", "3"])
    assert "expected at least 1000000" in capsys.readouterr().err


def test_the_measurement_counts_uncertain_findings_neither_way() -> None:
    states = [State.PRESENT, State.UNCERTAIN, State.ABSENT]
    phantoms = [draw_report_phantom(1, i, 96, {"Mass": state}) for i, state in enumerate(states)]
    column = np.array([[2.0] * 10, [9.0] * 10, [1.0] * 10], dtype=np.float32)
    index = FINDINGS.index("Mass")
    result = phantom_findings._result("Mass", index, phantoms, [column, -column, column], [True, False])
    assert (result.present, result.stated, result.denied, result.pair, result.pointing) == (1, 1.0, 0.0, 1.0, 0.5)


def test_means_leave_out_findings_without_a_box() -> None:
    results = [
        phantom_findings.FindingResult("a", 2, 1.0, 0.0, 1.0, 0.0),
        phantom_findings.FindingResult("b", 0, 0.5, 0.5, 0.5, None),
    ]
    assert phantom_findings.means(results) == {"stated": 0.75, "denied": 0.25, "pair": 0.75, "pointing": 0.0}
    assert "| mean | | 0.750 | 0.250 | 0.750 | 0.000 |" in carzero_phantoms.table(results)


def test_a_detector_is_measured_on_all_findings(tmp_path: Path) -> None:
    detector = CarZero.from_network(make_carzero(), text_folder(tmp_path))
    phantoms = [draw_report_phantom(2, i, 96) for i in range(12)]
    results = phantom_findings.measure(detector, phantoms)
    assert [r.finding for r in results] == list(FINDINGS)
    counts = [sum(p.findings[r.finding].state == "present" for p in phantoms) for r in results]
    assert [r.present for r in results] == counts
