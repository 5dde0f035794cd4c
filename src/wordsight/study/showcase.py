"""The whole way on synthetic images: draw them, learn from four of each class, measure, report. No data, no weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wordsight.study.options import Study, TrainOptions

SETS = ("Brain", "Chest")
"""One set with masks and one with image labels alone."""
VALID, TEST, SHOTS, EPOCHS, SEED = 16, 20, 4, 6, 0


def demo(
    out: Path,
    *,
    architecture: str = "tiny",
    weights: Path | None = None,
    sets: tuple[str, ...] = SETS,
    epochs: int = EPOCHS,
    counts: tuple[int, int] = (VALID, TEST),
    say: Callable[[str], None] = print,
) -> Study:
    """Draw phantom sets into `<out>/phantoms`, train 4-shot on each, and write one report for all into `out`.

    The images are synthetic: the numbers say that the software works and nothing about patients. A second call goes
    on where the first stopped. counts: images per class to choose from and to measure on. say: gets a line per step.
    Raises WeightsError if the packaged backbone is missing.
    """
    from wordsight.data.phantoms import write_phantoms
    from wordsight.report import write_evaluation
    from wordsight.study.backbone import find_weights
    from wordsight.study.train import train_study

    find_weights(architecture, weights)
    data = out / "phantoms"
    say(f"drawing {len(sets)} sets of synthetic images into {data}")
    write_phantoms(data, names=sets, valid=counts[0], test=counts[1], seed=SEED, workers=1)
    studies = []
    for name in sets:
        say(f"{name}: training on {SHOTS} normal and {SHOTS} abnormal images, then measuring {2 * counts[1]} others")
        options = TrainOptions(
            name,
            data,
            out / "runs" / f"{name}-{SHOTS}shot".lower(),
            SHOTS,
            architecture=architecture,
            weights=weights,
            training={"epochs": epochs},
        )
        studies.append(train_study(options))
    evaluations = [evaluation for study in studies for evaluation in study.evaluations]
    report = write_evaluation(evaluations, out)
    return Study(tuple(evaluations), out, Path(report), tuple(n for study in studies for n in study.notes))
