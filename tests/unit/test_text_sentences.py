"""Reports to sentences: the published rules against a twin and golden lists, the section reader on written reports."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordsight.errors import SettingsError
from wordsight.text.openi_reports import OpenIReport, read_openi_report
from wordsight.text.sentences import clean_prompt, report_sections, report_sentences

ALPHABET = "abZ 12.\n_,;é\ufffd-Ω"


def twin_pieces(text: str) -> list[list[str]]:
    """The published pieces, character by character: no regular expression."""
    marked, i = "", 0
    text = text.replace("\n", " ")
    while i < len(text):
        j = i
        while j < len(text) and text[j] in "0123456789":
            j += 1
        if j > i and text[j : j + 1] == ".":
            marked, i = marked + ".", j + 1
        else:
            marked, i = marked + text[i : max(j, i + 1)], max(j, i + 1)
    pieces = []
    for piece in marked.split("."):
        runs = "".join(
            c if c.isalnum() or c == "_" else " " for c in piece.replace("\ufffd\ufffd", " ").lower()
        ).split()
        if len(runs) > 1:
            plain = ["".join(c for c in run if ord(c) < 128) for run in runs]
            pieces.append([word for word in plain if word])
    return pieces


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=ALPHABET, max_size=40), st.sampled_from([None, 2, 3, 5]))
def test_published_sentences_equal_the_twin(text: str, limit: int | None) -> None:
    expected, count = [], 0
    for words in twin_pieces(text):
        if words:
            expected.append(" ".join(words))
        count += len(words)
        if count == limit:
            break
    assert report_sentences(text, "published", max_word_num=limit) == expected
    assert clean_prompt(text) == " ".join(word for piece in twin_pieces(text) for word in piece)


def openi_reports(shared: Path) -> dict[str, OpenIReport]:
    with tarfile.open(shared / "data" / "reports" / "openi_reports.tgz") as tar:
        members = [m for m in tar if m.name.endswith(".xml")]
        return {Path(m.name).name: read_openi_report(tar.extractfile(m).read()) for m in members}  # type: ignore[union-attr]


def test_published_sentences_equal_the_golden_lists(shared: Path) -> None:
    golden = json.loads((shared / "goldens" / "carzero" / "sentences.json").read_text(encoding="utf-8"))
    reports = openi_reports(shared)
    common = [entry for entry in golden["reports"] if entry["file"] in reports]
    assert len(common) >= 20
    for entry in common:
        report = reports[entry["file"]]
        columns = [report.findings, report.impression]
        assert report_sentences(report.text, "published", max_word_num=5) == entry["sentences"]
        assert report_sentences(report.text, "published") == entry["sentences_without_the_limit"]
        assert report_sentences(columns, "published", max_word_num=5) == entry["sentences_two_columns"]


def test_published_prompts_equal_the_golden_words(shared: Path) -> None:
    golden = json.loads((shared / "goldens" / "carzero" / "text.json").read_text(encoding="utf-8"))
    for text, words in zip(golden["inputs"]["sentences"], golden["aggregated_words"], strict=True):
        cleaned = clean_prompt(text).replace("_", " _ ").split()
        assert cleaned[: len(words) - 2] == words[1:-1]
        assert len(cleaned) == len(words) - 2 or len(cleaned) > 60  # only the long one is cut by the tokenizer


def test_the_published_rules_do_what_a_reader_would_not_expect() -> None:
    assert clean_prompt("cardiomegaly") == ""
    assert clean_prompt("There is a 3.5 cm nodule") == "there is a 5 cm nodule"
    assert clean_prompt("A naïve café-au-lait spot") == "a nave caf au lait spot"
    assert report_sentences("Edema seen. Mass in lung. No more.", "published", max_word_num=5) == [
        "edema seen",
        "mass in lung",
    ]
    assert len(report_sentences("Edema is seen. Mass in lung. No more.", "published", max_word_num=5)) == 3


MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with new onset ascites  // eval for infection

 COMPARISON:  [**2010-1-3**]

 FINDINGS:

 There is no focal consolidation, pleural effusion or
 pneumothorax.  A 3.5 cm nodule is seen at 3 p.m. on the left. Dr. A. Smith was told.

 IMPRESSION:

 1. No acute cardiopulmonary process.
 2. Nodule, see above.
"""


def test_sections_of_a_plain_text_report() -> None:
    sections = report_sections(MIMIC)
    assert set(sections) == {"technique", "indication", "comparison", "findings", "impression"}
    assert sections["findings"].startswith("There is no focal")
    assert sections["impression"].endswith("Nodule, see above.")
    assert report_sentences(MIMIC) == [
        "There is no focal consolidation, pleural effusion or pneumothorax",
        "A 3.5 cm nodule is seen at 3 p.m. on the left",
        "Dr. A. Smith was told",
        "No acute cardiopulmonary process",
        "Nodule, see above",
    ]


def test_inline_headings_and_reports_without_any() -> None:
    inline = "CHEST: PA. INDICATION: Cough. FINDINGS: Clear lungs. Impression: No change. COMPARISON: none."
    assert report_sentences(inline) == ["Clear lungs", "No change"]
    headless = "INDICATION: Fever.\n\nHeart size normal. Lungs clear."
    assert report_sentences(headless) == ["Heart size normal", "Lungs clear"]
    assert report_sentences("Lungs clear. In comparison to the prior, no change.") == [
        "Lungs clear",
        "In comparison to the prior, no change",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1. Edema. 2. No mass.", ["Edema", "No mass"]),
        ("1. Edema 2. No mass 3. Old rib fracture", ["Edema", "No mass", "Old rib fracture"]),
        ("(1) Edema\n(2) No mass", ["Edema", "No mass"]),
        ("- Edema\n- No mass", ["Edema", "No mass"]),
        ("Fracture of T 12. No mass.", ["Fracture of T 12", "No mass"]),
        ("Mass of 10.2 mm. Clear.", ["Mass of 10.2 mm", "Clear"]),
        ("Seen at 10:30 a.m. Lungs clear.", ["Seen at 10:30 a.m", "Lungs clear"]),
        ("Edema vs. pneumonia, e.g. viral.", ["Edema vs. pneumonia, e.g. viral"]),
        ("Signed by J. B. Smith. No mass.", ["Signed by J. B. Smith", "No mass"]),
        ("History of hepatitis C. No mass.", ["History of hepatitis C", "No mass"]),
        ("No effusion.No mass", ["No effusion", "No mass"]),
        ("no effusion.no mass", ["no effusion", "no mass"]),
        ("Pneumonia? No mass!", ["Pneumonia?", "No mass"]),
        ("Edema. Mass. EDEMA.", ["Edema", "Mass"]),
        ("Line one\nline two.\r\n\r\nNext", ["Line one line two", "Next"]),
        ("", []),
        ("... ,", []),
    ],
)
def test_the_splitter_reads_what_reports_contain(text: str, expected: list[str]) -> None:
    assert report_sentences(text) == expected


def test_marks_are_dropped_or_kept_and_never_change_the_number_of_sentences() -> None:
    text = "XXXX XXXX. Normal chest x-XXXX. Dr. [**Last Name (STitle) 4. **] saw ___ edema. XXXX, mass. Mass."
    assert report_sentences(text) == ["Normal chest", "Dr. saw edema", "mass"]
    assert report_sentences(text, marks="keep") == ["Normal chest x-XXXX", "Dr. XXXX saw XXXX edema", "XXXX, mass"]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(["XXXX", "edema", "No", "1.", "2.", "3.5", ".", ",", "\n", "Dr.", "x-XXXX", "?"])))
def test_sentences_are_stable_under_marks_and_when_split_again(words: list[str]) -> None:
    text = " ".join(words)
    dropped, kept = report_sentences(text), report_sentences(text, marks="keep")
    assert len(dropped) == len(kept)
    for sentence in dropped:
        assert sentence == sentence.strip()
        assert "XXXX" not in sentence


def test_columns_stay_apart_only_where_sections_are_read() -> None:
    columns = ["No mass", "Clear lungs"]
    assert report_sentences(columns) == ["No mass", "Clear lungs"]
    assert report_sentences(columns, "published") == ["no massclear lungs"]


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="one of sections, published"):
        report_sentences("a", "other")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="one of drop, keep"):
        report_sentences("a", marks="other")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="belongs to style='published'"):
        report_sentences("a", max_word_num=5)


def test_a_long_text_is_split_in_linear_time() -> None:
    assert len(report_sentences("No mass. " * 20000 + "1. " * 20000 + "A" * 100000)) <= 3
