"""`wordsight predict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from wordsight.cli.parser import (
    BACKBONE,
    CommandParser,
    add_looking,
    add_reading,
    add_switch,
    path_or_none,
    use_threads,
    window_of,
)
from wordsight.cli.show import say
from wordsight.study.options import AskOptions, PredictOptions

DESCRIPTION = (
    "Scores and heatmaps (on each image's own grid) for images without labels: predictions.csv, predictions.json, "
    "heatmaps/ and report.html. The detector is a trained run, or CARZero (--model carzero), which finds what it is "
    "asked for in words. Files that cannot be read are listed and the rest goes on; any number of images passes "
    "through bounded memory; after an interruption the same command goes on where it stopped."
)
WEIGHTS = (
    "CARZero: CARZero_best_model.ckpt, a .safetensors made of it, or tiny, the small network of this package; "
    f"a run: {BACKBONE}"
)


def parser() -> CommandParser:
    """Flags of the command."""
    p = CommandParser("predict", "SOURCE --model RUN|carzero [options]", DESCRIPTION, config=True)
    p.add_argument(
        "source",
        type=str,
        help="an image (PNG, JPEG, TIFF, BMP, DICOM, NIfTI), a folder of images or a "
        "DICOM tree (all subfolders), or a manifest (.csv, .parquet) with a column path",
    )
    p.add_argument("--model", type=str, required=True, help="run folder of train mla or train carzero, or carzero")
    p.add_argument("--out", type=str | None, default=None, help="output folder; null: predictions/<source's name>")
    _add_questions(p)
    add_switch(p, "--maps", "maps of where the detector looked; without them CARZero is faster")
    add_switch(p, "--heatmaps", "write maps as PNG")
    p.add_argument("--top", type=int | None, default=3, help="PNG files per image, highest scores first; null: all")
    add_switch(p, "--all-frames", "every frame or slice of files that hold several, not the first alone", default=False)
    add_switch(p, "--allow-outside", "a manifest may name files outside its folder", default=False)
    add_reading(p, "as the run was trained, else the file's own")
    add_switch(p, "--overwrite", "drop predictions that the output folder holds", default=False)
    add_looking(p, WEIGHTS)
    return p


def _add_questions(p: CommandParser) -> None:
    """Flags of CARZero alone."""
    group = p.add_argument_group("CARZero", "What it is asked, and how; a run of MLA-LP or MVFA takes none of these.")
    group.add_argument(
        "--text",
        type=str | None,
        default=None,
        help="folder of its text encoder (tokenizer and config.json), or its name in the Hugging Face cache",
    )
    add_switch(
        group, "--text-download", "fetch --text from the Hugging Face Hub (tokenizer and config.json)", default=False
    )
    group.add_argument(
        "--prompts",
        type=str | None,
        default=None,
        help="a shipped set (openi, chestxray14, chexpert5, chestxdet10, padchest), a .json file of finding -> "
        "sentences, findings ('edema, mass') or a sentence ('There is a mass in the left lung')",
    )
    group.add_argument(
        "--negatives", type=str | None, default=None, help=".json file of finding -> sentences that deny it, for pairs"
    )
    _add_scoring(group)


def _add_scoring(group: Any) -> None:
    """What becomes of CARZero's answers."""
    group.add_argument(
        "--scores",
        type=Literal["logit", "pair"],
        default="logit",
        help="logit, as published; pair: probability of 'There is X' against 'There is no X'",
    )
    group.add_argument(
        "--similarity",
        type=Literal["fusion", "global", "local", "both"],
        default="fusion",
        help="fusion: CARZero's score; for comparison the cosine of image and sentence (global), of the best word with "
        "what it attends to (local, 5 times a cosine), or their mean (both)",
    )
    group.add_argument(
        "--combine",
        type=Literal["mean", "max"],
        default="mean",
        help="of several sentences of a finding",
    )
    group.add_argument(
        "--map-style",
        type=Literal["smooth", "published"],
        default="smooth",
        help="maps smooth between cell centres, or each cell repeated, as published",
    )
    group.add_argument(
        "--settings",
        type=str | None,
        default=None,
        help="corrected (no word of a prompt gets lost), published, a variant (global, local, gl, mlp_gl) or a .json "
        "file; null: as stored with the weights, else published",
    )
    group.add_argument(
        "--cache",
        type=str | None,
        default=None,
        help="folder of encoded prompts; null: $WORDSIGHT_CACHE, else wordsight in $XDG_CACHE_HOME or ~/.cache",
    )


def main(argv: Sequence[str]) -> int:
    """Predict and say where the results lie."""
    args = parser().parse_args(list(argv))
    use_threads(args.threads)
    from wordsight.study import predict_study

    ask = AskOptions(
        text=args.text,
        text_download=args.text_download,
        prompts=args.prompts,
        negatives=path_or_none(args.negatives),
        scores=args.scores,
        similarity=args.similarity,
        combine=args.combine,
        map_style=args.map_style,
        settings=args.settings,
        cache=path_or_none(args.cache),
    )
    wanted = PredictOptions(
        model=args.model,
        source=Path(args.source).expanduser(),
        out=path_or_none(args.out),
        weights=path_or_none(args.weights),
        ask=ask,
        device=args.device,
        precision=args.precision,
        runtime=args.runtime,
        maps=args.maps,
        heatmaps=args.heatmaps,
        top=args.top,
        all_frames=args.all_frames,
        eval_batch=args.batch,
        workers=args.workers,
        overwrite=args.overwrite,
        allow_outside=args.allow_outside,
        window=window_of(args.window),
        frame=args.frame,
    )
    study = predict_study(wanted)
    for note in study.notes:
        say(note)
    print(f"predictions: {study.folder / 'predictions.csv'}")
    print(f"report: {study.report}")
    return 0
