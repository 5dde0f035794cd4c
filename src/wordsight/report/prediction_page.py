"""The page of predictions: what was asked, the highest scores of each finding, images with their maps."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wordsight import __version__
from wordsight.report import words
from wordsight.report.html import MAX_FAILURES, render_page

SHOWN_SCORES, SHOWN_IMAGES = 6, 3


@dataclass(frozen=True, slots=True)
class Head:
    """What all predictions of a folder share; kinds as text."""

    findings: list[str]
    kind: str
    map_kind: str
    weights: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


Rows = Callable[[], Iterable[Mapping[str, Any]]]


def render_predictions(
    head: Head | None, rows: Rows, *, failures: Sequence[tuple[str, str]], limits: str, run: Mapping[str, Any]
) -> str:
    """The page as one HTML document.

    rows: gives the rows anew at each call, with name, scores and panels (label, PNG in base64; [] where the image is
    not shown). limits: the ends of the colour map in words, "" where each map has its own. run: what decided the
    numbers.
    """
    findings = head.findings if head else []
    images = [_figure(row, findings) for row in rows() if row["panels"]]
    count, best = _highest(rows(), findings)
    kind, asked = (head.kind if head else ""), _asked(run)
    notes = [words.KINDS.get(kind, ""), words.ASKED.get(kind, "") if asked else ""]
    values = {
        "title": f"Predictions for {count} image{'' if count == 1 else 's'}",
        "count": count,
        "images": images,
        "kind": " ".join(note for note in notes if note),
        "limits": limits,
        "maps": any(len(image["panels"]) > 1 for image in images),
        "attention": words.ATTENTION if head and head.map_kind == "attention" else "",
        "best": best if count > 1 else [],
        "asked": asked,
        "failures": [words.failure_words(p, m) for p, m in failures[:MAX_FAILURES]],
        "failed": len(failures),
        "sources": [
            ("Version", __version__),
            ("Weights", words.printable(head.weights) if head else "not recorded"),
            *_settings(run),
        ],
    }
    return render_page("predictions.html.j2", values)


def _figure(row: Mapping[str, Any], findings: Sequence[str]) -> dict[str, Any]:
    """An image's pictures and its highest scores, in order."""
    pairs = zip(findings, row["scores"], strict=True)
    ordered = sorted(pairs, key=lambda pair: float("-inf") if pair[1] is None else pair[1], reverse=True)
    shown = words.printable(row["name"], 90)
    panels = [(label, f"data:image/png;base64,{png}", f"{shown}: {label}") for label, png in row["panels"]]
    scores = [(words.printable(finding, 80), _number(score)) for finding, score in ordered[:SHOWN_SCORES]]
    return {"name": shown, "panels": panels, "scores": scores, "more": len(findings) > len(scores)}


def _number(score: float | None) -> str:
    return "undefined" if score is None else f"{score:.3g}"


def _highest(rows: Iterable[Mapping[str, Any]], findings: Sequence[str]) -> tuple[int, list[dict[str, Any]]]:
    """How many rows there are, and for each finding the images with the highest scores."""
    best: list[list[tuple[float, int, str]]] = [[] for _ in findings]
    count = 0
    for row in rows:
        for heap, score in zip(best, row["scores"], strict=True):
            if score is not None:
                entry = (score, -count, row["name"])
                (heapq.heappush if len(heap) < SHOWN_IMAGES else heapq.heappushpop)(heap, entry)
        count += 1
    return count, [
        {
            "finding": words.printable(finding, 80),
            "images": [(words.printable(name, 60), _number(score)) for score, _, name in sorted(heap, reverse=True)],
        }
        for finding, heap in zip(findings, best, strict=True)
    ]


def _asked(run: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Findings with the sentences that state them and those that deny them."""
    prompts = run.get("prompts") or {}
    negative = prompts.get("negative") or {}
    return [
        (words.printable(f, 80), _sentences(stated), _sentences(negative.get(f, [])))
        for f, stated in (prompts.get("positive") or {}).items()
    ]


def _sentences(group: Sequence[str]) -> str:
    return words.printable(" / ".join(group), 400)


def _settings(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Plain values of the run, as rows."""
    hidden = ("weights", "prompts")
    plain = {k: v for k, v in run.items() if k not in hidden and isinstance(v, str | int | float | bool)}
    return [(key.replace("_", " ").capitalize(), words.printable(value)) for key, value in plain.items()]
