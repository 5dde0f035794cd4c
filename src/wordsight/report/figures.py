"""ROC curves and score histograms as inline SVG: crisp, small, readable without colour. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from wordsight.metrics import roc_curve_points

MAX_POINTS = 120
STYLES = 6
"""Line styles of the page's style sheet: colour and dashes change together."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of an ROC figure: its legend text and its (K, 2) points (false, true positive rate), both in [0, 1]."""

    legend: str
    points: NDArray[np.float64]


def roc_points(labels: NDArray[np.integer], scores: NDArray[np.floating]) -> NDArray[np.float64] | None:
    """(K, 2) corners of the ROC curve, tied scores joined by one straight line; None where it is undefined.

    labels: (N,) 0/1; scores: (N,), higher = more abnormal. Undefined with one class only or a score that is not finite.
    At most 120 points are kept, the ends among them.
    """
    if not (labels == 1).any() or not (labels == 0).any() or not np.isfinite(scores).all():
        return None
    false, true, _ = roc_curve_points(labels, scores)
    points = np.stack([false, true], axis=1)
    if len(points) > MAX_POINTS:
        points = points[np.unique(np.rint(np.linspace(0, len(points) - 1, MAX_POINTS)).astype(np.intp))]
    return points


def _axes(left: float, top: float, side: float) -> list[str]:
    """Frame, grid lines and tick labels of a unit square."""
    parts = [f'<rect class="frame" x="{left:g}" y="{top:g}" width="{side:g}" height="{side:g}"/>']
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = left + tick * side, top + (1 - tick) * side
        if 0 < tick < 1:
            parts.append(f'<path class="grid" d="M{x:g} {top:g}V{top + side:g}M{left:g} {y:g}H{left + side:g}"/>')
        parts.append(f'<text x="{x:g}" y="{top + side + 16:g}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{left - 7:g}" y="{y + 4:g}" text-anchor="end">{tick:g}</text>')
    return parts


def roc_svg(curves: Sequence[Curve], title: str) -> Markup:
    """The ROC figure with chance line and legend; every text is escaped."""
    left, top, side = 48.0, 10.0, 280.0
    parts = _axes(left, top, side)
    parts.append(f'<path class="chance" d="M{left:g} {top + side:g}L{left + side:g} {top:g}"/>')
    for number, curve in enumerate(curves):
        x, y = left + curve.points[:, 0] * side, top + (1 - curve.points[:, 1]) * side
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
        parts.append(f'<path class="line s{number % STYLES}" d="M{path}"/>')
    parts.append(
        f'<text x="{left + side / 2:g}" y="{top + side + 36:g}" text-anchor="middle">False positive rate</text>'
    )
    parts.append(
        f'<text transform="translate(13 {top + side / 2:g}) rotate(-90)" text-anchor="middle">True positive rate</text>'
    )
    body = Markup("".join(parts))  # numbers and fixed words only
    svg = Markup('<svg class="plot" viewBox="0 0 340 332" role="img" aria-label="{}">{}</svg>').format(title, body)
    return svg + _legend([(f"s{i % STYLES}", c.legend) for i, c in enumerate(curves)] + [("chance", "chance")])


def _legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """A list with a sample of each line."""
    sample = '<svg class="key" viewBox="0 0 34 10" aria-hidden="true"><path class="line {}" d="M1 5H33"/></svg>'
    items = [Markup("<li>" + sample + "{}</li>").format(style, text) for style, text in entries]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def _bars(shares: NDArray[np.float64], up: bool, peak: float) -> list[str]:
    """Bars of one class, upwards or downwards from the middle line."""
    left, middle, height, width = 48.0, 150.0, 118.0, 280.0
    step, parts = width / len(shares), []
    for number, share in enumerate(shares):
        if share > 0:
            size = max(1.0, share / peak * height)
            place = f'x="{left + number * step:.1f}" y="{middle - size if up else middle:.1f}"'
            name = "normal" if up else "abnormal"
            parts.append(f'<rect class="{name}" {place} width="{step - 1:.1f}" height="{size:.1f}"/>')
    return parts


def histogram_svg(
    labels: NDArray[np.integer], scores: NDArray[np.floating], title: str, bins: int = 24
) -> Markup | None:
    """Scores by class, normal upwards and abnormal downwards, each as a share of its class; None without scores.

    labels: (N,) 0/1; scores: (N,), values that are not finite are left out. Every text is escaped.
    """
    finite = np.isfinite(scores)
    if not finite.any():
        return None
    kept, classes = scores[finite].astype(np.float64), labels[finite]
    low, high = float(kept.min()), float(kept.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = [np.histogram(kept[classes == c], bins=bins, range=(low, high))[0].astype(np.float64) for c in (0, 1)]
    shares = [c / max(c.sum(), 1.0) for c in counts]
    peak = max(float(s.max()) for s in shares) or 1.0
    parts = [*_bars(shares[0], True, peak), *_bars(shares[1], False, peak)]
    parts.append('<path class="axis" d="M48 150H328"/>')
    for place, value in ((48, low), (188, (low + high) / 2), (328, high)):
        anchor = {48: "start", 188: "middle", 328: "end"}[place]
        parts.append(
            f'<path class="axis" d="M{place} 274v5"/>'
            f'<text x="{place}" y="294" text-anchor="{anchor}">{value:.3g}</text>'
        )
    for y in (32, 268):
        parts.append(
            f'<path class="grid" d="M48 {y}H328"/><text x="41" y="{y + 4}" text-anchor="end">{peak:.0%}</text>'
        )
    parts.append('<text x="41" y="154" text-anchor="end">0</text>')
    parts.append('<text x="188" y="316" text-anchor="middle">Score</text>')
    totals = [int(c.sum()) for c in counts]
    parts.append(f'<text class="strong" x="328" y="20" text-anchor="end">normal (n = {totals[0]}) ↑</text>')
    parts.append(f'<text class="strong" x="328" y="262" text-anchor="end">abnormal (n = {totals[1]}) ↓</text>')
    parts.append('<text transform="translate(11 150) rotate(-90)" text-anchor="middle">Share of the class</text>')
    return Markup('<svg class="plot" viewBox="0 0 340 332" role="img" aria-label="{}">{}</svg>').format(
        escape(title), Markup("".join(parts))
    )
