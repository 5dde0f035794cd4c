"""Prompt sets: shipped, from files, typed; the aligned column of a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordsight.errors import DataError, PromptError
from wordsight.text.aligned import SEPARATOR, read_aligned, write_aligned
from wordsight.text.prompts import SHIPPED, prompt_set
from wordsight.text.sentences import clean_prompt
from wordsight.types import PromptSet

SIZES = {"chestxray14": 14, "chexpert5": 5, "openi": 18, "chestxdet10": 10, "padchest": 192}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_sets_are_complete(name: str) -> None:
    prompts = prompt_set(name)
    assert len(prompts.findings) == SIZES[SHIPPED[name]]
    assert prompts.negative is not None
    for (positive,), (negative,) in zip(prompts.positive, prompts.negative, strict=True):
        assert positive.startswith("There is ")
        assert negative == positive.replace("There is ", "There is no ")
        assert clean_prompt(positive), "a prompt that the published code would drop"


def test_names_may_be_written_in_other_ways() -> None:
    assert prompt_set("NIH-14") == prompt_set("chest14") == prompt_set("ChestXray14")
    assert prompt_set("chexpert5").findings[-1] == "Pleural Effusion"


def test_shipped_wording_is_the_published_one(shared: Path) -> None:
    for name in SIZES:
        published = PromptSet.read(shared / "data" / "prompts" / f"{name}.json")
        assert prompt_set(name).positive == published.positive


def test_findings_bear_the_names_of_the_labels(shared: Path) -> None:
    images = json.loads((shared / "data" / "labels" / "padchest" / "manual_image.json").read_text(encoding="utf-8"))
    labels = {label for found in images.values() for label in found}
    assert set(prompt_set("padchest").findings) == labels - {"normal"}
    expected = json.loads((shared / "data" / "predictions" / "openi_expected.json").read_text(encoding="utf-8"))
    assert list(prompt_set("openi").findings) == [name.replace("_", " ") for name in expected["findings"]]


@pytest.mark.parametrize(
    ("text", "findings", "positive"),
    [
        ("cardiomegaly", ["cardiomegaly"], ["There is cardiomegaly"]),
        ("edema, left effusion", ["edema", "left effusion"], ["There is edema", "There is left effusion"]),
        ("edema; mass\nnodule.", ["edema", "mass", "nodule"], ["There is edema", "There is mass", "There is nodule"]),
        ("There is a 3.5 cm mass", ["There is a 3.5 cm mass"], ["There is a 3.5 cm mass"]),
        ("There is edema, There is mass", ["There is edema", "There is mass"], ["There is edema", "There is mass"]),
        (
            "There is a mass, large and round",
            ["There is a mass, large and round"],
            ["There is a mass, large and round"],
        ),
        ("the heart is enlarged", ["the heart is enlarged"], ["the heart is enlarged"]),
    ],
)
def test_typed_text_becomes_prompts(text: str, findings: list[str], positive: list[str]) -> None:
    prompts = prompt_set(text)
    assert list(prompts.findings) == findings
    assert [group for (group,) in prompts.positive] == positive


def test_negative_sentences_are_made_where_all_can_be_denied() -> None:
    assert prompt_set("There is a mass; edema").negative == (("There is no mass",), ("There is no edema",))
    assert prompt_set("there are nodules").negative == (("There are no nodules",),)
    assert prompt_set("the heart is enlarged, edema").negative is None
    assert prompt_set("There is no mass").negative is None
    assert prompt_set("There is a mass with calcification").negative == (("There is no mass with calcification",),)


@pytest.mark.parametrize(
    "sentence",
    [
        "There is a mass and there is no effusion",
        "There is a mass but no effusion",
        "There is a mass and the heart is enlarged",
        "There is a mass, not seen before",
        "There is edema without effusion",
        "There is a nodule that was not seen before",
        "There is a mass which suggests cancer",
        "There isn't a mass",
        "There are not any nodules",
        "no effusion",
    ],
)
def test_what_no_single_no_denies_gets_no_denial(sentence: str) -> None:
    assert prompt_set(sentence).negative is None


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("mass of 3,5 cm", ["mass of 3,5 cm"]),
        ("mass of 3,5 cm, edema", ["mass of 3,5 cm", "edema"]),
        ("mass of 3, edema", ["mass of 3", "edema"]),
        ("edema,mass", ["edema", "mass"]),
        ("grade 1,mass", ["grade 1", "mass"]),
    ],
)
def test_a_decimal_comma_does_not_split(text: str, findings: list[str]) -> None:
    assert list(prompt_set(text).findings) == findings


def test_files_are_read_and_numbered_findings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(
        '{"edema": {"positive": ["There is edema", "wet lungs"], "negative": "dry lungs"}}', encoding="utf-8"
    )
    assert prompt_set(path, how="max") == PromptSet(
        ("edema",), (("There is edema", "wet lungs"),), (("dry lungs",),), "max"
    )
    path.write_text('{"0": ["There is Edema"], "1": "There is Mass"}', encoding="utf-8")
    assert prompt_set(str(path)).findings == ("Edema", "Mass")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "got nothing"),
        (" ; . ", "got nothing"),
        ("chest41", "Did you mean chest14"),
        ("missing.json", "no such prompt file"),
        (Path("missing"), "no such prompt file"),
        ("edema, mass, edema", "each finding once, got edema"),
    ],
)
def test_what_names_no_prompts_is_refused(source: str | Path, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        prompt_set(source)


@pytest.mark.parametrize("value", ["5", '{"edema": 5}', '{"edema": ["a", 5]}', '{"edema": {"positive": [["a"]]}}'])
def test_malformed_files_are_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(value, encoding="utf-8")
    with pytest.raises(PromptError, match="expected"):
        PromptSet.read(path)


def test_how_sentences_combine_is_mean_or_max() -> None:
    with pytest.raises(PromptError, match="one of mean, max, got 'sum'"):
        PromptSet(("a",), (("a",),), how="sum")  # type: ignore[arg-type]
    assert PromptSet.of("a").how == "mean"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(min_size=1).map(str.strip).filter(bool), max_size=5))
def test_written_cells_are_read_back(sentences: list[str]) -> None:
    assert read_aligned(write_aligned(sentences)) == sentences


def test_cells_may_be_separated_by_bars() -> None:
    assert read_aligned(f"There is edema{SEPARATOR}There is no mass") == ["There is edema", "There is no mass"]
    assert read_aligned(" ") == read_aligned("[]") == []
    for cell in ('["a", 5]', '["a", " "]', "[broken"):
        with pytest.raises(DataError, match="JSON list of sentences"):
            read_aligned(cell)


def test_a_typed_denial_stays_one() -> None:
    assert prompt_set("No opacities in the left lung").positive == (("There is no opacities in the left lung",),)
