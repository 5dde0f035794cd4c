"""`wordsight train mla`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wordsight.cli.parser import (
    WORKERS,
    CommandParser,
    Precision,
    add_fields,
    add_reading,
    add_running,
    add_switch,
    given,
    path_or_none,
    use_threads,
    window_of,
)
from wordsight.cli.show import say, show_study
from wordsight.models.mla.settings import MlaSettings
from wordsight.study.options import TrainOptions
from wordsight.train.recipes import Method, Profile
from wordsight.train.settings import MlaTraining, Protocol

DESCRIPTION = (
    "Train MLA-LP or MVFA on a few normal and abnormal images of a set and measure it on the set's test split; with "
    "--shots 0 train on the other sets (zero-shot). An interrupted run goes on when the same command is given again. "
    "Without data: wordsight data phantoms DIR. Without weights: the small backbone 'tiny' of this package, for trying "
    "only; for real work put OpenAI's ViT-L-14-336px.pt into CLIP/ckpt/ and say --architecture ViT-L-14-336."
)
DATA = (
    "folder that holds <Name>_AD folders, or a manifest (.csv, .parquet) of your images with columns path, label and "
    "split (valid: support and selection; test: the measurement)"
)
TARGET = (
    "the set: Brain|BrainMRI, Liver|LiverCT, Retina_RESC|RESC, Retina_OCT2017|OCT17, Chest|ChestXray, "
    "Histopathology|HIS, or any <Name>_AD folder, in any case; a manifest needs no name"
)
PROFILE = (
    "settings to start from: the papers' (published), the same with its faults mended (corrected), that with faster "
    "training (default), or adapters that leave the image tower alone, with the fastest training (fast)"
)
PROTOCOL = (
    "what the model is chosen by: validation images, the last epoch, or (published) the test set as the papers did; "
    "null: by the profile"
)
ARCHITECTURE = "CLIP: an open_clip name such as ViT-L-14-336, a JSON configuration, a folder, or tiny"
MAIN = ("epochs", "protocol", "precision", "device", "seed")


def parser() -> CommandParser:
    """Flags of the command."""
    p = CommandParser("train mla", "--data DATA [--target NAME] [options]", DESCRIPTION, config=True)
    _add_data(p.add_argument_group("what to learn from"))
    _add_method(p.add_argument_group("what to train"))
    _add_output(p.add_argument_group("what to write"))
    add_running(p)
    add_fields(p, "settings", MlaSettings, "network (--settings.*)")
    add_fields(p, "training", MlaTraining, "training (--training.*)", skip=MAIN)
    return p


def _add_data(group: Any) -> None:
    add = group.add_argument
    add("--data", type=str, default="data", help=DATA)
    add("--target", type=str | None, default=None, help=TARGET)
    add("--shots", type=int, default=4, help="images per class to learn from; 0: zero-shot")
    add(
        "--draws",
        type=int,
        nargs="+",
        default=[0],
        help="support sets: numbers of the published lists where there are any, else seeds of random draws",
    )
    add(
        "--support",
        type=str,
        default="auto",
        help="auto: published lists where they have the draw, else random; random; or a folder of <Name>/<k>-shot.txt",
    )
    add_switch(group, "--allow-outside", "a manifest may name files outside its folder", default=False)
    add_reading(group)
    add("--sources", type=str, nargs="*", default=None, help="zero-shot: sets to train on; null: all others")


def _add_method(group: Any) -> None:
    add = group.add_argument
    add("--method", type=Method, default="mla", help="learned prompts (mla) or fixed sentences (mvfa)")
    add("--profile", type=Profile, default="default", help=PROFILE)
    add("--protocol", type=Protocol | None, default=None, help=PROTOCOL)
    add("--architecture", type=str, default="tiny", help=ARCHITECTURE)
    add("--weights", type=str | None, default=None, help="file or folder of the CLIP's trained weights")
    add("--initial", type=str | None, default=None, help="checkpoint of adapters to start from; null: random ones")
    add("--seeds", type=int, nargs="+", default=[111], help="training seeds; each draw is trained with each")
    add("--epochs", type=int | None, default=None, help="passes over the training images; null: the profile's")
    add("--precision", type=Precision | None, default=None, help="of computations; fp16 needs CUDA; null: fp32")


def _add_output(group: Any) -> None:
    add = group.add_argument
    add("--out", type=str | None, default=None, help="output folder; null: runs/<target>-<k>shot[-mvfa]")
    add_switch(group, "--evaluate", "measure on the test split and write a report")
    add("--bootstrap", type=int, default=1000, help="draws of the 95 % intervals; 0: none")
    add("--heatmaps", type=int | None, default=None, help="files per run, highest scores first; null: all")
    add("--batch", type=int, default=8, help="images at a time when measuring")
    add("--workers", type=int | None, default=None, help=WORKERS)


def options(args: Any) -> TrainOptions:
    """Parsed arguments -> options of the study."""
    main = {"epochs": args.epochs, "protocol": args.protocol, "precision": args.precision, "device": args.device}
    return TrainOptions(
        target=args.target,
        data=Path(args.data).expanduser(),
        out=path_or_none(args.out),
        shots=args.shots,
        draws=tuple(args.draws),
        seeds=tuple(args.seeds),
        method=args.method,
        architecture=args.architecture,
        weights=path_or_none(args.weights),
        profile=args.profile,
        settings=given(args.settings),
        training={**given(args.training), **{k: v for k, v in main.items() if v is not None}},
        support=args.support,
        sources=None if args.sources is None else tuple(args.sources),
        initial=path_or_none(args.initial),
        evaluate=args.evaluate,
        bootstrap=args.bootstrap,
        heatmaps=args.heatmaps,
        eval_batch=args.batch,
        workers=args.workers,
        window=window_of(args.window),
        frame=args.frame,
        allow_outside=args.allow_outside,
    )


def main(argv: Sequence[str]) -> int:
    """Train, measure, print the table."""
    p = parser()
    args = p.parse_args(list(argv))
    if args.target is None and not Path(args.data).expanduser().is_file():
        p.error(f"expected the name of a set in {args.data} (--target), or a table (--data FILE); got neither.")
    use_threads(args.threads)
    return run(options(args))


def run(wanted: TrainOptions) -> int:
    """Run a study and print what came out."""
    from wordsight.study import train_study

    shots = f"{wanted.shots}-shot" if wanted.shots else "zero-shot"
    target = wanted.target or wanted.data.stem
    say(f"{wanted.method} {shots} on {target}, profile {wanted.profile}, backbone {wanted.architecture}")
    show_study(train_study(wanted))
    return 0
