"""`wordsight data phantoms`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wordsight.cli.parser import CommandParser

DESCRIPTION = (
    "Draw synthetic sets (Brain, Liver, Retina_RESC, Retina_OCT2017, Chest, Histopathology) in the benchmark's layout, "
    "with few-shot lists; the same seed gives the same files. For trying, testing and teaching: they know nothing of "
    "patients. An interrupted call is completed by the same call."
)


def parser() -> CommandParser:
    """Flags of the command."""
    p = CommandParser("data phantoms", "FOLDER [options]", DESCRIPTION)
    p.add_argument("folder", type=str, help="where to write; an empty or new folder, or one of the same phantoms")
    p.add_argument("--sets", type=str, nargs="+", default=None, help="sets to draw; null: all six")
    p.add_argument("--valid", type=int, default=20, help="images per class of the valid split (support comes from it)")
    p.add_argument("--test", type=int, default=50, help="images per class of the test split")
    p.add_argument("--train", type=int, default=0, help="images per class of the train split")
    p.add_argument("--seed", type=int, default=0, help="of everything random")
    p.add_argument("--workers", type=int | None, default=None, help="processes; null: one per usable core")
    return p


def main(argv: Sequence[str]) -> int:
    """Draw and say what was drawn."""
    args = parser().parse_args(list(argv))
    from wordsight.data.phantoms import write_phantoms

    folder = Path(args.folder).expanduser()
    counts = write_phantoms(
        folder,
        names=args.sets,
        valid=args.valid,
        test=args.test,
        train=args.train,
        seed=args.seed,
        workers=args.workers,
    )
    for name, count in counts.items():
        print(f"{name}: {count} images")
    first = next(iter(counts))
    print(f"folder: {folder}\nnext: wordsight train mla --data {folder} --target {first} --shots 4")
    return 0
