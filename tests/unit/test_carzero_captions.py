"""Captions of reports, and which of a batch are right or wrong for which image; augmentation and streams."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pil

from tiny_carzero import SETTINGS
from wordsight.data.phantoms import draw_report_phantom, write_report_phantoms
from wordsight.data.phantoms.reports import State
from wordsight.imaging import prepare, read_image
from wordsight.models.carzero.detector import input_spec
from wordsight.models.carzero.settings import CarZeroSettings
from wordsight.text.alignment import Statement, Status
from wordsight.text.places import sides_of
from wordsight.text.sentences import report_sentences
from wordsight.train.carzero import normalised
from wordsight.train.carzero_augment import affine, augment, centre
from wordsight.train.carzero_captions import (
    Caption,
    ReportCaptions,
    aligned_caption,
    draw,
    match,
    opposite,
    report_captions,
)
from wordsight.train.carzero_data import ReportData, report_sets, share
from wordsight.train.carzero_relation import Relation, compare
from wordsight.train.carzero_settings import CarZeroTraining

PLAIN = SETTINGS.corrected()
PUBLISHED, CORRECTED = CarZeroTraining.published(), CarZeroTraining.corrected()
REPORT = (
    "FINDINGS: Small left pleural effusion. No pneumothorax. Possible nodule in the right upper zone.\n"
    "IMPRESSION: Left effusion."
)
P, A, U = Status.PRESENT, Status.ABSENT, Status.UNCERTAIN
SIDED = ("left side", "right side", "both sides")


def test_published_captions_are_the_published_sentences() -> None:
    found = report_captions(REPORT, PUBLISHED, CarZeroSettings())
    assert [c.text for c in found.captions] == report_sentences(REPORT, "published", max_word_num=5)
    assert found.statements == ()
    assert not any(c.statements for c in found.captions)


def test_corrected_captions_are_sentences_and_prompts() -> None:
    found = report_captions(REPORT, CORRECTED, PLAIN)
    texts = [c.text for c in found.captions]
    assert texts == [
        "small left pleural effusion",
        "no pneumothorax",
        "possible nodule in the right upper zone",
        "left effusion",
        "there is pleural effusion of left side",
        "there is no pneumothorax",
        "there may be nodule of right upper zone",
    ]
    assert [c.aligned for c in found.captions] == [False] * 4 + [True] * 3
    aligned = report_captions(REPORT, replace(CORRECTED, captions="aligned"), PLAIN)
    assert [c.text for c in aligned.captions] == texts[4:]
    sentences = report_captions(REPORT, replace(CORRECTED, captions="sentences"), PLAIN)
    assert [c.text for c in sentences.captions] == texts[:4]
    assert report_captions("", CORRECTED, PLAIN).captions == ()


PROMPTS = ["There is a large pleural effusion", "There is pneumothorax", "There is a sail sign"]


def test_prepared_prompts_take_the_place_of_the_rules() -> None:
    found = report_captions(REPORT, CORRECTED, PLAIN, PROMPTS)
    plain = [c.text for c in report_captions(REPORT, replace(CORRECTED, captions="sentences"), PLAIN).captions]
    texts = ["there is a large pleural effusion", "there is pneumothorax", "there is a sail sign"]
    assert [c.text for c in found.captions] == plain + texts
    assert [c.aligned for c in found.captions] == [False] * 4 + [True, True, False]
    assert set(found.statements) == {
        Statement("pleural effusion", P), Statement("pneumothorax", P), Statement("nodule", U, "right upper zone"),
    }  # fmt: skip
    alone = report_captions("", replace(CORRECTED, captions="aligned"), PLAIN, PROMPTS)
    assert [c.text for c in alone.captions] == texts
    assert report_captions(REPORT, replace(CORRECTED, captions="aligned"), PLAIN, []).captions == ()
    published = report_captions(REPORT, PUBLISHED, CarZeroSettings(), PROMPTS[1:])
    assert [c.text for c in published.captions] == texts[1:]


def test_prepared_prompts_decide_what_is_wrong_for_an_image() -> None:
    """The report says "No pneumothorax"; its prepared prompt says otherwise and is believed."""
    asked = aligned_caption(Statement("pneumothorax", A), PLAIN)
    for prompts, wrong in ((None, False), (PROMPTS, True)):
        batch = match([report_captions(REPORT, CORRECTED, PLAIN, prompts)], [[]], CORRECTED, PLAIN)
        assert batch.texts == ()
        other = report_captions("FINDINGS: No pneumothorax.", CORRECTED, PLAIN)
        reports = [report_captions(REPORT, CORRECTED, PLAIN, prompts), other]
        batch = match(reports, [[], [asked]], replace(CORRECTED, contradictions=False), PLAIN)
        assert batch.texts == (asked.text,)
        assert bool(batch.wrong[0, 0]) is wrong


@pytest.mark.parametrize(
    ("status", "place", "said", "relation"),
    [
        (P, None, [], Relation.WRONG),
        (U, None, [], Relation.WRONG),
        (A, None, [], Relation.UNKNOWN),
        (P, None, [(P, "left side")], Relation.RIGHT),
        (P, "left side", [(P, "left side")], Relation.RIGHT),
        (P, "right side", [(P, "left side")], Relation.WRONG),
        (P, "right side", [(P, "left side"), (P, "right side")], Relation.RIGHT),
        (P, "left side", [(P, None)], Relation.UNKNOWN),
        (P, "left upper zone", [(P, "left lung")], Relation.UNKNOWN),
        (A, None, [(P, "left side")], Relation.WRONG),
        (U, None, [(P, None)], Relation.UNKNOWN),
        (P, None, [(A, None)], Relation.WRONG),
        (U, None, [(A, None)], Relation.WRONG),
        (A, None, [(A, None)], Relation.RIGHT),
        (P, None, [(U, None)], Relation.UNKNOWN),
        (A, None, [(U, None)], Relation.UNKNOWN),
        (U, None, [(U, "left side")], Relation.RIGHT),
        (U, "right side", [(U, "left side")], Relation.WRONG),
        (A, None, [(P, None), (A, None)], Relation.WRONG),
        # places of what is stated
        (P, "both sides", [(P, "left side")], Relation.WRONG),
        (P, "both sides", [(P, "left side"), (P, "right side")], Relation.RIGHT),
        (P, "left side", [(P, "both sides")], Relation.RIGHT),
        (P, "left side", [(P, "left lung base")], Relation.RIGHT),
        (P, "right lung base", [(P, "both lung bases")], Relation.UNKNOWN),
        (P, "right side", [(P, "left side"), (U, "right side")], Relation.UNKNOWN),
        (U, "right side", [(P, "left side"), (U, "right side")], Relation.RIGHT),
        (U, None, [(P, "left side"), (U, "right side")], Relation.UNKNOWN),
        (P, None, [(P, "left side"), (A, "right side")], Relation.RIGHT),
        (P, "right side", [(P, None), (A, "right side")], Relation.WRONG),
        # places of what is denied
        (A, "left side", [(P, "right side")], Relation.UNKNOWN),
        (A, "left side", [(P, "right side"), (A, "left side")], Relation.RIGHT),
        (A, "left side", [(P, "left lung base")], Relation.WRONG),
        (A, "left side", [(P, "both sides")], Relation.WRONG),
        (A, "left lung base", [(P, "left side")], Relation.UNKNOWN),
        (A, "left side", [(P, None)], Relation.UNKNOWN),
        (A, "left side", [(U, "left side")], Relation.UNKNOWN),
        (A, None, [(A, "left side")], Relation.UNKNOWN),
        (A, "right side", [(A, "left side")], Relation.UNKNOWN),
        (A, "left lung base", [(A, "left side")], Relation.RIGHT),
        (A, "left side", [(A, None)], Relation.RIGHT),
        (A, "right side", [(P, "left side"), (A, None)], Relation.UNKNOWN),
        (A, None, [(A, "left side"), (A, "right side")], Relation.RIGHT),
        (A, "both sides", [(A, "left side"), (A, "right side")], Relation.RIGHT),
        (A, None, [(A, "lung")], Relation.RIGHT),
        (P, None, [(A, "lung")], Relation.WRONG),
        (P, None, [(A, "left side")], Relation.UNKNOWN),
        (P, "right side", [(A, "left side")], Relation.UNKNOWN),
        (P, "left side", [(A, "left side")], Relation.WRONG),
        (P, "both sides", [(A, "left side")], Relation.WRONG),
        (P, "left lung base", [(A, "left side")], Relation.WRONG),
        (P, "left side", [(A, "left lung base")], Relation.UNKNOWN),
        (P, None, [(A, "left side"), (A, "right side")], Relation.WRONG),
    ],
)
def test_what_a_report_says_of_a_statement(
    status: Status, place: str | None, said: list[tuple[Status, str | None]], relation: Relation
) -> None:
    known = [Statement("effusion", s, p) for s, p in said]
    assert compare(Statement("effusion", status, place), known) is relation


def holds(statement: Statement, world: tuple[bool, bool]) -> bool:
    """Whether a certain statement is true where the left and the right side have the finding or not."""
    there = {"left side": world[0], "right side": world[1], "both sides": all(world), None: any(world)}
    if statement.status is P:
        return there[statement.place]
    return not (any(world) if statement.place in (None, "both sides") else there[statement.place])


CERTAIN = st.builds(Statement, st.just("effusion"), st.sampled_from([P, A]), st.sampled_from([*SIDED, None]))


@settings(deadline=None, max_examples=200)
@given(CERTAIN, st.lists(CERTAIN, min_size=1, max_size=4))
def test_a_relation_is_what_all_possible_patients_have_in_common(asked: Statement, said: list[Statement]) -> None:
    """Right: true for all patients of whom the report is true. Wrong: true for none, nothing unnamed being there."""
    worlds = [w for w in itertools.product([False, True], repeat=2) if all(holds(s, w) for s in said)]
    found = compare(asked, said)
    if found is Relation.RIGHT and worlds:
        assert all(holds(asked, world) for world in worlds)
    if found is Relation.WRONG and asked.status is A and worlds:
        assert not any(holds(asked, world) for world in worlds)
    named = frozenset().union(*(sides_of(s.place) for s in said if s.status is P))
    if any(s.status is P for s in said) and None not in [s.place for s in said if s.status is P]:
        worlds = [w for w in worlds if w == ("left" in named, "right" in named)]
    if found is Relation.WRONG:
        assert not any(holds(asked, world) for world in worlds)


SEEDS = st.integers(0, 999)
TOLD = ["left ", "right ", ""]
SENTENCES = ("There is a small {}pleural effusion.", "No {}pleural effusion.", "Possible {}pleural effusion.")


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.sampled_from(["left ", "right ", ""]), st.sampled_from(SENTENCES), min_size=1), st.integers(0)
)
def test_nothing_that_is_drawn_contradicts_its_own_report(told: dict[str, str], seed: int) -> None:
    report = report_captions(" ".join(text.format(side) for side, text in told.items()), CORRECTED, PLAIN)
    certain = [s for s in report.statements if s.status is not U]
    worlds = [w for w in itertools.product([False, True], repeat=2) if all(holds(s, w) for s in certain)]
    training = replace(CORRECTED, captions="aligned", drop_place=1.0)
    rng = np.random.default_rng(seed)
    for caption in draw(ReportCaptions(report.captions, report.statements), training, PLAIN, rng):
        for statement in caption.statements:
            if statement.status is not U:
                assert all(holds(statement, world) for world in worlds), caption
            if statement not in report.statements:
                assert compare(statement, report.statements) is Relation.RIGHT


def test_a_denial_of_one_side_is_no_denial_of_both() -> None:
    report = report_captions("Small right pleural effusion. No left pleural effusion.", CORRECTED, PLAIN)
    texts = {c.text for seed in range(40) for c in draw(report, CORRECTED, PLAIN, np.random.default_rng(seed))}
    assert {"there is pleural effusion", "there is no pleural effusion of left side"} <= texts
    assert "there is no pleural effusion" not in texts


def test_opposites_deny_what_is_stated_and_state_what_is_denied() -> None:
    def other(status: Status) -> str | None:
        found = opposite(aligned_caption(Statement("mass", status, "left lung"), PLAIN), PLAIN)
        return None if found is None else found.text

    assert other(P) == "there is no mass"
    assert other(A) == "there is mass of left lung"
    assert other(U) is None
    assert opposite(Caption("a mass", (Statement("mass", P),)), PLAIN) is None


def test_a_batch_as_published_has_only_its_diagonal_right() -> None:
    reports = [report_captions("There is an effusion.", PUBLISHED, PLAIN)] * 3
    found = match(reports, [[r.captions[0]] for r in reports], PUBLISHED, PLAIN)
    assert found.texts == ("there is an effusion",) * 3
    assert found.right.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert torch.equal(found.wrong, ~torch.eye(3, dtype=torch.bool))


def test_a_corrected_batch_knows_equal_implied_and_contradicted_captions() -> None:
    texts = ["There is a left pleural effusion.", "No pleural effusion.", "There is a mass in the right lung."]
    training = replace(CORRECTED, captions="aligned")
    reports = [report_captions(t, training, PLAIN) for t in (*texts, texts[0])]
    found = match(reports, [[r.captions[0]] for r in reports], training, PLAIN)
    right = {(i, found.texts[t]) for i, t in found.right.tolist()}
    wrong = {(i, found.texts[t]) for i, t in found.wrong.nonzero().tolist()}
    left, no, some = (
        "there is pleural effusion of left side",
        "there is no pleural effusion",
        "there is pleural effusion",
    )
    mass, no_mass = "there is mass of right lung", "there is no mass"
    assert set(found.texts) == {left, no, some, mass, no_mass}
    assert right == {(0, left), (3, left), (1, no), (2, mass), (0, some), (3, some)}
    assert wrong == {
        (0, no), (0, mass), (3, no), (3, mass), (1, left), (1, some), (1, mass), (2, left), (2, some), (2, no_mass),
    }  # fmt: skip


def test_phantom_reports_are_right_about_their_own_findings() -> None:
    """For every image "There is X" and "There is no X" are never wrong the wrong way round."""
    names = {
        "Effusion": "pleural effusion",
        "Cardiomegaly": "cardiomegaly",
        "Mass": "mass",
        "Pneumothorax": "pneumothorax",
    }
    for index in range(60):
        phantom = draw_report_phantom(1_000_003, index, 96)
        said = report_captions(phantom.report, CORRECTED, PLAIN).statements
        for finding, words in names.items():
            known = [s for s in said if s.finding == words]
            state = phantom.findings[finding].state
            if state is State.PRESENT:
                assert compare(Statement(words, P), known) is Relation.RIGHT
                assert compare(Statement(words, A), known) is Relation.WRONG
            if state is State.ABSENT:
                assert compare(Statement(words, P), known) is Relation.WRONG
                assert compare(Statement(words, A), known) is not Relation.WRONG


def test_a_batch_is_what_every_pair_is_by_itself() -> None:
    reports = [report_captions(draw_report_phantom(1_000_004, i, 96).report, CORRECTED, PLAIN) for i in range(12)]
    drawn = [draw(r, CORRECTED, PLAIN, np.random.default_rng(i)) for i, r in enumerate(reports)]
    found = match(reports, drawn, CORRECTED, PLAIN)
    column = {text: i for i, text in enumerate(found.texts)}
    known = {c.text: c for captions in drawn for c in captions}
    right = set(map(tuple, found.right.tolist()))
    for image, report in enumerate(reports):
        own = {c.text for c in (*report.captions, *drawn[image])}
        for text, caption in known.items():
            said = [[s for s in report.statements if s.finding == t.finding] for t in caption.statements]
            parts = [compare(t, k) for t, k in zip(caption.statements, said, strict=True)]
            expected = Relation.RIGHT if text in own else min(parts, default=Relation.WRONG)
            assert ((image, column[text]) in right) == (expected is Relation.RIGHT)
            assert bool(found.wrong[image, column[text]]) == (expected is Relation.WRONG)


def test_draws_are_uniform_and_lose_their_place_by_chance() -> None:
    report = report_captions(REPORT, CORRECTED, PLAIN)
    captions = report.captions
    one = replace(CORRECTED, captions_per_image=1)
    counts: Counter[str] = Counter()
    for seed in range(2000):
        (caption,) = draw(report, one, PLAIN, np.random.default_rng(seed))
        counts[caption.text] += 1
    shares = {text: n / 2000 * len(captions) for text, n in counts.items()}
    assert shares["no pneumothorax"] == pytest.approx(1, abs=0.15)
    assert shares["there is pleural effusion"] == pytest.approx(0.5, abs=0.12)
    assert shares["there is pleural effusion of left side"] == pytest.approx(0.5, abs=0.12)
    several = draw(report, replace(CORRECTED, captions_per_image=99), PLAIN, np.random.default_rng(0))
    assert len(several) == len(captions)


# -- pictures ----------------------------------------------------------------------------------------------------------


def square(side: int = 48) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return np.asarray(127 + 60 * np.sin(x / 5) + 60 * np.cos(y / 7), dtype=np.uint8)


@settings(deadline=None, max_examples=30)
@given(st.floats(-30, 30), st.integers(-5, 5), st.integers(-5, 5), st.floats(0.9, 1.1))
def test_the_affine_map_is_torchvisions(angle: float, x: int, y: int, scale: float) -> None:
    transforms = pytest.importorskip("torchvision.transforms.functional")
    image = Pil.fromarray(square())
    theirs = transforms.affine(image, angle, [x, y], scale, [0.0, 0.0], fill=0)
    assert np.mean(np.asarray(affine(image, angle, (x, y), scale)) != np.asarray(theirs)) < 0.01


def test_without_variation_the_augmentation_is_the_crop_of_test_time(tmp_path: Path) -> None:
    still = replace(
        PUBLISHED, crop=False, flip=0.0, degrees=0.0, translate=0.0, scale=(1.0, 1.0), brightness=0.0, contrast=0.0
    )
    found = augment(square(), 42, still, np.random.default_rng(0))
    np.testing.assert_array_equal(found, centre(square(), 42))
    mirrored = augment(square(), 42, replace(still, flip=1.0), np.random.default_rng(0))
    np.testing.assert_array_equal(mirrored, centre(square(), 42)[:, ::-1])


def test_every_variation_varies() -> None:
    still = replace(
        PUBLISHED, crop=False, flip=0.0, degrees=0.0, translate=0.0, scale=(1.0, 1.0), brightness=0.0, contrast=0.0
    )
    for change in (
        {"crop": True}, {"flip": 0.5}, {"degrees": 30.0}, {"translate": 0.1}, {"scale": (0.9, 1.1)},
        {"brightness": 0.2}, {"contrast": 0.2},
    ):  # fmt: skip
        training = replace(still, **change)  # type: ignore[arg-type]
        seen = {augment(square(), 42, training, np.random.default_rng(seed)).tobytes() for seed in range(12)}
        assert len(seen) > 1, change
        assert augment(square(), 42, training, np.random.default_rng(3)).dtype == np.uint8


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_report_phantoms(folder, train=20, valid=6, seed=2, size=100, workers=1)
    return folder / "manifest.csv"


def test_validation_sees_images_as_predictions_do(manifest: Path) -> None:
    training = replace(CORRECTED, batch_sizes=((0, 4),), valid_batch=4)
    sets = report_sets(manifest, training, PLAIN)
    data = ReportData(sets.valid, PLAIN, training, augmented=False)
    for batch in data.stream(0, [[2, 5]]):
        expected = [prepare(read_image(sets.valid[i].path), input_spec(PLAIN))[0] for i in (2, 5)]
        np.testing.assert_allclose(normalised(batch.images).numpy(), np.stack(expected), atol=1e-5)
    assert sorted(row for part in data.fixed() for row in part) == list(range(6))


@pytest.mark.parametrize("workers", [0, 2])
def test_streams_depend_on_seed_and_epoch_alone(manifest: Path, workers: int) -> None:
    training = replace(CORRECTED, batch_sizes=((0, 4),), workers=workers)
    sets = report_sets(manifest, training, PLAIN)
    data = ReportData(sets.train, PLAIN, training, augmented=True)
    alone = ReportData(sets.train, PLAIN, replace(training, workers=0), augmented=True)
    whole, later = list(data.stream(1, data.order(1))), list(alone.stream(1, alone.order(1)[2:]))
    assert len(whole) == 5
    for a, b in zip(whole[2:], later, strict=True):
        assert torch.equal(a.images, b.images)
        assert a.captions.texts == b.captions.texts
    halves = [list(alone.stream(1, alone.order(1), rank, 2)) for rank in (0, 1)]
    for a, b, c in zip(whole, *halves, strict=True):
        assert torch.equal(a.images, torch.cat([b.images, c.images]))
        assert a.captions.texts == b.captions.texts == c.captions.texts
    assert data.order(1) != data.order(2)
    assert sorted(row for rows in data.order(1) for row in rows) == list(range(20))


@given(st.integers(0, 50), st.integers(1, 9))
def test_shares_are_the_whole_in_order(count: int, world: int) -> None:
    parts = [share(range(count), rank, world) for rank in range(world)]
    assert [i for part in parts for i in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
