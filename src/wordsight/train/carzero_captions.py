"""What is said of an image in training, and which captions of a batch are right or wrong for which image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wordsight.models.carzero.settings import CarZeroSettings
from wordsight.models.carzero.text_input import clean
from wordsight.text.alignment import Statement, Status, align_sentence
from wordsight.text.sentences import report_sentences
from wordsight.train.carzero_relation import Relation, compare
from wordsight.train.carzero_settings import CarZeroTraining

_OPPOSITE = {Status.PRESENT: Status.ABSENT, Status.ABSENT: Status.PRESENT}


@dataclass(frozen=True, slots=True)
class Caption:
    """A text as it is tokenised, and what it says; aligned where the text is made of one statement."""

    text: str
    statements: tuple[Statement, ...] = ()
    aligned: bool = False


@dataclass(frozen=True, slots=True)
class ReportCaptions:
    """What a report gives to learn from: its captions, and everything it states."""

    captions: tuple[Caption, ...]
    statements: tuple[Statement, ...] = ()


def report_captions(
    report: str, training: CarZeroTraining, settings: CarZeroSettings, prompts: Sequence[str] | None = None
) -> ReportCaptions:
    """Captions of one report as the training asks for them; none where it has no sentence.

    prompts: sentences made of it beforehand. They take the place of those that the rules make, and of all that the
    rules read about the findings they name; in the published style they take the place of the whole report.
    """
    if training.style == "published":
        told = report if prompts is None else "".join(f"{prompt}. " for prompt in prompts)
        texts = report_sentences(told, "published", max_word_num=training.max_word_num)
        return ReportCaptions(tuple(Caption(text) for text in texts))
    sentences = [(s, align_sentence(s)) for s in report_sentences(report, marks="keep")]
    statements = tuple(dict.fromkeys(statement for _, found in sentences for statement in found))
    captions: list[Caption] = []
    if training.captions != "aligned":
        plain = report_sentences(report)
        captions += [Caption(clean(t, settings), found) for t, (_, found) in zip(plain, sentences, strict=True)]
    if prompts is not None:
        prepared = [prepared_caption(prompt, settings) for prompt in prompts]
        captions += prepared
        statements = _corrected(statements, prepared)
    elif training.captions != "sentences":
        captions += [aligned_caption(statement, settings) for statement in statements]
    return ReportCaptions(tuple(c for c in dict.fromkeys(captions) if c.text), statements)


def prepared_caption(prompt: str, settings: CarZeroSettings) -> Caption:
    """A prompt in its own words; aligned where the rules read one statement in it."""
    found = align_sentence(prompt)
    return Caption(clean(prompt, settings), found, aligned=len(found) == 1)


def _corrected(statements: Sequence[Statement], prepared: Sequence[Caption]) -> tuple[Statement, ...]:
    """What the prompts state, and what the rules read in the report about other findings."""
    own = dict.fromkeys(statement for caption in prepared for statement in caption.statements)
    named = {statement.finding for statement in own}
    return (*own, *(statement for statement in statements if statement.finding not in named))


def aligned_caption(statement: Statement, settings: CarZeroSettings) -> Caption:
    """The prompt of a statement, cleaned as prompts are."""
    return Caption(clean(statement.sentence(), settings), (statement,), aligned=True)


def draw(
    report: ReportCaptions, training: CarZeroTraining, settings: CarZeroSettings, rng: np.random.Generator
) -> list[Caption]:
    """Different captions of one image, each equally likely; aligned ones lose their place by chance.

    A place stays where the report does not say the same without it: "no left effusion" is not "no effusion".
    """
    captions = report.captions
    count = min(training.captions_per_image, len(captions))
    chosen = [captions[int(i)] for i in rng.choice(len(captions), size=count, replace=False)]
    if not training.drop_place:
        return chosen
    bare = rng.random(count) < training.drop_place
    return [_without_place(c, report, settings) if b and c.aligned else c for c, b in zip(chosen, bare, strict=True)]


def _without_place(caption: Caption, report: ReportCaptions, settings: CarZeroSettings) -> Caption:
    bare = replace(caption.statements[0], place=None)
    said = [s for s in report.statements if s.finding == bare.finding]
    return aligned_caption(bare, settings) if compare(bare, said) is Relation.RIGHT else caption


def opposite(caption: Caption, settings: CarZeroSettings) -> Caption | None:
    """The caption that denies an aligned one anywhere, or states what it denies where it denies it.

    None for sentences and doubts.
    """
    if not caption.aligned or caption.statements[0].status not in _OPPOSITE:
        return None
    statement = caption.statements[0]
    place = statement.place if statement.status is Status.ABSENT else None
    return aligned_caption(Statement(statement.finding, _OPPOSITE[statement.status], place), settings)


@dataclass(frozen=True, slots=True)
class CaptionBatch:
    """Texts of a batch of B images, and how they belong to the images.

    texts: T. right: (n, 2) int64 pairs (image, text). wrong: (B, T) bool.
    """

    texts: tuple[str, ...]
    right: Tensor
    wrong: Tensor


def match(
    reports: Sequence[ReportCaptions],
    drawn: Sequence[Sequence[Caption]],
    training: CarZeroTraining,
    settings: CarZeroSettings,
) -> CaptionBatch:
    """The drawn captions of every image of a batch against all images; see CarZeroTraining.negatives."""
    if training.negatives == "all":
        owners = [image for image, captions in enumerate(drawn) for _ in captions]
        right = torch.tensor([owners, list(range(len(owners)))]).T
        wrong = torch.ones(len(reports), len(owners), dtype=torch.bool)
        wrong[right[:, 0], right[:, 1]] = False
        return CaptionBatch(tuple(c.text for captions in drawn for c in captions), right, wrong)
    texts = {caption.text: caption for captions in drawn for caption in sorted(captions, key=lambda c: c.aligned)}
    if training.contradictions:
        added = [opposite(caption, settings) for caption in texts.values()]
        texts = {caption.text: caption for caption in added if caption is not None} | texts
    relations = _relations(reports, list(texts.values()))
    column = {text: i for i, text in enumerate(texts)}
    for image, captions in enumerate(drawn):
        for caption in captions:
            relations[image, column[caption.text]] = Relation.RIGHT
    return CaptionBatch(tuple(texts), (relations == Relation.RIGHT).nonzero(), relations == Relation.WRONG)


def _relations(reports: Sequence[ReportCaptions], texts: Sequence[Caption]) -> Tensor:
    """(B, T) Relation; only texts that share a finding or their words with a report need a look of their own."""
    silent = _Known(ReportCaptions(()))
    default = [int(silent.relation(caption)) for caption in texts]
    naming: dict[str, set[int]] = {}
    for column, caption in enumerate(texts):
        for key in (caption.text, *(statement.finding for statement in caption.statements)):
            naming.setdefault(key, set()).add(column)
    rows = []
    for report in reports:
        known, row = _Known(report), default.copy()
        for column in {c for key in known.topics() for c in naming.get(key, ())}:
            row[column] = int(known.relation(texts[column]))
        rows.append(row)
    return torch.tensor(rows)


class _Known:
    """What one report says, ready to be compared with captions."""

    def __init__(self, report: ReportCaptions) -> None:
        self._texts = {caption.text for caption in report.captions}
        self._said: dict[str, list[Statement]] = {}
        for statement in report.statements:
            self._said.setdefault(statement.finding, []).append(statement)

    def topics(self) -> set[str]:
        """Captions and findings of which it says anything."""
        return self._texts | self._said.keys()

    def relation(self, caption: Caption) -> Relation:
        """A sentence is right if all it says is, and wrong if any of it is; one that says nothing known is wrong."""
        if caption.text in self._texts:
            return Relation.RIGHT
        if not caption.statements:
            return Relation.WRONG
        return min(compare(statement, self._said.get(statement.finding, ())) for statement in caption.statements)
