"""Arrays to numbers: ranking, pixels, intervals. Undefined is NaN with a reason, never 0."""

from wordsight.metrics.intervals import bootstrap_interval, delong_interval, delong_test
from wordsight.metrics.number import Number, Spread
from wordsight.metrics.pixels import pixel_auroc, pixel_average_precision, pro
from wordsight.metrics.ranking import auroc, average_precision, roc_curve_points, trapezoid_auprc

__all__ = [
    "Number",
    "Spread",
    "auroc",
    "average_precision",
    "bootstrap_interval",
    "delong_interval",
    "delong_test",
    "pixel_auroc",
    "pixel_average_precision",
    "pro",
    "roc_curve_points",
    "trapezoid_auprc",
]
