"""What the pages say: names of metrics, numbers with their intervals, protocols in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wordsight.evaluate import Evaluation
    from wordsight.metrics import Number

DISCLAIMER = "Research software, not a medical device"
METRICS = {
    "image_auroc": "Image AUROC",
    "image_ap": "Image AP",
    "pixel_auroc": "Pixel AUROC",
    "pixel_ap": "Pixel AP",
    "pro": "PRO",
    "region_auroc": "Region AUROC",
    "region_ap": "Region AP",
}
KINDS = {
    "logit": "Scores are logits: any real number.",
    "probability": "Scores are probabilities in [0, 1].",
    "distance": "Scores are distances: zero or larger.",
    "scaled": "Scores are min-max scaled; [0, 1] on the data that set the scale.",
    "similarity": "Scores are similarities of image and sentence, cosines or multiples of them.",
    "attention": "Values are shares of attention: zero or larger.",
}
ASKED = {
    "similarity": "Similarities of different findings do not compare: compare images for one finding, not findings.",
    "logit": "Logits of different findings are on different scales: compare images for one finding, not findings.",
    "probability": "Each is the probability of a finding's sentence against the one that denies it; it is not "
    "calibrated on patients.",
}
"""What to know of scores that sentences asked for, by their kind."""
ATTENTION = "Maps show where the network looked for a finding, whether it is there or not."
OPTIMISTIC = "chosen on the test set, as the papers did: optimistic"
SELECTIONS = {
    "validation": "The model was chosen on the validation images; the test images played no part.",
    "last": "The model of the last epoch was used; nothing was chosen.",
    "published": "The model was " + OPTIMISTIC + ".",
    "none": "No model was chosen: nothing was trained.",
}
SCALES = {
    "none": "Scores were not scaled.",
    "validation": "Scores were min-max scaled with limits from the validation images.",
    "support": "Scores were min-max scaled with limits from the support images.",
    "training": "Scores were min-max scaled with limits from the images of the sets it was trained on.",
    "test": "Scores were min-max scaled over the whole test set, as the papers did.",
    "published": "Scores were min-max scaled over the whole test set, as the papers did.",
}
TRANSDUCTIVE = "Transductive, as the papers did: scores were scaled by their range over all test images."
MASK_RULES = {
    "any": "A mask pixel counts as lesion if it is not zero.",
    "half": "A mask pixel counts as lesion above half the largest value, as published.",
}
LONGEST = 160


def printable(value: object, longest: int = LONGEST) -> str:
    """Text safe to encode as UTF-8 (odd file-name bytes and control characters as escapes), its middle left out."""
    text = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= longest else f"{text[: longest // 2]} … {text[-longest // 2 :]}"


def failure_words(path: str, message: str) -> tuple[str, str]:
    """(path, message) as shown; a message that begins with the path does not say it twice."""
    return printable(path), printable(message.removeprefix(f"{path}: "), 300)


def metric_name(name: str) -> str:
    """The name for a table's head."""
    return METRICS.get(name, name.replace("_", " "))


def is_published(protocol: Mapping[str, Any]) -> bool:
    """Whether the model was chosen on the test set."""
    return str(protocol.get("selection", "")).lower() == "published"


def _shots(value: Any) -> str:
    if value == 0:
        return "Zero-shot: no image of this set was learned from."
    return f"{value}-shot: {value} support images of each class."


def protocol_sentences(protocol: Mapping[str, Any], kind: str) -> list[str]:
    """The protocol in words, one sentence per entry; entries without a known wording are named as they are."""
    told: list[str] = []
    rest = dict(protocol)
    selection, scale = rest.pop("selection", None), rest.pop("scale", None)
    if selection is not None:
        told.append(SELECTIONS.get(str(selection).lower(), f"Model selection: {selection}."))
    told.append(KINDS.get(kind, f"Kind of score: {kind}."))
    if scale is not None:
        told.append(SCALES.get(str(scale).lower(), f"Scaling of scores: {scale}."))
    if (shots := rest.pop("shots", None)) is not None:
        told.append(_shots(shots))
    if (transductive := rest.pop("transductive", None)) is not None:
        told.append(TRANSDUCTIVE if transductive else "Each score depends on its own image alone.")
    if (rule := rest.pop("mask_rule", None)) is not None:
        told.append(MASK_RULES.get(str(rule), f"Mask rule: {rule}."))
    told += [f"{key.replace('_', ' ').capitalize()}: {value}." for key, value in rest.items() if value is not None]
    return [printable(sentence, 400) for sentence in told]


def number_words(number: Number | None) -> tuple[str, str]:
    """(value, interval) as shown: three decimals, or "undefined (reason)" with the reason; never a made-up zero."""
    if number is None:
        return "not measured", ""
    if not math.isfinite(number.value):
        return f"undefined ({printable(number.note) or 'no reason given'})", ""
    note = f" ({printable(number.note)})" if number.note else ""
    if not (math.isfinite(number.low) and math.isfinite(number.high)):
        return f"{number.value:.3f}", f"no interval{note}"
    return f"{number.value:.3f}", f"{number.low:.3f} – {number.high:.3f}{note}"


def draw_name(evaluation: Evaluation) -> str:
    """What tells one evaluation from its sisters: "draw 2, seed 0", or "" where neither is given."""
    named = [(k, evaluation.protocol.get(k)) for k in ("draw", "seed")]
    return ", ".join(f"{key} {printable(value)}" for key, value in named if value is not None)
