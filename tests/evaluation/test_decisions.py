"""Abstention, scope and thresholds against plain search."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from nlptl.errors import ConfigError
from nlptl.evaluation.decisions import Abstention, Decisions, Scope, fit_abstention, fit_scope, scope_scores, share_text
from nlptl.evaluation.multi_label import tune_thresholds


@pytest.mark.parametrize("target", [0.7, 0.8, 0.9])
def test_abstention_gives_as_many_labels_as_the_accuracy_allows(target):
    rng = np.random.default_rng(0)
    confidence = np.round(rng.uniform(0.5, 1, 300), 2)  # with ties
    correct = rng.random(300) < confidence
    found = fit_abstention(correct, confidence, target_accuracy=target)
    possible = {t: correct[confidence >= t].mean() for t in np.unique(confidence)}
    lowest = min(t for t, accuracy in possible.items() if accuracy >= target)
    is_given = confidence >= found.below
    np.testing.assert_array_equal(is_given, confidence >= lowest)
    assert found.accuracy == pytest.approx(correct[is_given].mean())
    assert found.coverage == pytest.approx(is_given.mean())
    assert found.target_accuracy == target


def test_abstention_that_is_not_needed_or_not_possible():
    confidence = np.array([0.9, 0.8, 0.6])
    assert fit_abstention(np.array([True, True, True]), confidence, target_accuracy=0.9).below == 0
    assert fit_abstention(np.array([False, True, True]), confidence, target_accuracy=0.9) is None


def test_scope_keeps_the_share_that_is_asked_for():
    logits = np.random.default_rng(1).normal(size=(200, 4)) * 3
    np.testing.assert_allclose(scope_scores(logits), torch.from_numpy(logits).logsumexp(dim=1).numpy(), atol=1e-12)
    scope = fit_scope(logits, kept=0.95)
    assert (scope_scores(logits) >= scope.least).sum() == 190
    assert fit_scope(logits[:7], kept=0.95).least == scope_scores(logits[:7]).min()


@pytest.mark.parametrize("metric", ["f1", "accuracy", "macro_f1", "matthews"])
def test_no_other_threshold_is_better(metric):
    rng = np.random.default_rng(2)
    probabilities = rng.random((120, 1))
    targets = rng.random((120, 1)) < probabilities**2
    score = {
        "f1": lambda t, p: metrics.f1_score(t, p, zero_division=0),
        "accuracy": metrics.accuracy_score,
        "macro_f1": lambda t, p: metrics.f1_score(t, p, average="macro", zero_division=0),
        "matthews": metrics.matthews_corrcoef,
    }[metric]
    (threshold,) = tune_thresholds(targets, probabilities, metric=metric)
    best = max(score(targets[:, 0], probabilities[:, 0] >= t) for t in [*probabilities[:, 0], 0.0, 1.1])
    assert score(targets[:, 0], probabilities[:, 0] >= threshold) == pytest.approx(best, abs=1e-12)


def test_shares_have_exact_intervals():
    assert share_text(0, 0) == "none"
    assert share_text(90, 100) == "0.9000 (0.8238 to 0.9510)"  # Clopper and Pearson, by R's binom.test(90, 100)


def test_numbers_that_are_no_decisions():
    with pytest.raises(ConfigError, match="Expected probabilities from 0 to 1 for abstention"):
        Abstention(float("nan"))
    with pytest.raises(ConfigError, match="Expected a share between 0 and 1 and a finite score"):
        Scope(0.95, float("inf"))
    with pytest.raises(ConfigError, match=r"Expected a threshold from 0 to 1, found 1\.5"):
        Decisions(threshold=1.5)
