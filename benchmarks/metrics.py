"""How fast the pixel metrics are against scikit-learn and the definition, in one run: `python benchmarks/metrics.py`.

Ratios are what to look at; absolute times depend on the machine. Values are compared too. Last table, one core of
a busy two-core machine, NumPy 2.4, scikit-learn 1.9:

    100 images of 240 x 240, 1.4% abnormal pixels
    pixel AUROC                      0.273 s   scikit-learn     8.691 s      31.9 x   difference 1.1e-16
    pixel average precision          0.274 s   scikit-learn     9.284 s      33.9 x   difference 2.8e-17
    PRO, 4 images of 20 x 20         0.009 s     definition     0.247 s      28.3 x   difference 5.6e-17
    PRO                              0.418 s
    all three, 1000 draws            1.632 s
    1000 draws of an AUROC           0.083 s   scikit-learn    16.314 s     196.8 x   difference 0.0e+00
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from sklearn.metrics import average_precision_score, roc_auc_score

import reference
from wordsight.metrics.intervals import bootstrap_values
from wordsight.metrics.pixels import pixel_auroc, pixel_average_precision, pro
from wordsight.metrics.ranking import weighted_auroc
from wordsight.metrics.summary import pixel_numbers


def example(images: int, side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth maps (N, h, w) with one square lesion in every second image, about 1.5 % of the pixels."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((images, side, side), dtype=bool)
    edge = max(2, side // 6)
    for mask in masks[::2]:
        row, column = rng.integers(0, side - edge, 2)
        mask[row : row + edge, column : column + edge] = True
    maps = rng.normal(size=masks.shape).astype(np.float32)
    return maps + masks, masks


def timed(work: Callable[[], float]) -> tuple[float, float]:
    """(value, seconds)."""
    start = time.perf_counter()
    value = float(work())
    return value, time.perf_counter() - start


def row(name: str, ours: Callable[[], float], other: str, theirs: Callable[[], float]) -> None:
    """Print one comparison."""
    (value, fast), (expected, slow) = timed(ours), timed(theirs)
    difference = abs(value - expected)
    print(f"{name:28} {fast:9.3f} s {other:>14} {slow:9.3f} s {slow / fast:9.1f} x   difference {difference:.1e}")


def main() -> None:
    """Run all comparisons and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--side", type=int, default=240)
    arguments = parser.parse_args()
    maps, masks = example(arguments.images, arguments.side)
    print(f"{arguments.images} images of {arguments.side} x {arguments.side}, {masks.mean():.1%} abnormal pixels")
    truth, flat = masks.ravel(), maps.ravel()
    row("pixel AUROC", partial(pixel_auroc, maps, masks), "scikit-learn", partial(roc_auc_score, truth, flat))
    row(
        "pixel average precision",
        partial(pixel_average_precision, maps, masks),
        "scikit-learn",
        partial(average_precision_score, truth, flat),
    )
    small, small_masks = example(4, 20)
    row(
        "PRO, 4 images of 20 x 20",
        partial(pro, small, small_masks),
        "definition",
        partial(reference.pro, small, small_masks),
    )
    print(f"{'PRO':28} {timed(partial(pro, maps, masks))[1]:9.3f} s")
    groups = [str(i) for i in range(len(maps))]
    seconds = timed(lambda: pixel_numbers(maps, masks, groups)["pro"].value)[1]
    print(f"{'all three, 1000 draws':28} {seconds:9.3f} s")
    rng = np.random.default_rng(0)
    labels, scores = np.arange(1000) % 2, rng.normal(size=1000)
    names = [str(i) for i in range(1000)]
    row(
        "1000 draws of an AUROC",
        lambda: bootstrap_values(partial(weighted_auroc, labels, scores), names).mean(),
        "scikit-learn",
        lambda: bootstrap_values(partial(by_scikit_learn, labels, scores), names).mean(),
    )


def by_scikit_learn(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC of every row of weights, one call each."""
    return np.array([roc_auc_score(labels, scores, sample_weight=w) for w in weights])


if __name__ == "__main__":
    main()
