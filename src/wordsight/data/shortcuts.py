"""How well a label can be told from what has nothing to do with disease: stored size and grey-value statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FEATURES = ("height", "width", "mean", "std")
SHORTCUTS = {"stored size": ("height", "width"), "mean and std": ("mean", "std"), "size, mean and std": FEATURES}
SHORTCUT_TEXTS = {
    "stored size": "the stored size alone",
    "mean and std": "the mean and standard deviation of the grey values alone",
    "size, mean and std": "stored size, mean and standard deviation alone",
}
FOLDS = 5
MIN_PER_CLASS = 10


def shortcut_aurocs(
    features: NDArray[np.float64], labels: NDArray[np.int64], groups: Sequence[str], *, seed: int = 0
) -> dict[str, float | None]:
    """AUROC of a logistic regression on each set of simple features, by 5-fold cross-validation over groups.

    features: (N, 4) float64 in the order of FEATURES. labels: (N,) 0/1. groups: (N,) patients, or unique names where
    none is known; a group is never split. 0.5 means no shortcut; every value is None with fewer than 10 images or 5
    groups in a class. Scores are pooled over the folds.
    """
    group_array = np.asarray(groups, dtype=object)
    for label in (0, 1):
        mine = labels == label
        if int(mine.sum()) < MIN_PER_CLASS or len(set(group_array[mine])) < FOLDS:
            return dict.fromkeys(SHORTCUTS)
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _, codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    result: dict[str, float | None] = {}
    for name, columns in SHORTCUTS.items():
        chosen = features[:, [FEATURES.index(column) for column in columns]]
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        scores = cross_val_predict(model, chosen, labels, groups=codes, cv=folds, method="decision_function")
        result[name] = float(roc_auc_score(labels, scores))
    return result


def is_shortcut(auroc: float | None, normal: int, abnormal: int) -> bool:
    """Whether an AUROC is above chance beyond doubt (3 standard errors under chance) and by at least 0.1.

    The standard error is that of the Mann-Whitney statistic without ties, sqrt((m + n + 1) / (12 m n)).
    """
    if auroc is None:
        return False
    error = math.sqrt((normal + abnormal + 1) / (12 * normal * abnormal))
    return auroc > 0.5 + max(0.1, 3 * error)
