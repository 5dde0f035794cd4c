"""`wordsight demo`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wordsight.cli.parser import CommandParser, path_or_none, use_threads
from wordsight.cli.show import say, show_asked, show_study

DESCRIPTION = (
    "Both methods on synthetic images: MLA-LP learns from four normal and four abnormal ones and is measured on "
    "others; CARZero, a small network that ships trained, is asked for ten findings of chest x-rays in words. "
    "Each prints a table and writes a report. Needs no data and no weights. The numbers show that the software works; "
    "they say nothing about patients."
)


def parser() -> CommandParser:
    """Flags of the command."""
    p = CommandParser("demo", "[options]", DESCRIPTION)
    p.add_argument("--out", type=str, default="demo-output", help="output folder")
    p.add_argument("--architecture", type=str, default="tiny", help="CLIP that MLA-LP adapts, see wordsight train mla")
    p.add_argument("--weights", type=str | None, default=None, help="file of that CLIP's weights; tiny needs none")
    p.add_argument("--epochs", type=int | None, default=None, help="of each training; null: the demonstration's own")
    p.add_argument("--threads", type=int | None, default=None, help="CPU threads of torch (null: torch decides)")
    return p


def main(argv: Sequence[str]) -> int:
    """Run the demonstrations and print their tables."""
    args = parser().parse_args(list(argv))
    use_threads(args.threads)
    from wordsight.study import demo, demo_carzero
    from wordsight.study.showcase import EPOCHS

    out = Path(args.out).expanduser()
    study = demo(
        out,
        architecture=args.architecture,
        weights=path_or_none(args.weights),
        epochs=EPOCHS if args.epochs is None else args.epochs,
        say=say,
    )
    show_study(study)
    asked = demo_carzero(out, say=say)
    if asked is not None:
        show_asked(asked)
    return 0
