"""What the commands print: tables of numbers, where things lie, what to know."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wordsight.evaluate import Evaluation
    from wordsight.study import Study
    from wordsight.study.showcase import Asked

METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pro", "region_auroc", "region_ap")


def say(text: str) -> None:
    """A line of progress on stderr, so that results on stdout can be piped."""
    print(text, file=sys.stderr)


def show_study(study: Study) -> None:
    """Notes, the table of numbers, what the protocol was, and where the report lies."""
    for note in study.notes:
        say(f"note: {note}")
    if study.evaluations:
        show_evaluations(study.evaluations)
    print(f"folder: {study.folder}")
    if study.report is not None:
        print(f"report: {study.report}")


def show_evaluations(evaluations: Sequence[Evaluation]) -> None:
    """One row per metric, one column per run, and mean and deviation where draws or seeds are all that differs."""
    from wordsight.report.html import group_evaluations

    for numbers in group_evaluations(evaluations):
        members = [evaluations[number] for number in numbers]
        _show_group(members[0].dataset, members[0].method, members)


def _show_group(dataset: str, method: str, members: Sequence[Evaluation]) -> None:
    from rich.console import Console
    from rich.table import Table

    from wordsight.evaluate import combine
    from wordsight.report.words import draw_name, metric_name

    several = len(members) > 1
    abnormal = int(members[0].labels.sum())
    counts = f"{len(members[0].labels) - abnormal} normal, {abnormal} abnormal"
    table = Table(title=f"{dataset}, {method}: {counts}", title_justify="left")
    table.add_column("metric")
    for number, member in enumerate(members):
        table.add_column((draw_name(member) or f"run {number}") if several else "value [95 % interval]")
    spreads = combine(members) if several else {}
    if several:
        table.add_column("mean ± standard deviation")
    for metric in METRICS:
        if not any(metric in member.numbers for member in members):
            continue
        row = [str(m.numbers[metric]) if metric in m.numbers else "not measured" for m in members]
        table.add_row(metric_name(metric), *row, *([str(spreads[metric])] if several else []))
    # off a terminal rich would break lines at 80 columns
    Console(width=None if sys.stdout.isatty() else 60 + 30 * len(members)).print(table)
    print(f"model selection: {selection(members[0])}")
    for text in dict.fromkeys(str(m.protocol["support"]) for m in members if "support" in m.protocol):
        print(f"support: {text}")
    print(f"intervals: {members[0].interval}")
    for path, message in members[0].failures:
        say(f"not read: {message if path in message else f'{path}: {message}'}")


def show_asked(asked: Asked) -> None:
    """What CARZero said of chest phantoms: one row per finding and their mean, and where the page lies."""
    from rich.console import Console
    from rich.table import Table

    from wordsight.study.phantom_findings import means

    table = Table(title=f"{asked.images} chest x-rays, carzero: asked in words", title_justify="left")
    table.add_column("finding")
    for name in ("images with it", "AUROC 'There is X'", "AUROC 'There is no X'", "pointing game"):
        table.add_column(name, justify="right")
    for r in asked.results:
        table.add_row(r.finding, str(r.present), *(_share(value) for value in (r.stated, r.denied, r.pointing)))
    found = means(asked.results)
    table.add_section()
    table.add_row("mean", "", *(_share(found.get(name)) for name in ("stated", "denied", "pointing")))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print("AUROC of a denial is good near 0. Pointing game: share of images whose map peaks inside the finding")
    for path in asked.heatmaps:
        print(f"map: {path}")
    print(f"report: {asked.report}")


def _share(value: float | None) -> str:
    """Three decimals; a dash where no image or no other has the finding."""
    return "-" if value is None or value != value else f"{value:.3f}"


def selection(evaluation: Evaluation) -> str:
    """How the model was chosen, in a few words that cannot be misread."""
    protocol = evaluation.protocol
    words = str(protocol.get("selected", protocol.get("selection", "unknown")))
    if protocol.get("selection") == "published":
        words += " (the test set, as in the papers: optimistic)"
    return words + ("; scores scaled over the test set" if protocol.get("transductive") else "")
