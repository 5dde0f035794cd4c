"""CARZero on chest phantoms with known findings: is each told from its sentence, from its denial, and pointed at?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordsight.data.phantoms.reports import FINDINGS, ReportPhantom, State
from wordsight.metrics import auroc, pointing_hit
from wordsight.progress import track
from wordsight.types import Image, PromptSet

if TYPE_CHECKING:
    from wordsight.models.carzero.detector import CarZero

WORDS = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Consolidation": "consolidation",
    "Edema": "pulmonary edema",
    "Effusion": "pleural effusion",
    "Hernia": "hiatal hernia",
    "Mass": "mass",
    "Nodule": "nodule",
    "Pacemaker": "pacemaker",
    "Pneumothorax": "pneumothorax",
}
STATED = tuple((f"There is {WORDS[name]}",) for name in FINDINGS)
DENIED = tuple((f"There is no {WORDS[name]}",) for name in FINDINGS)
BATCH = 32


@dataclass(frozen=True)
class FindingResult:
    """Numbers of one finding on phantoms.

    present: images that have it. stated, denied, pair: AUROC of "There is X", of "There is no X" (good is near 0) and
    of the probability of the first against the second; NaN where all images have it or none. pointing: share of the
    images with it whose map points into one of its boxes (`pointing_hit` of the largest cell's centre, tolerance 0),
    None without such images. Uncertain findings count neither way.
    """

    finding: str
    present: int
    stated: float
    denied: float
    pair: float
    pointing: float | None


def measure(detector: CarZero, phantoms: Sequence[ReportPhantom], *, show: bool = False) -> list[FindingResult]:
    """All numbers of a detector on these phantoms, in the order of FINDINGS."""
    stated = detector.encode_prompts(PromptSet(FINDINGS, STATED, DENIED))
    denied = detector.encode_prompts(PromptSet(FINDINGS, DENIED))
    pairwise = replace(detector, prompts=None, scores="pair")
    grounding = replace(detector, prompts=None, scores="logit", maps=True)
    scores: list[list[NDArray[np.float32]]] = [[], [], []]
    hits: dict[str, list[bool]] = {name: [] for name in FINDINGS}
    starts = range(0, len(phantoms), BATCH)
    for start in track(starts, "measuring", unit="batches") if show else starts:
        part = phantoms[start : start + BATCH]
        features = detector.encode([Image((p.pixels / 255).astype(np.float32)) for p in part])
        predictions = grounding.answer(features, stated)
        scores[0].append(np.stack([prediction.scores for prediction in predictions]))
        for kept, of, asked in zip(scores[1:], (detector, pairwise), (denied, stated), strict=True):
            kept.append(of.score(features, asked))
        for phantom, prediction in zip(part, predictions, strict=True):
            for finding, truth in phantom.findings.items():
                if truth.state is State.PRESENT and truth.boxes:
                    hits[finding].append(pointing_hit(prediction.peak(finding), truth.boxes))
    columns = [np.concatenate(kept) for kept in scores]
    return [_result(name, i, phantoms, columns, hits[name]) for i, name in enumerate(FINDINGS)]


def _result(
    name: str, i: int, phantoms: Sequence[ReportPhantom], columns: list[NDArray[np.float32]], hits: list[bool]
) -> FindingResult:
    states = [phantom.findings[name].state for phantom in phantoms]
    sure = np.array([state is not State.UNCERTAIN for state in states])
    labels = np.array([state is State.PRESENT for state in states], dtype=np.int64)[sure]
    stated, denied, pair = (auroc(labels, column[sure, i]) for column in columns)
    return FindingResult(name, int(labels.sum()), stated, denied, pair, float(np.mean(hits)) if hits else None)


def means(results: Sequence[FindingResult]) -> dict[str, float]:
    """Means over the findings that have the number, each counting the same."""
    columns: dict[str, Callable[[FindingResult], float | None]] = {
        "stated": lambda r: r.stated,
        "denied": lambda r: r.denied,
        "pair": lambda r: r.pair,
        "pointing": lambda r: r.pointing,
    }
    found = {
        name: [v for r in results if (v := value(r)) is not None and not np.isnan(v)] for name, value in columns.items()
    }
    return {name: float(np.mean(values)) for name, values in found.items() if values}
