"""CARZero on chest phantoms it was not trained on: is each finding told from its sentence, its denial, and pointed at?

    python benchmarks/carzero_phantoms.py [RUN] [--count 500] [--json FILE]

RUN: the folder of a trained CARZero; without it, the small one of this package. Phantoms are drawn by `--seed`
(trainings use 1,000,000 and up). Per finding: AUROC of "There is X", of "There is no X" (good is near 0), of the
probability of the first against the second; and the pointing game, the share of images with the finding whose
attention is strongest inside one of its boxes. Uncertain findings count neither way.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordsight import PromptSet, load
from wordsight.data.phantoms.reports import FINDINGS, ReportPhantom, State, draw_report_phantom
from wordsight.files import write_json
from wordsight.metrics import auroc, pointing_hit
from wordsight.models.carzero.detector import CarZero
from wordsight.progress import track
from wordsight.types import Image

FIRST_TRAINING_SEED = 1_000_000
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
class Result:
    """Numbers of one finding; pointing is None without an image that has it."""

    finding: str
    present: int
    stated: float
    denied: float
    pair: float
    pointing: float | None


def measure(detector: CarZero, phantoms: Sequence[ReportPhantom], *, show: bool = False) -> list[Result]:
    """All numbers of a detector on these phantoms, in the order of FINDINGS."""
    stated = detector.encode_prompts(PromptSet(FINDINGS, STATED, DENIED))
    denied = detector.encode_prompts(PromptSet(FINDINGS, DENIED))
    pairwise = replace(detector, prompts=None, scores="pair")
    scores: list[list[NDArray[np.float32]]] = [[], [], []]
    hits: dict[str, list[bool]] = {name: [] for name in FINDINGS}
    starts = range(0, len(phantoms), BATCH)
    for start in track(starts, "measuring", unit="batches") if show else starts:
        part = phantoms[start : start + BATCH]
        features = detector.encode([Image(p.pixels.astype(np.float32) / 255) for p in part])
        for kept, of, asked in zip(scores, (detector, detector, pairwise), (stated, denied, stated), strict=True):
            kept.append(of.score(features, asked))
        for phantom, maps in zip(part, detector.ground(features, stated), strict=True):
            for heatmap in maps:
                truth = phantom.findings[heatmap.finding]
                if truth.state is State.PRESENT and truth.boxes:
                    # boxes are half-open, the game counts edges in
                    boxes = np.array(truth.boxes) - [0, 0, 1, 1]
                    hits[heatmap.finding].append(pointing_hit(heatmap.values, boxes))
    columns = [np.concatenate(kept) for kept in scores]
    return [_result(name, i, phantoms, columns, hits[name]) for i, name in enumerate(FINDINGS)]


def _result(
    name: str, i: int, phantoms: Sequence[ReportPhantom], columns: list[NDArray[np.float32]], hits: list[bool]
) -> Result:
    states = [phantom.findings[name].state for phantom in phantoms]
    sure = np.array([state is not State.UNCERTAIN for state in states])
    labels = np.array([state is State.PRESENT for state in states], dtype=np.int64)[sure]
    values = [auroc(labels, column[sure, i]) for column in columns]
    return Result(name, int(labels.sum()), *values, pointing=float(np.mean(hits)) if hits else None)


def means(results: Sequence[Result]) -> dict[str, float]:
    """Means over the findings, each counting the same."""
    columns: dict[str, Callable[[Result], float | None]] = {
        "stated": lambda r: r.stated,
        "denied": lambda r: r.denied,
        "pair": lambda r: r.pair,
        "pointing": lambda r: r.pointing,
    }
    found = {name: [v for r in results if (v := value(r)) is not None] for name, value in columns.items()}
    return {name: float(np.nanmean(values)) for name, values in found.items() if values}


def table(results: Sequence[Result]) -> str:
    """Markdown."""
    lines = ["| finding | present | There is X | There is no X | pair | pointing |", "|---|---|---|---|---|---|"]
    for r in results:
        pointing = "-" if r.pointing is None else f"{r.pointing:.3f}"
        lines.append(f"| {r.finding} | {r.present} | {r.stated:.3f} | {r.denied:.3f} | {r.pair:.3f} | {pointing} |")
    found = means(results)
    cells = (f"{found[name]:.3f}" if name in found else "-" for name in ("stated", "denied", "pair", "pointing"))
    lines.append(f"| mean | | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="folder of a trained CARZero")
    parser.add_argument("--count", type=int, default=500, help="phantoms")
    parser.add_argument("--seed", type=int, default=0, help=f"of the phantoms, below {FIRST_TRAINING_SEED}")
    parser.add_argument("--size", type=int, default=224, help="of the phantoms, in pixels")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if not 0 <= options.seed < FIRST_TRAINING_SEED:
        parser.error(f"--seed: expected one that no training uses, 0 to {FIRST_TRAINING_SEED - 1}, got {options.seed}.")
    import torch

    torch.set_num_threads(options.threads)
    detector = load("carzero", weights="tiny") if options.run is None else load(options.run)
    assert isinstance(detector, CarZero)
    indices = track(range(options.count), "drawing")
    phantoms = [draw_report_phantom(options.seed, index, options.size) for index in indices]
    results = measure(detector, phantoms, show=True)
    print(f"{options.count} phantoms of {options.size} pixels, seed {options.seed}, weights {detector.weights_hash}\n")
    print(table(results))
    if options.json:
        values = {r.finding: {k: getattr(r, k) for k in r.__dataclass_fields__ if k != "finding"} for r in results}
        write_json(options.json, {"weights": detector.weights_hash, "findings": values, "mean": means(results)})


if __name__ == "__main__":
    main()
