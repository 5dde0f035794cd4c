"""CARZero on chest phantoms it was not trained on: is each finding told from its sentence, its denial, and pointed at?

    python benchmarks/carzero_phantoms.py [RUN] [--count 500] [--json FILE]

RUN: the folder of a trained CARZero; without it, the small one of this package. Phantoms are drawn by `--seed`
(trainings use 1,000,000 and up). Per finding: AUROC of "There is X", of "There is no X" (good is near 0), of the
probability of the first against the second; and the pointing game, the share of images with the finding whose
attention is strongest inside one of its boxes. Uncertain findings count neither way.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from wordsight import load
from wordsight.data.phantoms.reports import draw_report_phantom
from wordsight.files import write_json
from wordsight.models.carzero.detector import CarZero
from wordsight.progress import track
from wordsight.study.phantom_findings import DENIED, STATED, FindingResult, means, measure

__all__ = ["DENIED", "STATED", "means", "measure", "table"]
FIRST_TRAINING_SEED = 1_000_000


def table(results: Sequence[FindingResult]) -> str:
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
