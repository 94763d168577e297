"""Find labels that are likely wrong with a logistic regression over a frozen encoder."""

import logging
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from nlptl.evaluation.label_errors import rank_label_errors
from nlptl.model.classifier import Classifier

FOLDS = 5
MAX_ITERATIONS = 1000

logger = logging.getLogger(__name__)


class Suspect(NamedTuple):
    """An example whose label is likely wrong."""

    place: int
    """Index of the text."""
    likely: str
    """The label that it probably should have."""
    margin: float
    """Probability of its label minus that of the best other one: the lower, the more probably it is wrong."""


def find_label_errors(
    model: Classifier, texts: Sequence[str], labels: Sequence[str], *, seed: int = 0
) -> tuple[list[Suspect], np.ndarray]:
    """Return the examples whose labels are likely wrong, the most likely first, and the margin of every example.

    The probabilities of an example come from a regression that was fitted to the other four folds. Classes with fewer
    than five examples are not judged: the margin of their examples is NaN.

    Args:
        model: Classifier with the encoder to use; its head is ignored.
        texts: The texts.
        labels: The label of each text.
        seed: Seeds the assignment of examples to folds.
    """
    counts = Counter(labels)
    names = sorted(name for name in counts if counts[name] >= FOLDS)
    code_of = {name: code for code, name in enumerate(names)}
    judged = np.array([i for i, label in enumerate(labels) if label in code_of], dtype=np.int64)
    margins = np.full(len(labels), np.nan)
    if len(names) < 2:
        logger.warning("labels are not checked: fewer than two classes have %d examples or more", FOLDS)
        return [], margins
    codes = np.array([code_of[labels[i]] for i in judged])
    features = model.encode([texts[i] for i in judged], progress="encoding").astype(np.float64)
    probabilities = _out_of_fold(features, codes, seed)
    wrong, likely, found = rank_label_errors(codes, probabilities)
    margins[judged] = found
    suspects = [Suspect(int(judged[i]), names[k], float(found[i])) for i, k in zip(wrong, likely, strict=True)]
    return suspects, margins


def _out_of_fold(features: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found: np.ndarray = cross_val_predict(
            LogisticRegression(max_iter=MAX_ITERATIONS), features, labels, cv=folds, method="predict_proba"
        )
    return found
