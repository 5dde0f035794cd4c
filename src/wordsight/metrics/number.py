"""A measured value with its interval, and the spread of a value over several runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NAN = float("nan")


def _plain(value: float) -> float | None:
    """The value as JSON has it: None where it is not finite."""
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Number:
    """One metric: value and interval; NaN means undefined, and then `note` says why.

    low, high: the interval, NaN where there is none. n: how many images the value rests on.
    note: why value or interval is undefined, or what was left out; "" when there is nothing to say.
    """

    value: float
    low: float = NAN
    high: float = NAN
    n: int = 0
    note: str = ""

    @property
    def defined(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)

    def __str__(self) -> str:
        """`0.913 [0.88, 0.94]`, `0.913` without an interval, or `undefined (only one class)`."""
        if not self.defined:
            return f"undefined ({self.note})" if self.note else "undefined"
        if math.isnan(self.low) or math.isnan(self.high):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.2f}, {self.high:.2f}]"

    def to_json(self) -> dict[str, float | int | str | None]:
        """Plain values; NaN becomes None, since JSON has no NaN."""
        interval = {"low": _plain(self.low), "high": _plain(self.high)}
        return {"value": _plain(self.value), **interval, "n": self.n, "note": self.note}


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation (n - 1) of one metric over `n` runs; std is NaN for a single run."""

    mean: float
    std: float
    n: int
    note: str = ""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Over the values that are defined; how many were not is said in the note."""
        known = [v for v in values if not math.isnan(v)]
        lost = len(values) - len(known)
        note = f"undefined in {lost} of {len(values)} runs" if lost else ""
        if not known:
            return cls(NAN, NAN, 0, note or "no runs")
        mean = math.fsum(known) / len(known)
        squares = math.fsum((v - mean) ** 2 for v in known)
        std = math.sqrt(squares / (len(known) - 1)) if len(known) > 1 else NAN
        return cls(mean, std, len(known), note)

    def __str__(self) -> str:
        """`0.913 ± 0.012 (n = 5)`, without the deviation for one run."""
        if math.isnan(self.mean):
            return f"undefined ({self.note})"
        deviation = "" if math.isnan(self.std) else f" ± {self.std:.3f}"
        return f"{self.mean:.3f}{deviation} (n = {self.n})"

    def to_json(self) -> dict[str, float | int | str | None]:
        """Plain values; NaN becomes None, since JSON has no NaN."""
        return {"mean": _plain(self.mean), "std": _plain(self.std), "n": self.n, "note": self.note}
