"""`wordsight score`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wordsight.cli.parser import CommandParser, add_switch, path_or_none

if TYPE_CHECKING:
    from rich.table import Table

    from wordsight.metrics import Number
    from wordsight.study.pointing import Pointing
    from wordsight.study.score import Score

DESCRIPTION = (
    "Score a CSV file of predictions that anybody made, by the protocol of a chest x-ray benchmark: AUROC, area under "
    "the precision-recall points by the trapezoid rule and average precision of every finding, their means, and 95 % "
    "bootstrap intervals over patients, reports or studies; with --peaks the pointing game. Columns and rows are "
    "matched by name where the file has "
    "names; only a file without any is read by position, and that is said."
)
ProtocolName = Literal["openi", "padchest", "chestxray14", "chexpert5", "chexpert", "chexpert5x200", "chestxdet10"]
TITLES = {
    "auroc": "AUROC", "auprc": "AUPRC (trapezoid)", "ap": "AP", "sensitivity": "sensitivity",
    "specificity": "specificity", "f1": "F1", "mcc": "MCC", "kappa": "kappa",
}  # fmt: skip


def parser() -> CommandParser:
    """Flags of the command."""
    p = CommandParser("score", "PREDICTIONS LABELS --protocol NAME [options]", DESCRIPTION)
    p.add_argument("predictions", type=str, help="CSV, a row per image, a column per finding, with or without names")
    p.add_argument("labels", type=str, help="the label file that the benchmark comes with, see docs/protocols.md")
    p.add_argument("--protocol", type=ProtocolName, required=True, help="the benchmark")
    p.add_argument(
        "--order", type=str | None, default=None, help="CSV with the image of each row, for predictions without names"
    )
    p.add_argument(
        "--peaks", type=str | None, default=None, help="predictions.json of the maps: the pointing game (chestxdet10)"
    )
    p.add_argument("--tolerance", type=float, default=15.0, help="its second reading: pixels around a box that count")
    p.add_argument("--against", type=str | None, default=None, help="another prediction file: test the difference")
    p.add_argument("--out", type=str | None, default=None, help="folder for results.json and scores.csv")
    p.add_argument("--draws", type=int, default=1000, help="bootstrap draws of the 95 % intervals; 0: none")
    p.add_argument("--seed", type=int, default=0, help="seed of the draws")
    add_switch(p, "--frontal", "leave lateral images out (chexpert, chexpert5)", default=False)
    add_switch(
        p, "--readings", "predictions are yes or no (1, 0): sensitivity, specificity, F1, MCC, kappa", default=False
    )
    return p


def main(argv: Sequence[str]) -> int:
    """Score and print the table."""
    args = parser().parse_args(list(argv))
    from wordsight.study.score import ScoreOptions, score_predictions, write_score

    options = ScoreOptions(
        predictions=Path(args.predictions).expanduser(),
        labels=Path(args.labels).expanduser(),
        protocol=args.protocol,
        order=path_or_none(args.order),
        against=path_or_none(args.against),
        out=path_or_none(args.out),
        draws=args.draws,
        seed=args.seed,
        frontal=args.frontal,
        readings=args.readings,
        peaks=path_or_none(args.peaks),
        tolerance=args.tolerance,
    )
    score = score_predictions(options)
    show_score(score)
    if options.out is not None:
        for path in write_score(score, options.out):
            print(f"written: {path}")
    return 0


def show_score(score: Score) -> None:
    """The table of findings and means, the pooled numbers, the comparison, and how all of it was made."""
    _print(_numbers(score))
    if score.pointing is not None:
        _print(_pointing(score, score.pointing))
    if score.differences:
        _print(_differences(score))
    for name, number in score.pooled.items():
        print(f"{_pooled_title(name)}: {_cell(number)}")
    print(f"intervals: {score.interval}")
    for note in (*score.notes, *_mean_notes(score)):
        print(f"note: {note}")


def _mean_notes(score: Score) -> list[str]:
    """What to know about the means; notes of single findings are in results.json."""
    told: list[str] = []
    for name, chosen in score.means.items():
        for metric in score.numbers.metrics:
            number = score.numbers.mean(metric, chosen)
            told += [f"{name} {TITLES[metric]}: {number.note}"] if number.defined and number.note else []
    return told


def _pooled_title(name: str) -> str:
    """The words for a number over all findings together."""
    metric = name.removeprefix("micro_")
    return name if metric == name else f"micro {TITLES[metric]}"


def _print(table: Table) -> None:
    from rich.console import Console

    # off a terminal rich would break lines at 80 columns
    Console(width=None if sys.stdout.isatty() else 60 + 26 * len(table.columns)).print(table)


def _cell(number: Number) -> str:
    """Four decimals, as such tables are published; the reason where a number is undefined."""
    if not number.defined:
        return str(number)
    if number.low != number.low or number.high != number.high:
        return f"{number.value:.4f}"
    return f"{number.value:.4f} [{number.low:.4f}, {number.high:.4f}]"


def _numbers(score: Score) -> Table:
    from rich.table import Table

    labels, numbers = score.labels, score.numbers
    groups = f"{len(set(labels.groups))} {labels.unit}"
    rows = f"{len(labels.names)} {labels.rows}"
    title = f"{labels.dataset}: {rows if labels.unit == labels.rows else f'{rows}, {groups}'}"
    table = Table(title=title, title_justify="left")
    table.add_column("finding")
    table.add_column("positives", justify="right")
    for metric in numbers.metrics:
        table.add_column(TITLES[metric])
    for f, finding in enumerate(labels.findings):
        row = [_cell(numbers.number(metric, f)) for metric in numbers.metrics]
        table.add_row(finding, str(numbers.positives[f]), *row)
    table.add_section()
    for name, chosen in score.means.items():
        row = [_cell(numbers.mean(metric, chosen)) for metric in numbers.metrics]
        table.add_row(f"{name} ({len(chosen)})", "", *row)
    return table


def _pointing(score: Score, game: Pointing) -> Table:
    from rich.table import Table

    table = Table(title="pointing game: share of the images with boxes", title_justify="left")
    for column in ("finding", "images", "strict", f"within {game.tolerance:g} pixels"):
        table.add_column(column)
    for finding, numbers in zip(score.labels.findings, game.findings, strict=True):
        table.add_row(finding, str(next(iter(numbers.values())).n), *map(_cell, numbers.values()))
    table.add_section()
    table.add_row("macro", "", *map(_cell, game.macro.values()))
    return table


def _differences(score: Score) -> Table:
    from rich.table import Table

    table = Table(title="difference in AUROC to the other file", title_justify="left")
    for column in ("finding", "difference", "DeLong z", "p"):
        table.add_column(column)
    for name, difference in score.differences.items():
        test = difference.test
        found = ("", "") if test is None else (f"{test.z:.2f}", f"{test.p:.4f}")
        table.add_row(name, _cell(difference.number), *found)
    return table
