"""`wordsight train carzero`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wordsight.cli.parser import (
    CommandParser,
    Precision,
    add_fields,
    add_running,
    add_switch,
    given,
    path_or_none,
    use_threads,
)
from wordsight.cli.show import say
from wordsight.study.pretrain import CarZeroOptions, CarZeroStudy
from wordsight.train.carzero_settings import CarZeroTraining, Recipe

DESCRIPTION = (
    "Pretrain CARZero on images with reports: a table with columns path, report and, if known, split and patient "
    "(`wordsight data prepare` makes one; without data: wordsight data phantoms DIR --sets ChestReports). The epoch "
    "with the smallest validation loss is kept. An interrupted run goes on when the same command is given again. The "
    "run folder is what wordsight.load() takes."
)
RECIPE = "settings to start from: as published, or with its faults mended (corrected)"
TEXT = "folder of a BERT: vocab.txt or tokenizer.json, config.json, model.safetensors or pytorch_model.bin"
NETWORK = "published variant mlp_gl, gl, local or global, or a JSON file of settings"
IMAGE_START = "weights the image encoder begins with: M3AE, MAE or ResNet-50; null: random"
INITIAL = "a whole CARZero to begin with: checkpoint, safetensors, run folder, or tiny"
CAPTIONS = "column of prompts made beforehand, 'There is X | There is no Y' or a JSON list; null: made by rules"
DEVICES = "processes that share each batch; null: those that torchrun started, else one"
MAIN = ("epochs", "precision", "device", "devices", "workers", "seed")


def parser() -> CommandParser:
    """Flags of the command."""
    p = CommandParser("train carzero", "--manifest FILE --out RUN [options]", DESCRIPTION, config=True)
    data = p.add_argument_group("what to learn from")
    data.add_argument("--manifest", type=str, required=True, help="CSV or Parquet table of images with reports")
    data.add_argument("--captions-column", type=str | None, default=None, help=CAPTIONS)
    add_switch(data, "--allow-outside", "the table may name files outside its folder", default=False)
    _add_method(p.add_argument_group("what to train"))
    p.add_argument("--out", type=str, required=True, help="run folder")
    p.add_argument("--devices", type=int | None, default=None, help=DEVICES)
    p.add_argument("--workers", type=int, default=4, help="processes that decode images, for each device; 0: none")
    add_running(p)
    add_fields(p, "training", CarZeroTraining, "training (--training.*)", skip=MAIN)
    return p


def _add_method(group: Any) -> None:
    add = group.add_argument
    add("--recipe", type=Recipe, default="corrected", help=RECIPE)
    add("--text", type=str | None, default=None, help=TEXT)
    add("--network", type=str, default="mlp_gl", help=NETWORK)
    add("--image-start", type=str | None, default=None, help=IMAGE_START)
    add_switch(group, "--text-start", "begin with the weights in the text folder")
    add("--initial", type=str | None, default=None, help=INITIAL)
    add("--epochs", type=int | None, default=None, help="passes over the images; null: the recipe's")
    add("--seed", type=int | None, default=None, help="of everything random; null: the recipe's")
    add("--precision", type=Precision | None, default=None, help="of computations; fp16 needs CUDA; null: fp32")


def options(args: Any) -> CarZeroOptions:
    """Parsed arguments -> options of the study."""
    main = {name: getattr(args, name) for name in MAIN}
    return CarZeroOptions(
        manifest=Path(args.manifest).expanduser(),
        out=Path(args.out).expanduser(),
        recipe=args.recipe,
        text=path_or_none(args.text),
        network=args.network,
        image_start=path_or_none(args.image_start),
        text_start=args.text_start,
        initial=path_or_none(args.initial),
        training={**given(args.training), **{k: v for k, v in main.items() if v is not None}},
        allow_outside=args.allow_outside,
        captions_column=args.captions_column,
    )


def main(argv: Sequence[str]) -> int:
    """Train and say what came out."""
    args = parser().parse_args(list(argv))
    use_threads(args.threads)
    wanted = options(args)
    from wordsight.study import train_carzero
    from wordsight.train.launch import is_first

    speaks = is_first()
    if speaks:
        say(f"carzero on {wanted.manifest}, recipe {wanted.recipe}")
    study = train_carzero(wanted, say=say)
    if speaks:
        show(study)
    return 0


def show(study: CarZeroStudy) -> None:
    """Notes, the epoch that was kept, and where it lies."""
    for note in study.notes:
        say(f"note: {note}")
    card = study.card
    print(f"epoch {card['epoch']}, validation loss {card['valid_loss']:.4f} ({card['selected']})")
    print(f"folder: {study.folder}")
