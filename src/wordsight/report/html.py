"""Evaluations -> one self-contained HTML page: no network, no scripts; readable without colour, on a phone, printed."""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from wordsight.metrics import Spread
from wordsight.report import words
from wordsight.report.figures import Curve, histogram_svg, roc_points, roc_svg
from wordsight.report.pictures import GROUPS, ROLES, Pictures, first_of_each, pick_cases

if TYPE_CHECKING:
    from jinja2 import Environment

    from wordsight.evaluate import Evaluation

MAX_FAILURES = 50
REPEATS = ("draw", "seed")
READING = (
    "memory_weight",
    "relative",
    "image_share",
    "smoothing",
    "map_share",
    "map_memory_weight",
    "map_relative",
    "map_smoothing",
)
FOLLOWS = ("support", "epoch", *READING)
"""What follows from draw and seed: the support itself, and what was chosen in training."""


def group_evaluations(evaluations: Sequence[Evaluation]) -> list[list[int]]:
    """Numbers of the evaluations of the same data that differ in draw and seed alone, and in what follows from them.

    Groups come in order of first appearance. A draw and seed that a group has already begins another one.
    """
    groups: dict[str, list[int]] = {}
    met: Counter[str] = Counter()
    for number, evaluation in enumerate(evaluations):
        repeat = {k: v for k, v in evaluation.protocol.items() if k in REPEATS}
        left = (*REPEATS, *FOLLOWS) if repeat else ()
        fixed = {k: v for k, v in evaluation.protocol.items() if k not in left}
        same = [evaluation.dataset, evaluation.data_hash, evaluation.method, evaluation.kind, fixed]
        key, one = (json.dumps(value, sort_keys=True, default=str) for value in (same, [same, repeat]))
        groups.setdefault(f"{met[one]} {key}", []).append(number)
        met[one] += bool(repeat)
    return list(groups.values())


def _told(members: Sequence[Evaluation]) -> dict[str, Any]:
    """The protocol of a group; what its members do not share is said of each."""
    first = members[0].protocol
    if len(members) == 1:
        return dict(first)
    told = {k: v for k, v in first.items() if k not in REPEATS}
    for name in FOLLOWS:
        if len({str(e.protocol.get(name)) for e in members}) > 1:
            told[name] = "; ".join(f"{words.draw_name(e)}: {e.protocol.get(name)}" for e in members)
    return told


def summarise(evaluations: Sequence[Evaluation], metric: str) -> Spread:
    """Mean and sample standard deviation (n - 1) over the evaluations in which the metric is defined."""
    return Spread.of([e.numbers[metric].value for e in evaluations if metric in e.numbers])


def metrics_of(evaluations: Sequence[Evaluation]) -> list[str]:
    """Names of all metrics present, the known ones first and in their usual order."""
    present = {name for evaluation in evaluations for name in evaluation.numbers}
    return [m for m in words.METRICS if m in present] + sorted(present - set(words.METRICS))


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates: everything is escaped, an unknown name is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("wordsight.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["printable"] = words.printable
    return made


def data_uri(png: bytes) -> str:
    """A PNG file as a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _spread_words(spread: Spread) -> tuple[str, str]:
    if not math.isfinite(spread.mean):
        return spread.note if spread.note.startswith("undefined") else f"undefined ({spread.note})", ""
    if math.isnan(spread.std):
        return f"{spread.mean:.3f}", spread.note or "one run"
    return f"{spread.mean:.3f} ± {spread.std:.3f}", spread.note


def _counts(evaluation: Evaluation) -> tuple[int, int]:
    """(normal, abnormal)"""
    return int((evaluation.labels == 0).sum()), int((evaluation.labels == 1).sum())


def _row(evaluation: Evaluation, metrics: Sequence[str]) -> dict[str, Any]:
    normal, abnormal = _counts(evaluation)
    return {
        "draw": words.draw_name(evaluation),
        "normal": normal,
        "abnormal": abnormal,
        "cells": [(words.metric_name(m), *words.number_words(evaluation.numbers.get(m))) for m in metrics],
    }


def _curves(members: Sequence[Evaluation]) -> tuple[list[Curve], list[str]]:
    """Curves with their legends, and a sentence for each evaluation that has none."""
    curves, missing = [], []
    for evaluation in members:
        normal, abnormal = _counts(evaluation)
        name = words.draw_name(evaluation) if len(members) > 1 else ""
        points = roc_points(evaluation.labels, evaluation.scores)
        value = words.number_words(evaluation.numbers.get("image_auroc"))[0]
        legend = f"{name + ': ' if name else ''}AUROC {value}; {abnormal} abnormal, {normal} normal"
        if points is None:
            missing.append(f"No ROC curve: {legend}.")
        else:
            curves.append(Curve(legend, points))
    return curves, missing


def _cases(number: int, evaluation: Evaluation, pictures: Pictures) -> list[dict[str, Any]]:
    picked = pick_cases(evaluation.labels, evaluation.scores, pictures.cases)
    shown = []
    for (title, meaning, _, _), indices in zip(GROUPS, picked, strict=True):
        images = []
        for i in indices:
            panels = [(r, label) for r, label in ROLES.items() if (number, i, r) in pictures.files]
            name = words.printable(evaluation.names[i], 90)
            images.append(
                {
                    "name": name,
                    "score": f"{evaluation.scores[i]:.3g}",
                    "panels": [
                        (label, data_uri(pictures.files[number, i, r]), f"{name}: {label}") for r, label in panels
                    ],
                    "missing": pictures.files and not any(r == "image" for r, _ in panels),
                }
            )
        if images:
            shown.append({"title": title, "meaning": meaning, "images": images})
    return shown


def _failures(members: Sequence[Evaluation]) -> tuple[list[tuple[str, str]], int]:
    """Failures without repeats over draws, cut to what a page holds, and their full number."""
    unique = list(dict.fromkeys((p, m) for e in members for p, m in e.failures))
    return [words.failure_words(p, m) for p, m in unique[:MAX_FAILURES]], len(unique)


def _sources(members: Sequence[Evaluation]) -> list[tuple[str, str]]:
    """Where the numbers come from, each value once."""
    fields = (("Version", "version"), ("Weights", "weights"), ("Data", "data_hash"), ("Intervals", "interval"))
    found = [(title, dict.fromkeys(str(getattr(e, name)) for e in members)) for title, name in fields]
    return [(title, words.printable("; ".join(v or "not recorded" for v in values), 600)) for title, values in found]


def _section(
    number: int, indices: Sequence[int], evaluations: Sequence[Evaluation], pictures: Pictures
) -> dict[str, Any]:
    members = [evaluations[i] for i in indices]
    first = evaluations[number]
    curves, missing = _curves(members)
    failures, failed = _failures(members)
    title = f"{first.dataset}, {first.method}"
    shown = words.draw_name(first) if len(members) > 1 else ""
    limits = pictures.limits.get(number)
    return {
        "dataset": first.dataset,
        "method": first.method,
        "published": words.is_published(first.protocol),
        "protocol": words.protocol_sentences(_told(members), str(first.kind)),
        "roc": roc_svg(curves, f"ROC curves of {title}") if curves else None,
        "no_roc": missing,
        "histogram": histogram_svg(first.labels, first.scores, f"Scores by class of {title}"),
        "shown": shown,
        "cases": _cases(number, first, pictures),
        "limits": f"{limits[0]:.3g} to {limits[1]:.3g}" if limits else "",
        "failures": failures,
        "failed": failed,
        "sources": _sources(members),
    }


def _table(members: Sequence[Evaluation], metrics: Sequence[str]) -> dict[str, Any]:
    """Rows of one group in the table of numbers."""
    summaries = [(words.metric_name(m), *_spread_words(summarise(members, m))) for m in metrics]
    return {
        "dataset": members[0].dataset,
        "method": members[0].method,
        "published": words.is_published(members[0].protocol),
        "rows": [_row(e, metrics) for e in members],
        "summary": summaries if len(members) > 1 else [],
        "draws": len(members),
    }


def render_report(evaluations: Sequence[Evaluation], pictures: Pictures | None = None) -> str:
    """The report as one HTML document; the same input gives the same text.

    evaluations: one or more; those that differ in draw or seed alone are summarised together. pictures: what
    draw_pictures made of them; without it, cases are listed by name and score. All names are escaped.
    """
    pictures = pictures or Pictures()
    groups = group_evaluations(evaluations)
    metrics = metrics_of(evaluations)
    sections = [
        _section(number, members, evaluations, pictures)
        for number, members in zip(first_of_each(evaluations, groups), groups, strict=True)
    ]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            disclaimer=words.DISCLAIMER,
            optimistic=words.OPTIMISTIC,
            title=_title(evaluations),
            tables=[_table([evaluations[i] for i in members], metrics) for members in groups],
            metrics=[words.metric_name(m) for m in metrics],
            intervals=list(dict.fromkeys(words.printable(e.interval, 400) for e in evaluations if e.interval)),
            sections=sections,
            colour_bar=colour_bar(),
            max_failures=MAX_FAILURES,
        )
    )


def _title(evaluations: Sequence[Evaluation]) -> str:
    names = list(dict.fromkeys(words.printable(e.dataset, 60) for e in evaluations))
    return "Evaluation" if not names else f"Evaluation on {', '.join(names[:6])}{' and more' if len(names) > 6 else ''}"


def colour_bar() -> Markup:
    """A CSS gradient of the colour map, low to high."""
    from wordsight.imaging.overlay import colour_map

    colours = colour_map(np.linspace(0, 1, 9)[None])[0]
    return Markup(", ".join("#{:02x}{:02x}{:02x}".format(*(int(v) for v in c)) for c in colours))


def render_page(template: str, values: Mapping[str, Any]) -> str:
    """Any other page of the report room."""
    return environment().get_template(template).render(disclaimer=words.DISCLAIMER, colour_bar=colour_bar(), **values)
