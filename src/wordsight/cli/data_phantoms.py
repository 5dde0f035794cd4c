"""`wordsight data phantoms`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wordsight.cli.parser import CommandParser

DESCRIPTION = (
    "Draw synthetic sets (Brain, Liver, Retina_RESC, Retina_OCT2017, Chest, Histopathology) in the benchmark's layout, "
    "with few-shot lists; the same seed gives the same files. ChestReports, drawn only when named, makes a folder of "
    "that name: chest x-rays with reports, findings and boxes for image-text pretraining. For trying, testing and "
    "teaching: they know nothing of patients. An interrupted call is completed by the same call."
)


def parser() -> CommandParser:
    """Flags of the command."""
    p = CommandParser("data phantoms", "FOLDER [options]", DESCRIPTION)
    p.add_argument("folder", type=str, help="where to write; an empty or new folder, or one of the same phantoms")
    p.add_argument(
        "--sets", type=str, nargs="+", default=None, help="sets to draw, ChestReports among them; null: the six"
    )
    p.add_argument(
        "--valid",
        type=int,
        default=20,
        help="images per class (ChestReports: images) of the valid split (support comes from it)",
    )
    p.add_argument("--test", type=int, default=50, help="images per class (ChestReports: images) of the test split")
    p.add_argument("--train", type=int, default=0, help="images per class (ChestReports: images) of the train split")
    p.add_argument("--size", type=int, default=224, help="pixels of ChestReports; the six have 240")
    p.add_argument("--seed", type=int, default=0, help="of everything random")
    p.add_argument("--workers", type=int | None, default=None, help="processes; null: one per usable core")
    return p


def main(argv: Sequence[str]) -> int:
    """Draw and say what was drawn."""
    args = parser().parse_args(list(argv))
    from wordsight.data.phantoms import write_phantoms, write_report_phantoms
    from wordsight.data.phantoms.reports import NAME

    folder = Path(args.folder).expanduser()
    names = None if args.sets is None else [name for name in args.sets if name != NAME]
    how = {"valid": args.valid, "test": args.test, "train": args.train, "seed": args.seed, "workers": args.workers}
    if names is None or names or not args.sets:
        counts = write_phantoms(folder, names=names, **how)
        for name, count in counts.items():
            print(f"{name}: {count} images")
        first = next(iter(counts))
        print(f"folder: {folder}\nnext: wordsight train mla --data {folder} --target {first} --shots 4")
    if names is not None and NAME in args.sets:
        made = write_report_phantoms(folder / NAME, size=args.size, **how)
        print(f"{NAME}: {sum(made.values())} images with reports\nfolder: {folder / NAME}")
        print(f"next: wordsight data inspect {folder / NAME / 'manifest.csv'}")
    return 0
