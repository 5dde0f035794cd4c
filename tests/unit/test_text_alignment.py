"""Prompt alignment: what each kind of sentence says, and how well the rules agree with a reader of real reports."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordsight.errors import DataError
from wordsight.text import chest_terms
from wordsight.text.agreement import Agreement, agreement, read_labels
from wordsight.text.alignment import Statement, Status, align_report, align_sentence
from wordsight.text.cues import CUES
from wordsight.text.lexicon import lemma, terms_of, tokens_of
from wordsight.text.openi_reports import read_openi_report
from wordsight.text.places import place_of, sides_of
from wordsight.text.sentences import report_sentences

LABELS = Path(__file__).resolve().parents[1] / "labels" / "openi_alignment.csv"
SIGNS = {"+": Status.PRESENT, "?": Status.UNCERTAIN, "-": Status.ABSENT}


def said(sentence: str) -> str:
    """Statements in short: "+mass; -edema of left side"."""
    signs = {status: sign for sign, status in SIGNS.items()}
    return "; ".join(
        signs[s.status] + s.finding + (f" of {s.place}" if s.place else "") for s in align_sentence(sentence)
    )


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        # negation and where it ends
        ("No consolidation, effusion or pneumothorax", "-consolidation; -pleural effusion; -pneumothorax"),
        ("There is no pneumothorax, but a small left effusion", "-pneumothorax; +pleural effusion of left side"),
        ("No pneumothorax; moderate right effusion", "-pneumothorax; +pleural effusion of right side"),
        ("Although there is no effusion, there is mild edema", "-pleural effusion; +pulmonary edema"),
        ("No pneumothorax, however the heart is enlarged", "-pneumothorax; +cardiomegaly"),
        ("No large effusion, stable cardiomegaly", "-pleural effusion; +cardiomegaly"),
        ("No pneumothorax or effusion with stable cardiomegaly", "-pneumothorax; -pleural effusion; +cardiomegaly"),
        ("Cardiomegaly without overt edema", "+cardiomegaly; -pulmonary edema"),
        ("Neither effusion nor pneumothorax is seen", "-pleural effusion; -pneumothorax"),
        ("Lungs are free of consolidation", "-consolidation"),
        ("Negative for pneumothorax", "-pneumothorax"),
        ("Scarring rather than consolidation", "+fibrosis; -consolidation"),
        ("Pneumothorax has resolved", "-pneumothorax"),
        ("The right apical pneumothorax is no longer seen", "-pneumothorax of right lung apex"),
        ("NG tube has been removed", "-device"),
        ("No focal opacity to suggest pneumonia", "-opacity; -pneumonia"),
        # no negation at all
        ("No change in the small left pleural effusion", "+pleural effusion of left side"),
        ("No interval increase in the effusion", "+pleural effusion"),
        ("Effusion is not significantly changed", "+pleural effusion"),
        # doubt
        ("Cannot exclude pneumonia", "?pneumonia"),
        ("Underlying pneumonia cannot be excluded", "?pneumonia"),
        ("A small effusion is possible", "?pleural effusion"),
        ("Pneumonia?", "?pneumonia"),
        ("Probably a small hiatal hernia", "?hernia"),
        ("Left base opacity may represent atelectasis", "+opacity of left lung base; ?atelectasis"),
        ("Atelectasis versus pneumonia", "?atelectasis; ?pneumonia"),
        ("Atelectasis or scar in the lingula", "?atelectasis; ?fibrosis of lingula"),
        ("Opacity XXXX representing scar", "+opacity; ?fibrosis"),
        ("Findings concerning for edema, small right effusion", "?pulmonary edema; +pleural effusion of right side"),
        # asked, not seen
        ("Evaluate for pneumonia", ""),
        ("Patient with history of COPD, now with left effusion", "+pleural effusion of left side"),
        # structures and their states
        ("Heart size is normal and lungs are clear", "-cardiomegaly; -consolidation; -opacity"),
        ("Normal heart size and clear lungs", "-cardiomegaly; -consolidation; -opacity"),
        ("Enlarged heart, lungs are clear", "+cardiomegaly; -consolidation; -opacity"),
        ("The heart is not enlarged", "-cardiomegaly"),
        ("Cardiac silhouette is enlarged", "+cardiomegaly"),
        ("Heart size is at the upper limits of normal", "?cardiomegaly"),
        ("Stable heart size, normal pulmonary vascularity", "-vascular congestion"),
        ("The heart size is stable and within normal limits", "-cardiomegaly"),
        ("The lungs are not clear", ""),
        ("The lungs are hyperinflated but clear", "+hyperinflation; -consolidation; -opacity"),
        ("Heart and mediastinum are otherwise normal", "-cardiomegaly; -mediastinal widening"),
        ("Elevation of the right hemidiaphragm", "+elevated diaphragm of right side"),
        ("Blunting of the left costophrenic angle", "+costophrenic angle blunting of left side"),
        ("Osseous structures are without acute abnormality", "-bone abnormality"),
        ("Normal chest", "-acute disease"),
        ("Borderline heart size and small effusion", "?cardiomegaly; +pleural effusion"),
        ("The heart is enlarged and the effusion has resolved", "+cardiomegaly; -pleural effusion"),
        (
            "Normal heart size, lungs with a nodule are hyperinflated",
            "-cardiomegaly; -consolidation; -opacity; +nodule; +hyperinflation",
        ),
        # words that only look like findings
        ("Prominent epicardial fat", ""),
        ("Stable chronic lung disease", ""),
        ("No cardiopulmonary abnormality", "-acute disease"),
        # places
        ("Patchy right upper lobe opacity", "+opacity of right upper lobe"),
        ("Nodule overlying the posterior 7th rib", "+nodule of posterior 7th rib"),
        ("Hazy opacity at the base of the left lung", "+opacity of left lung base"),
        ("Right and left pleural effusions", "+pleural effusion of both sides"),
        ("Bibasilar atelectasis, no effusion", "+atelectasis of both lung bases; -pleural effusion"),
    ],
)
def test_what_a_sentence_says(sentence: str, expected: str) -> None:
    assert said(sentence) == expected


def test_the_prompts_are_worded_as_at_test_time() -> None:
    statements = [Statement("edema", status) for status in Status] + [Statement("mass", Status.PRESENT, "left lung")]
    assert [s.sentence() for s in statements] == [
        "There is edema",
        "There may be edema",
        "There is no edema",
        "There is mass of left lung",
    ]


def test_present_wins_over_uncertain_and_uncertain_over_absent() -> None:
    assert said("No effusion, possible right effusion") == "?pleural effusion of right side"
    assert said("Possible left effusion; definite effusion") == "+pleural effusion"
    assert said("Possible left effusion; definite left effusion") == "+pleural effusion of left side"


BOTH = "+pleural effusion of both sides"
HALVES = "+pleural effusion of right side; -pleural effusion of left side"


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Left greater than right pleural effusions", BOTH),
        ("Small right more than left effusions are seen", BOTH),
        ("Pleural effusions, left greater than right", BOTH),
        ("Pleural effusions (right larger than the left)", BOTH),
        ("Pleural effusions left greater than right", BOTH),
        ("Left effusion larger than right", BOTH),
        ("Left-sided and right-sided pleural effusions", BOTH),
        ("Effusion on the left and on the right", BOTH),
        ("Effusions in the right and left hemithorax", "+pleural effusion of both hemithoraces"),
        ("No left or right effusion", "-pleural effusion of both sides"),
        ("Right lower lobe and left lower lobe opacities", "+opacity of both lower lobes"),
        ("Opacity in the right upper and left lower lobe", "+opacity of both sides"),
        ("The right-sided effusion is unchanged, the left effusion has resolved", HALVES),
        ("Right effusion, none on the left", HALVES),
        (
            "No effusion on the right, small on the left",
            "-pleural effusion of right side; +pleural effusion of left side",
        ),
        (
            "No left effusion, possible right effusion",
            "-pleural effusion of left side; ?pleural effusion of right side",
        ),
        ("Nodule in the left apex, nodule in the right base", "+nodule of left lung apex; +nodule of right lung base"),
        # the other side belongs to another finding
        (
            "Opacity in the left base and right pleural effusion",
            "+opacity of left lung base; +pleural effusion of right side",
        ),
        ("Effusion on the left and right pneumothorax", "+pleural effusion of left side; +pneumothorax of right side"),
        ("Left effusion and right pneumothorax", "+pleural effusion of left side; +pneumothorax of right side"),
        ("Opacity on the left and right lung is clear", "+opacity of left side; -consolidation"),
    ],
)
def test_no_side_is_lost(sentence: str, expected: str) -> None:
    assert said(sentence) == expected


def test_every_wording_of_a_finding_is_found_in_singular_and_plural() -> None:
    for finding, text in chest_terms.FINDINGS.items():
        for wording in chest_terms.wordings(text):
            expected = chest_terms.SEVERAL.get(wording, (finding,))
            plural = wording if wording[-1] in "sxh" or len(wording.split()[-1]) < 3 else f"{wording}s"
            for form in (wording, plural):
                kinds = {(t.kind, t.value) for t in terms_of(tokens_of(form))}
                assert ("finding", expected) in kinds, (finding, form)


def test_no_wording_belongs_to_two_findings_or_to_a_finding_and_a_cue() -> None:
    homes: dict[str, str] = {}
    for finding, text in chest_terms.FINDINGS.items():
        for wording in chest_terms.wordings(text):
            if wording not in chest_terms.SEVERAL:
                assert homes.setdefault(wording, finding) == finding, wording
    cues = {w for text in CUES.values() for w in chest_terms.wordings(text)}
    assert not cues & homes.keys()


@pytest.mark.parametrize(
    ("word", "singular"),
    [("opacities", "opacity"), ("masses", "mass"), ("pneumothoraces", "pneumothorax"), ("bases", "base")]
    + [(word, word) for word in ("diagnosis", "pus", "mass", "has", "thorax", "viscus")],
)
def test_lemma(word: str, singular: str) -> None:
    assert lemma(word) == singular


def test_a_place_does_not_reach_across_other_findings() -> None:
    tokens = tokens_of("left base opacity edema")
    assert place_of(tokens, 3, 4, floor=3) is None
    assert place_of(tokens, 2, 3) == "left lung base"
    assert place_of(tokens_of("upper effusion"), 1, 2) is None


def test_a_report_says_each_thing_once() -> None:
    found = align_report("FINDINGS: Left effusion. No mass. IMPRESSION: 1. Small left effusion. 2. XXXX XXXX.")
    assert [s.sentence() for s in found] == ["There is pleural effusion of left side", "There is no mass"]


WORDS = [w for text in (*CUES.values(), *chest_terms.STATES.values()) for w in chest_terms.wordings(text)]
WORDS += ["effusion", "lungs", "heart", "left", "base", ",", ";", "?", "XXXX", "in the", "normal chest", "é", "7th"]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(WORDS), max_size=14))
def test_any_order_of_cues_gives_valid_statements(words: list[str]) -> None:
    statements = align_sentence(" ".join(words))
    assert len({(s.finding, sides_of(s.place)) for s in statements}) == len(statements)
    for statement in statements:
        assert statement.finding in chest_terms.FINDINGS or statement.finding == "acute disease"
        assert statement.place is None or statement.place.strip()


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=80))
def test_any_text_is_read_without_error(text: str) -> None:
    align_report(text)


def test_agreement_counts_labels_with_the_same_status() -> None:
    pairs = [
        (frozenset({("mass", Status.PRESENT), ("edema", Status.ABSENT)}), [Statement("mass", Status.UNCERTAIN)]),
        (frozenset({("edema", Status.ABSENT)}), [Statement("edema", Status.ABSENT, "left side")]),
    ]
    by_status = agreement(pairs)
    assert by_status == {
        "absent": Agreement(2, 1, 1),
        "present": Agreement(1, 0, 0),
        "uncertain": Agreement(0, 1, 0),
    }
    assert agreement(pairs, "finding") == {"edema": Agreement(2, 1, 1), "mass": Agreement(1, 1, 0)}
    assert (by_status["absent"].precision, by_status["absent"].recall) == (1.0, 0.5)
    assert by_status["present"].precision != by_status["present"].precision  # NaN: nothing was found


@pytest.mark.parametrize("content", ["set,report\nx,1\n", "set,report,sentence,labels\nx,1,0,mass\n", "a"])
def test_malformed_labels_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(content, encoding="utf-8")
    if content == "a":
        with pytest.raises(DataError, match="no such label file"):
            read_labels(tmp_path / "missing.csv")
    else:
        with pytest.raises(DataError, match="expected columns set, report, sentence, labels"):
            read_labels(path)


def test_rules_agree_with_a_reader_of_real_reports(shared: Path) -> None:
    labelled = [row for row in read_labels(LABELS) if row.group == "held out"]
    assert len(labelled) == 150
    wanted = {row.report for row in labelled}
    with tarfile.open(shared / "data" / "reports" / "openi_reports.tgz") as tar:
        streams = {Path(m.name).stem: tar.extractfile(m) for m in tar.getmembers() if Path(m.name).stem in wanted}
        texts = {name: read_openi_report(s.read()).text for name, s in streams.items() if s is not None}
    sentences = {name: report_sentences(text, marks="keep") for name, text in texts.items()}
    counts = agreement((row.labels, align_sentence(sentences[row.report][row.sentence])) for row in labelled)
    floors = {"absent": (0.96, 0.97), "present": (0.93, 0.94), "uncertain": (0.90, 0.75)}
    for status, (precision, recall) in floors.items():
        assert counts[status].precision >= precision
        assert counts[status].recall >= recall
