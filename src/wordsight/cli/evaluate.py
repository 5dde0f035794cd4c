"""`wordsight evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wordsight.cli.parser import (
    CommandParser,
    add_looking,
    add_reading,
    add_switch,
    path_or_none,
    use_threads,
    window_of,
)
from wordsight.cli.show import show_study
from wordsight.study.options import EvaluateOptions, Split

DESCRIPTION = (
    "Measure trained runs on labelled images: AUROC and average precision of images and, where there are masks, of "
    "pixels, PRO, all with bootstrap intervals; results.json, predictions.csv, heatmaps and report.html are written. "
    "Several runs, or a folder of several draws, also give mean and standard deviation."
)


def parser() -> CommandParser:
    """Flags of the command."""
    p = CommandParser("evaluate", "RUN [RUN ...] --data DATA [options]", DESCRIPTION, config=True)
    p.add_argument("runs", type=str, nargs="+", help="run folders, or folders of several draws")
    p.add_argument(
        "--data",
        type=str,
        default="data",
        help="folder that holds <Name>_AD folders, a folder with good/ and "
        "Ungood/ (or normal/ and abnormal/), or a manifest (.csv, .parquet) with labels",
    )
    add_switch(p, "--allow-outside", "a manifest may name files outside its folder", default=False)
    p.add_argument("--target", type=str | None, default=None, help="set in that folder; null: the one trained for")
    p.add_argument("--split", type=Split, default="test", help="which part of the set")
    p.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="output folder; null: the run's own, or for other data evaluation-<set>-<split> inside it",
    )
    p.add_argument(
        "--transductive",
        type=bool | None,
        default=None,
        help="scale scores by their range over the test images, the papers' protocol; null: as the run was trained",
    )
    p.add_argument(
        "--regions",
        type=str | None,
        default=None,
        help="folder of organ masks with the images' file names: pixels are also measured inside them",
    )
    p.add_argument(
        "--patient-pattern",
        type=str | None,
        default=None,
        help="regular expression with one group that finds the patient in a file name, for intervals by patient",
    )
    p.add_argument("--bootstrap", type=int, default=1000, help="draws of the 95 % intervals; 0: none")
    p.add_argument(
        "--heatmaps", type=int | None, default=None, help="heatmap files per run, highest scores first; null: all"
    )
    add_reading(p, "as the run was trained")
    add_looking(p)
    return p


def main(argv: Sequence[str]) -> int:
    """Measure and print the table."""
    args = parser().parse_args(list(argv))
    use_threads(args.threads)
    from wordsight.study import evaluate_study

    wanted = EvaluateOptions(
        runs=tuple(Path(run).expanduser() for run in args.runs),
        data=Path(args.data).expanduser(),
        target=args.target,
        split=args.split,
        out=path_or_none(args.out),
        weights=path_or_none(args.weights),
        device=args.device,
        precision=args.precision,
        runtime=args.runtime,
        transductive=args.transductive,
        regions=path_or_none(args.regions),
        patient_pattern=args.patient_pattern,
        bootstrap=args.bootstrap,
        heatmaps=args.heatmaps,
        eval_batch=args.batch,
        workers=args.workers,
        allow_outside=args.allow_outside,
        window=window_of(args.window),
        frame=args.frame,
    )
    show_study(evaluate_study(wanted))
    return 0
