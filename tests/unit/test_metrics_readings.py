"""Agreement of readings with labels against scikit-learn, and what is undefined."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, f1_score, matthews_corrcoef, recall_score

from wordsight.errors import MetricError
from wordsight.metrics import reading_agreement
from wordsight.metrics.intervals import bootstrap_weights
from wordsight.metrics.readings import AGREEMENT, confusion_counts


def by_scikit_learn(labels, readings):
    return [
        recall_score(labels, readings),
        recall_score(labels, readings, pos_label=0),
        f1_score(labels, readings),
        matthews_corrcoef(labels, readings),
        cohen_kappa_score(labels, readings),
    ]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(10, 60))
def test_values_and_draws_are_scikit_learn(seed, n):
    rng = np.random.default_rng(seed)
    labels, readings = rng.integers(0, 2, (n, 2)), rng.integers(0, 2, (n, 2))
    labels[:2], readings[:2] = [[0, 0], [1, 1]], [[0, 0], [1, 1]]
    groups = [str(i) for i in range(n)]
    table = reading_agreement(labels, readings, groups, draws=4, seed=seed)
    weights = np.concatenate(list(bootstrap_weights(groups, draws=4, seed=seed))).astype(int)
    for f in range(2):
        assert table.values[:, f] == pytest.approx(by_scikit_learn(labels[:, f], readings[:, f]), abs=1e-12)
        for d, times in enumerate(weights):
            y, r = np.repeat(labels[:, f], times), np.repeat(readings[:, f], times)
            if 0 < y.sum() < len(y) and 0 < r.sum() < len(r):
                assert table.drawn[:, f, d] == pytest.approx(by_scikit_learn(y, r), abs=1e-12)


def test_counts():
    labels = np.array([[1, 0], [1, 0], [0, 1], [0, 0]])
    readings = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    assert confusion_counts(labels, readings).tolist() == [[1, 1], [1, 0], [1, 2], [1, 1]]


@pytest.mark.parametrize(
    ("labels", "readings", "undefined"),
    [
        ([0, 0, 0], [0, 1, 0], {"sensitivity", "mcc"}),
        ([1, 1, 1], [0, 1, 0], {"specificity", "mcc"}),
        ([0, 0, 0], [0, 0, 0], {"sensitivity", "f1", "mcc", "kappa"}),
        ([0, 1, 0], [0, 0, 0], {"mcc"}),
    ],
)
def test_a_zero_denominator_is_undefined(labels, readings, undefined):
    table = reading_agreement(np.array([labels]).T, np.array([readings]).T, ["a", "b", "c"], draws=0)
    assert {m for m in AGREEMENT if math.isnan(table.number(m, 0).value)} == undefined
    for metric in undefined:
        assert table.number(metric, 0).note
    if "sensitivity" in undefined:
        assert str(table.number("sensitivity", 0)) == "undefined (no positive label)"


def test_other_values_are_refused():
    with pytest.raises(MetricError, match=r"expected readings 0 or 1, got 0.5 and 1 more"):
        reading_agreement(np.array([[0], [1]]), np.array([[0.5], [0.7]]), ["a", "b"])
    with pytest.raises(MetricError, match=r"expected labels 0 or 1, got -1"):
        reading_agreement(np.array([[0], [-1]]), np.array([[0], [1]]), ["a", "b"])
