"""Radiology English for the findings of the chest phantoms: present, absent and uncertain, and how a report is put."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

MOST = 5  # sentences under FINDINGS; the impression adds one


@dataclass(frozen=True)
class Phrases:
    """Sentences about one finding and its noun for an impression; {side} {zone} {grade} {mm} are filled in."""

    present: tuple[str, ...]
    absent: tuple[str, ...]
    uncertain: tuple[str, ...]
    noun: str


@dataclass(frozen=True)
class Mention:
    """A finding to be written about: its state (present, absent, uncertain) and the words for its place and size."""

    name: str
    state: str
    words: Mapping[str, str | int]


PHRASES: Mapping[str, Phrases] = MappingProxyType(
    {
        "Cardiomegaly": Phrases(
            (
                "The heart is enlarged.",
                "There is {grade} cardiomegaly.",
                "The cardiac silhouette is enlarged.",
                "Heart size is increased.",
                "The cardiomediastinal silhouette shows {grade} enlargement of the heart.",
            ),
            ("Heart size is normal.", "The heart is not enlarged.", "Normal cardiac silhouette.", "No cardiomegaly."),
            ("Heart size is borderline.", "Possible mild cardiomegaly.", "The heart may be slightly enlarged."),
            "{grade} cardiomegaly",
        ),
        "Effusion": Phrases(
            (
                "There is a {grade} {side} pleural effusion.",
                "{grade} {side}-sided pleural effusion is seen.",
                "{grade} pleural effusion on the {side}.",
                "The {side} costophrenic angle is obscured by a {grade} pleural effusion.",
                "Fluid at the {side} lung base, in keeping with a {grade} effusion.",
            ),
            (
                "No pleural effusion.",
                "There is no pleural effusion.",
                "No effusion is seen.",
                "The costophrenic angles are sharp.",
            ),
            (
                "Possible small {side} effusion.",
                "A small {side} pleural effusion cannot be excluded.",
                "Questionable blunting of the {side} costophrenic angle.",
            ),
            "{grade} {side} pleural effusion",
        ),
        "Pneumothorax": Phrases(
            (
                "There is a {grade} {zone} {side} pneumothorax.",
                "{grade} {side} pneumothorax is present.",
                "A {grade} pneumothorax on the {side} with a visible pleural line.",
                "{side}-sided pneumothorax, {grade}.",
                "The {side} lung is partly collapsed by a {grade} pneumothorax.",
            ),
            ("No pneumothorax.", "There is no pneumothorax.", "No evidence of pneumothorax."),
            (
                "Possible tiny {side} apical pneumothorax.",
                "A small {side} pneumothorax cannot be excluded.",
                "Questionable {side} apical pleural line.",
            ),
            "{grade} {side} pneumothorax",
        ),
        "Hernia": Phrases(
            (
                "There is a {grade} hiatal hernia.",
                "Retrocardiac air-fluid level, a {grade} hiatal hernia.",
                "{grade} hiatal hernia behind the heart.",
                "A hiatal hernia with an air-fluid level is seen.",
            ),
            ("No hiatal hernia.", "There is no hiatal hernia.", "No retrocardiac air-fluid level."),
            ("Possible hiatal hernia.", "A small hiatal hernia is questioned."),
            "{grade} hiatal hernia",
        ),
        "Pacemaker": Phrases(
            (
                "A {side} chest wall pacemaker is in place.",
                "{side}-sided pacemaker with its lead in the right ventricle.",
                "There is a pacemaker generator over the {side} chest.",
                "Cardiac pacing device from a {side} approach.",
            ),
            ("No pacemaker.", "There is no cardiac pacing device.", "No implanted device is seen."),
            (),
            "{side} pacemaker",
        ),
        "Mass": Phrases(
            (
                "There is a {mm} mm mass in the {side} {zone} lung zone.",
                "Large mass in the {side} {zone} zone.",
                "A well-defined {side} {zone} zone mass measures {mm} mm.",
                "{side} lung mass in the {zone} zone.",
            ),
            ("No lung mass.", "There is no pulmonary mass.", "No mass is seen."),
            (
                "Possible mass in the {side} {zone} zone.",
                "A {side} {zone} zone mass cannot be excluded.",
            ),
            "{side} {zone} zone mass",
        ),
        "Consolidation": Phrases(
            (
                "There is consolidation in the {side} {zone} lung zone.",
                "{side} {zone} zone consolidation with air bronchograms.",
                "Airspace consolidation is seen in the {side} {zone} zone.",
                "Patchy consolidation of the {side} lung, {zone} zone.",
            ),
            ("No consolidation.", "There is no focal consolidation.", "No airspace consolidation is seen."),
            (
                "Possible early consolidation in the {side} {zone} zone.",
                "Subtle {side} {zone} zone opacity may be consolidation.",
            ),
            "{side} {zone} zone consolidation",
        ),
        "Nodule": Phrases(
            (
                "There is a {mm} mm nodule in the {side} {zone} lung zone.",
                "{side} {zone} zone pulmonary nodule.",
                "A round nodule is seen in the {side} {zone} zone.",
                "Solitary nodule of the {side} lung, {zone} zone.",
            ),
            ("No lung nodule.", "There is no pulmonary nodule.", "No nodule is seen."),
            (
                "Possible nodule in the {side} {zone} zone.",
                "A small {side} {zone} zone nodule cannot be excluded.",
            ),
            "{side} {zone} zone nodule",
        ),
        "Atelectasis": Phrases(
            (
                "Linear atelectasis in the {side} {zone} zone.",
                "There is plate-like atelectasis of the {side} {zone} lung.",
                "Band of atelectasis in the {side} {zone} lung zone.",
                "{side} {zone} zone subsegmental atelectasis.",
            ),
            ("No atelectasis.", "There is no atelectasis.", "No linear atelectasis is seen."),
            (
                "Possible minor atelectasis in the {side} {zone} zone.",
                "Faint {side} {zone} zone band, atelectasis is questioned.",
            ),
            "{side} {zone} zone atelectasis",
        ),
        "Edema": Phrases(
            (
                "There is pulmonary edema.",
                "Bilateral perihilar haze, consistent with pulmonary edema.",
                "Bilateral interstitial edema is present.",
                "Vascular congestion and edema of both lungs.",
            ),
            ("No pulmonary edema.", "There is no pulmonary edema.", "No edema or vascular congestion."),
            ("Possible mild pulmonary edema.", "Mild interstitial edema cannot be excluded."),
            "pulmonary edema",
        ),
    }
)
TOGETHER: Sequence[tuple[str, frozenset[str]]] = (
    ("No pleural effusion or pneumothorax.", frozenset({"Effusion", "Pneumothorax"})),
    ("No focal consolidation or pulmonary edema.", frozenset({"Consolidation", "Edema"})),
    ("There is no consolidation, effusion or pneumothorax.", frozenset({"Consolidation", "Effusion", "Pneumothorax"})),
    ("No nodule or mass is seen.", frozenset({"Nodule", "Mass"})),
    ("The lungs are clear.", frozenset({"Consolidation", "Edema", "Mass", "Nodule", "Atelectasis"})),
)
UNREMARKABLE = ("No acute cardiopulmonary abnormality.", "No acute disease.", "Normal chest radiograph.")


def report_text(rng: np.random.Generator, mentions: Sequence[Mention]) -> str:
    """A report of two to six sentences: "FINDINGS: ...", a line break, "IMPRESSION: ...".

    Everything present or uncertain is written about, of what is absent a part. Every sentence has two words or more.
    """
    told = [_sentence(rng, m) for m in mentions if m.state != "absent"]
    absent = {m.name for m in mentions if m.state == "absent"}
    room = MOST - len(told)
    if room > 0:
        count = int(rng.integers(1, 4) if len(told) < 2 else rng.integers(0, 3))
        told += _negatives(rng, absent, min(count, room))
    if rng.random() < 0.5:
        told = [told[i] for i in rng.permutation(len(told))]
    for late in told[MOST:]:  # longer lists share a sentence
        place = int(rng.integers(MOST))
        told[place] = f"{told[place].removesuffix('.')}; {late[0].lower()}{late[1:]}"
    return f"FINDINGS: {' '.join(told[:MOST])}\nIMPRESSION: {_impression(rng, mentions)}"


def _filled(template: str, words: Mapping[str, str | int]) -> str:
    """The template with its words, single spaces and a capital letter."""
    text = " ".join(template.format(**words).split())
    return text[0].upper() + text[1:]


def _sentence(rng: np.random.Generator, mention: Mention) -> str:
    phrases = PHRASES[mention.name]
    templates = phrases.present if mention.state == "present" else phrases.uncertain
    return _filled(str(rng.choice(templates)), mention.words)


def _negatives(rng: np.random.Generator, absent: set[str], count: int) -> list[str]:
    """Up to `count` sentences about absent findings, none of which is named twice."""
    left = set(absent)
    told: list[str] = []
    while len(told) < count and left:
        common = [(text, names) for text, names in TOGETHER if names <= left]
        if common and rng.random() < 0.4:
            text, names = common[int(rng.integers(len(common)))]
        else:
            name = str(rng.choice(sorted(left)))
            text, names = str(rng.choice(PHRASES[name].absent)), frozenset({name})
        told.append(text)
        left -= names
    return told


def _impression(rng: np.random.Generator, mentions: Sequence[Mention]) -> str:
    """One sentence with up to three of the present findings, or what is possible, or that there is nothing."""
    nouns: dict[str, list[str]] = {
        state: [_filled(PHRASES[m.name].noun, m.words) for m in mentions if m.state == state]
        for state in ("present", "uncertain")
    }
    found = [nouns["present"][i] for i in rng.permutation(len(nouns["present"]))[:3]]
    if found:
        parts = [found[0], *(noun[0].lower() + noun[1:] for noun in found[1:])]
        return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1]))) + "."
    if nouns["uncertain"]:
        noun = nouns["uncertain"][0]
        return f"Possible {noun[0].lower()}{noun[1:]}."
    return str(rng.choice(UNREMARKABLE))
