"""`wordsight report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wordsight.cli.parser import CommandParser
from wordsight.cli.show import show_evaluations

DESCRIPTION = "Write report.html of an evaluated run folder again from results.json, predictions.csv and maps.npz."


def parser() -> CommandParser:
    """Flags of the command."""
    p = CommandParser("report", "RUN", DESCRIPTION)
    p.add_argument("run", type=str, help="folder that an evaluation was written to")
    return p


def main(argv: Sequence[str]) -> int:
    """Rebuild the page and print the table."""
    folder = Path(parser().parse_args(list(argv)).run).expanduser()
    from wordsight.report import read_results, rebuild_report

    page = rebuild_report(folder)
    show_evaluations(read_results(folder))
    print(f"report: {page}")
    return 0
