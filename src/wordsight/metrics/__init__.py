"""Arrays to numbers: ranking, pixels, intervals. Undefined is NaN with a reason, never 0."""

from wordsight.metrics.findings import FindingTable, long_tail, rank_findings
from wordsight.metrics.intervals import bootstrap_interval, delong_interval, delong_test, share_of_hits
from wordsight.metrics.number import Number, Spread
from wordsight.metrics.pixels import pixel_auroc, pixel_average_precision, pro
from wordsight.metrics.pointing import mean_share_of_hits, pointing_hit
from wordsight.metrics.ranking import auroc, average_precision, roc_curve_points, trapezoid_auprc
from wordsight.metrics.readings import reading_agreement

__all__ = [
    "FindingTable",
    "Number",
    "Spread",
    "auroc",
    "average_precision",
    "bootstrap_interval",
    "delong_interval",
    "delong_test",
    "long_tail",
    "mean_share_of_hits",
    "pixel_auroc",
    "pixel_average_precision",
    "pointing_hit",
    "pro",
    "rank_findings",
    "reading_agreement",
    "roc_curve_points",
    "share_of_hits",
    "trapezoid_auprc",
]
