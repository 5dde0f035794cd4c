"""`wordsight data prepare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wordsight.cli.parser import CommandParser, add_switch, path_or_none
from wordsight.errors import DataError

if TYPE_CHECKING:
    from wordsight.data.reports.prepared import Prepared

DESCRIPTION = (
    "Turn a published set of chest x-rays with reports, or any table of images with reports, into one table with the "
    "columns path, report, split, patient, study, view. Nothing is copied; what is left out is counted and named."
)
Source = Literal["mimic", "openi", "padchest", "table"]


def parser() -> CommandParser:
    """Flags of the command."""
    p = CommandParser("data prepare", "SOURCE FOLDER --out TABLE [options]", DESCRIPTION)
    p.add_argument("source", type=Source, help="mimic (MIMIC-CXR and -JPG), openi, padchest, or table for any other")
    p.add_argument("folder", type=str, help="the folder of the set as it is shipped; of the images for table")
    p.add_argument("--out", type=str, required=True, help="table to write, .parquet or .csv")
    p.add_argument("--views", type=Literal["frontal", "lateral", "all"], default="frontal", help="views to keep")
    add_switch(p, "--unknown-views", "keep images whose view is not known", default=False)
    p.add_argument("--split", type=str | None, default=None, help="name the split where the source names none")
    add_switch(p, "--absolute", "write absolute paths, not relative to the table's folder", default=False)
    p.add_argument("--reports", type=str | None, default=None, help="mimic, openi: folder or archive of the texts")
    p.add_argument("--labels", type=str | None, default=None, help="mimic: CheXpert or NegBio table, for findings")
    p.add_argument("--table", type=str | None, default=None, help="padchest, table: the CSV or Parquet file")
    p.add_argument("--text", type=Literal["report", "labels"], default="report", help="padchest: what is the report")
    p.add_argument(
        "--sections", type=str, nargs="+", default=[], help="mimic, openi, table: keep these, as impression findings"
    )
    p.add_argument("--columns", type=str, nargs="+", default=[], help="table: names, as path=file report=text")
    p.add_argument("--without-report", type=str | None, default=None, help="write studies without text to this file")
    return p


def main(argv: Sequence[str]) -> int:
    """Prepare and print what was kept and dropped."""
    args = parser().parse_args(list(argv))
    from wordsight.files import write_text

    prepared = _prepare(args)
    for line in prepared.lines():
        print(line)
    listing = path_or_none(args.without_report)
    if listing is not None:
        write_text(listing, "".join(f"{study}\n" for study in prepared.without_report))
        print(f"written: {listing}")
    print(f"written: {prepared.path}")
    return 0


def _prepare(args: Any) -> Prepared:
    from wordsight.data.reports.prepared import Wanted

    folder, out = Path(args.folder).expanduser(), Path(args.out).expanduser()
    wanted = Wanted(args.views, args.unknown_views, args.split, args.absolute, tuple(args.sections))
    reports, labels, table = (path_or_none(v) for v in (args.reports, args.labels, args.table))
    _check_flags(args)
    if args.source == "mimic":
        from wordsight.data.reports.mimic import prepare_mimic

        return prepare_mimic(folder, out, wanted=wanted, reports=reports, labels=labels)
    if args.source == "openi":
        from wordsight.data.reports.openi import prepare_openi

        return prepare_openi(folder, out, wanted=wanted, reports=reports)
    if args.source == "padchest":
        from wordsight.data.reports.padchest import prepare_padchest

        return prepare_padchest(folder, out, wanted=wanted, table=table, text=args.text)
    from wordsight.data.reports.table import prepare_table

    if table is None:
        raise DataError("data prepare table: expected --table FILE, got none. Name the CSV or Parquet file.")
    return prepare_table(folder, out, table=table, columns=_columns(args.columns), wanted=wanted)


def _check_flags(args: Any) -> None:
    """Refuse flags that the source would ignore."""
    owners = {
        "reports": ("mimic", "openi"),
        "labels": ("mimic",),
        "table": ("padchest", "table"),
        "columns": ("table",),
        "sections": ("mimic", "openi", "table"),
    }
    for flag, sources in owners.items():
        if args[flag] and args.source not in sources:
            raise DataError(f"--{flag}: is for {' and '.join(sources)}, got source {args.source}. Leave it out.")
    if args.text != "report" and args.source != "padchest":
        raise DataError(f"--text: is for padchest, got source {args.source}. Leave it out.")


def _columns(pairs: Sequence[str]) -> dict[str, str]:
    """`ours=theirs` pairs."""
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise DataError(f"--columns: expected pairs such as path=filename, got {wrong[0]!r}.")
    return dict(pair.split("=", 1) for pair in pairs)
