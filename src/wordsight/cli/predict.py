"""`wordsight predict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wordsight.cli.parser import CommandParser, add_running, add_switch, path_or_none, use_threads
from wordsight.cli.show import say
from wordsight.study.options import PredictOptions

DESCRIPTION = (
    "Scores and heatmaps (on each image's own grid) for images without labels: predictions.csv, predictions.json, "
    "heatmaps/ and report.html. Files that cannot be read are listed and the rest goes on; any number of images "
    "passes through bounded memory."
)


def parser() -> CommandParser:
    """Flags of the command."""
    p = CommandParser("predict", "SOURCE --model RUN [options]", DESCRIPTION, config=True)
    p.add_argument(
        "source",
        type=str,
        help="an image (PNG, JPEG, TIFF, BMP, DICOM, NIfTI), a folder of images or a "
        "DICOM tree (all subfolders), or a manifest (.csv, .parquet) with a column path",
    )
    p.add_argument("--model", type=str, required=True, help="run folder of a trained detector")
    p.add_argument("--out", type=str | None, default=None, help="output folder; null: predictions/<source's name>")
    p.add_argument(
        "--weights", type=str | None, default=None, help="file of the CLIP where it is not where training found it"
    )
    add_switch(p, "--heatmaps", "write heatmaps as PNG")
    add_switch(p, "--all-frames", "every frame or slice of files that hold several, not the first alone", default=False)
    p.add_argument("--batch", type=int, default=8, help="images at a time")
    add_running(p)
    return p


def main(argv: Sequence[str]) -> int:
    """Predict and say where the results lie."""
    args = parser().parse_args(list(argv))
    use_threads(args.threads)
    from wordsight.study import predict_study

    wanted = PredictOptions(
        run=Path(args.model).expanduser(),
        source=Path(args.source).expanduser(),
        out=path_or_none(args.out),
        weights=path_or_none(args.weights),
        device=args.device,
        heatmaps=args.heatmaps,
        all_frames=args.all_frames,
        eval_batch=args.batch,
    )
    study = predict_study(wanted)
    if study.notes:
        say(f"{len(study.notes)} images could not be read:")
        for note in study.notes:
            say(f"  {note}")
    print(f"predictions: {study.folder / 'predictions.csv'}")
    print(f"report: {study.report}")
    return 0
