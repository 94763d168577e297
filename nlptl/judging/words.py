"""Baselines that read only words: linear models over TF-IDF, and for tags the most frequent tag of each word.

The features are words, word bigrams and character n-grams within words, with sublinear counts: linear models of such
features are hard to beat on short texts (Wang and Manning 2012, "Baselines and Bigrams").
"""

import warnings
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_union

from nlptl.config import ClassWeights
from nlptl.data.sources import Examples
from nlptl.data.splits import Splits
from nlptl.evaluation.metrics import sign_of
from nlptl.tasks.multi_label import MultiLabel
from nlptl.tasks.regression import Regression
from nlptl.tasks.task import Task
from nlptl.tasks.tokens import TokenLabels

STRENGTHS = (1.0, 10.0, 100.0)
"""Values of C, or of 1 / alpha; the best one on validation is kept."""
MAX_FEATURES = 200_000
"""Number of the most frequent features to keep, of words and of characters each."""
MAX_ITERATIONS = 1000
UNSEEN = -1e30
"""Logit of a label without an example in train."""


@dataclass(frozen=True)
class WordModel:
    """Logits of validation and test, as the task expects them, and the number of parameters."""

    validation: torch.Tensor
    test: torch.Tensor
    parameters: int


def name_of_words(task: Task) -> str:
    """Return the name of the model that `fit_words` fits for a task."""
    if isinstance(task, TokenLabels):
        return "most frequent tag of a word"
    return f"TF-IDF, {'ridge' if isinstance(task, Regression) else 'logistic'} regression"


def fit_words(task: Task, splits: Splits, *, metric: str, class_weights: ClassWeights = None) -> WordModel:
    """Fit a baseline that reads only words to train; the strength of its regularization is chosen on validation.

    It is logistic regression (one for each label of several), ridge regression of numbers, or for tags the most
    frequent tag of each word in train (of all words, for an unknown word). For pairs, the features are those of both
    texts, the geometric means of these, and the cosine.

    `metric` is the score on validation that chooses the strength; `class_weights` are "balanced", or the weight of each
    label, in the loss of logistic regression.
    """
    if isinstance(task, TokenLabels):
        return _count_tags(task, splits)
    targets, wanted = task.targets(splits.train), task.targets(splits.validation)
    train, validation, test = _features(splits)
    fits = []
    for strength in STRENGTHS:
        fitted = _fit(task, train, targets, strength, class_weights)
        logits = _logits(task, fitted, validation)
        fits.append((sign_of(metric) * task.point_scores(wanted, task.outputs(logits))[metric], fitted, logits))
    _, fitted, logits = max(fits, key=lambda fit: fit[0])
    return WordModel(logits, _logits(task, fitted, test), _num_parameters(fitted))


def _features(splits: Splits) -> list[sparse.csr_matrix]:
    """Return the features of train, validation and test, fitted to train."""
    tfidf = partial(TfidfVectorizer, sublinear_tf=True, max_features=MAX_FEATURES, dtype=np.float32)
    features = make_union(
        tfidf(ngram_range=(1, 2), token_pattern=r"(?u)\w+|[^\w\s]+"),
        tfidf(ngram_range=(2, 5), analyzer="char_wb"),
    )
    features.fit([*splits.train.texts, *splits.train.pairs])

    def of(examples: Examples) -> sparse.csr_matrix:
        first = features.transform(examples.texts)
        if not examples.pairs:
            return first
        second = features.transform(examples.pairs)
        shared = first.multiply(second)
        return sparse.hstack([first, second, shared.sqrt(), shared.sum(axis=1)], format="csr")

    return [of(part) for part in (splits.train, splits.validation, splits.test)]


def _fit(
    task: Task, features: sparse.csr_matrix, targets: np.ndarray, strength: float, class_weights: ClassWeights
) -> Any:
    if isinstance(task, Regression):
        means, scales = task.scaling()
        return Ridge(alpha=1 / strength).fit(features, (targets - means) / scales)
    weights = dict(enumerate(class_weights)) if isinstance(class_weights, tuple) else class_weights
    if isinstance(task, MultiLabel) and weights != "balanced":
        weights = None  # weights of labels do not apply to one label against its absence
    model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, class_weight=weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Label .* is present in all training examples")
        return (OneVsRestClassifier(model) if isinstance(task, MultiLabel) else model).fit(features, targets)


def _logits(task: Task, fitted: Any, features: sparse.csr_matrix) -> torch.Tensor:
    if isinstance(task, Regression):
        return torch.from_numpy(fitted.predict(features).reshape(-1, len(task.names)))
    found = fitted.decision_function(features).astype(np.float64)
    if isinstance(task, MultiLabel):
        return torch.from_numpy(found)
    if found.ndim == 1:  # two labels have the logits (0, z)
        found = np.stack([np.zeros_like(found), found], axis=1)
    logits = np.full((len(found), len(task.names)), UNSEEN)
    logits[:, fitted.classes_] = found
    return torch.from_numpy(logits)


def _num_parameters(fitted: Any) -> int:
    models = fitted.estimators_ if isinstance(fitted, OneVsRestClassifier) else [fitted]
    return sum(np.size(m.coef_) + np.size(m.intercept_) for m in models if hasattr(m, "coef_"))


def _count_tags(task: TokenLabels, splits: Splits) -> WordModel:
    counts: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(task.names)))
    for text, tags in zip(splits.train.texts, task.targets(splits.train), strict=True):
        for word, tag in zip(text.split(" "), tags, strict=True):
            counts[word][tag] += 1
    of_all = np.sum(list(counts.values()), axis=0)

    def logits(examples: Examples) -> torch.Tensor:
        found = np.array([counts.get(word, of_all) for text in examples.texts for word in text.split(" ")])
        # Smoothing: one more occurrence of each word, distributed like the tags of all words.
        return torch.from_numpy(np.log(found + (of_all + 1e-9) / of_all.sum()))

    return WordModel(logits(splits.validation), logits(splits.test), len(counts))
