"""`wordsight data inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wordsight.cli.parser import CommandParser, add_reading, path_or_none, window_of

if TYPE_CHECKING:
    from wordsight.data import Inspection
    from wordsight.types import Record

DESCRIPTION = (
    "Read every image and mask once and report sizes, bit depths, labels, splits, masks, equal images, patients in "
    "several splits, and whether trivial properties (size, brightness) already tell the label."
)


def parser() -> CommandParser:
    """Flags of the command."""
    p = CommandParser("data inspect", "PATH [options]", DESCRIPTION)
    p.add_argument("path", type=str, help="a folder of <Name>_AD sets, one set, a folder of images, or a manifest")
    p.add_argument("--split", type=str | None, default=None, help="one split alone; null: all")
    add_reading(p)
    p.add_argument("--out", type=str | None, default=None, help="also write everything found to this JSON file")
    return p


def main(argv: Sequence[str]) -> int:
    """Inspect and print a table per set with its warnings."""
    args = parser().parse_args(list(argv))
    from wordsight.data import inspect_records, read_as
    from wordsight.files import write_json

    sets = find_sets(Path(args.path).expanduser(), args.split)
    window = window_of(args.window)
    found = {name: inspect_records(read_as(part, window=window, frame=args.frame)) for name, part in sets.items()}
    for name, inspection in found.items():
        _show(name, inspection)
    out = path_or_none(args.out)
    if out is not None:
        write_json(out, {name: inspection.to_json() for name, inspection in found.items()})
        print(f"written: {out}")
    return 0


def find_sets(path: Path, split: str | None) -> dict[str, list[Record]]:
    """Name -> records: every set of a folder of sets, else the one source."""
    from wordsight.data import records_from
    from wordsight.data.benchmark import set_folder, set_names

    names = set_names(path)
    if not names:
        return {path.resolve().name: records_from(path, split=split)}
    return {name: records_from(set_folder(path, name), split=split) for name in names}


def _show(name: str, inspection: Inspection) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=name, title_justify="left", show_header=False)
    for row in inspection.table():
        table.add_row(*row)
    console = Console()
    console.print(table)
    for warning in inspection.warnings:
        console.print(f"warning: {warning}", markup=False, highlight=False)
    if not inspection.warnings:
        print("no warnings")
