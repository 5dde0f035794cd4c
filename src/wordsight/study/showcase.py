"""Both methods on synthetic images: draw them, learn or ask, measure, report. No data, no weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wordsight.data.phantoms.reports import ReportPhantom, State, draw_report_phantom
from wordsight.errors import WeightsError
from wordsight.study.options import AskOptions, PredictOptions, Study, TrainOptions

if TYPE_CHECKING:
    from wordsight.study.phantom_findings import FindingResult

SETS = ("Brain", "Chest")
"""One set with masks and one with image labels alone."""
VALID, TEST, SHOTS, EPOCHS, SEED = 16, 20, 4, 6, 0
CHESTS, SHOWN = 24, 3
"""Chest x-rays that CARZero is measured on, and how many of them are shown with a map."""


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


@dataclass(frozen=True, eq=False)
class Asked:
    """What CARZero said of the chest phantoms: numbers of each finding, the images, and the page of those shown."""

    results: tuple[FindingResult, ...]
    images: int
    weights: str
    folder: Path

    @property
    def report(self) -> Path:
        """The page with the maps."""
        return self.folder / "report.html"

    @property
    def heatmaps(self) -> tuple[Path, ...]:
        """The maps as PNG."""
        return tuple(sorted((self.folder / "heatmaps").rglob("*.png")))


def demo_carzero(
    out: Path, *, run: Path | None = None, count: int = CHESTS, say: Callable[[str], None] = print
) -> Asked | None:
    """Draw chest phantoms with reports into `<out>/chests`, ask a CARZero for every finding, measure it, show three.

    Nothing is learned: the network is that of a run folder, None for the small one of this package, which was trained
    on other phantoms. Written into `<out>/carzero` is what `wordsight predict` writes, of the first images with a
    finding, with the map of the highest score. say: gets a line per step. None where the small network is missing,
    which is said with how to make it.
    """
    from wordsight.data.phantoms import write_report_phantoms
    from wordsight.data.phantoms.report_files import MANIFEST, report_stream_index
    from wordsight.loading import load
    from wordsight.models.carzero.storage import tiny_folder
    from wordsight.study.phantom_findings import measure

    try:
        folder = tiny_folder() if run is None else run
    except WeightsError as error:
        say(f"CARZero is not shown. {error}")
        return None
    data = out / "chests"
    say(f"drawing {count} synthetic chest x-rays with reports into {data}")
    write_report_phantoms(data, train=0, valid=0, test=count, seed=SEED, workers=1)
    phantoms = [draw_report_phantom(SEED, report_stream_index("test", number)) for number in range(count)]
    say("CARZero: asking for every finding in words; nothing is trained")
    detector = load(folder)
    results = measure(detector, phantoms)
    table = _shown_rows(data / MANIFEST, phantoms)
    _ask_and_draw(folder, table, out / "carzero")
    return Asked(tuple(results), count, detector.weights_hash, out / "carzero")


def _shown_rows(manifest: Path, phantoms: Sequence[ReportPhantom]) -> Path:
    """A table, beside that of all, of the first images that have a finding."""
    from wordsight.data.manifest import read_manifest, write_manifest

    records = read_manifest(manifest)
    found = [any(truth.state is State.PRESENT for truth in phantom.findings.values()) for phantom in phantoms]
    chosen = [record for record, has in zip(records, found, strict=True) if has][:SHOWN]
    target = manifest.with_name("shown.csv")
    write_manifest(chosen or records[:SHOWN], target)
    return target


def _ask_and_draw(folder: Path, table: Path, out: Path) -> None:
    """What `wordsight predict` does with the table."""
    from wordsight.study.phantom_findings import WORDS
    from wordsight.study.predict import predict_study

    ask = AskOptions(prompts=", ".join(WORDS.values()), cache=out.with_name("cache"))
    predict_study(PredictOptions(str(folder), table, out, ask=ask, device="cpu", top=1, overwrite=True))
