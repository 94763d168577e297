"""Prediction sets against MAPIE, and their coverage in simulation."""

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from nlptl.errors import ConfigError, DataError
from nlptl.evaluation.conformal import PredictionSets, fit_prediction_sets


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose probabilities are its input."""

    def fit(self, x, y):
        self.classes_ = np.arange(x.shape[1])
        self.n_features_in_ = x.shape[1]
        return self

    def predict_proba(self, x):
        return x

    def predict(self, x):
        return x.argmax(axis=1)


def draw(num_rows: int, *, seed: int, num_labels: int = 5):
    """Return label ids, and probabilities that are not theirs but not far from them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_rows, num_labels)) * 2
    drawn = rng.random(num_rows)[:, None] > softmax(logits, axis=1).cumsum(axis=1)
    return drawn.sum(axis=1).clip(max=num_labels - 1), softmax(logits * 1.7, axis=1)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("num_rows", [99, 100, 357])
def test_sets_are_those_of_mapie(coverage, num_rows):
    targets, probabilities = draw(num_rows, seed=0)
    _, new = draw(500, seed=1)
    given = Given().fit(probabilities, targets)
    mapie = SplitConformalClassifier(given, confidence_level=coverage, conformity_score="lac", prefit=True)
    mapie.conformalize(probabilities, targets)
    _, expected = mapie.predict_set(new)
    sets = fit_prediction_sets(targets, probabilities, coverage=coverage)
    np.testing.assert_array_equal(sets.of(new), expected[:, :, 0])
    assert 0 < sets.of(new).mean() < 1


def test_quantile_is_the_score_of_its_rank():
    targets, probabilities = draw(200, seed=2)
    scores = sorted(1 - probabilities[np.arange(200), targets])
    sets = fit_prediction_sets(targets, probabilities, coverage=0.9)
    assert sets.quantile == scores[int(np.ceil(201 * 0.9)) - 1]
    assert sets.n == 200
    # However little is asked for, it is the smallest score, not all labels.
    assert fit_prediction_sets(targets, probabilities, coverage=1e-13).quantile == scores[0] < 1
    # 0.9 * 10 is 9 exactly: the largest of nine scores.
    sets = fit_prediction_sets(targets[:9], probabilities[:9], coverage=0.9)
    assert sets.quantile == max(1 - probabilities[np.arange(9), targets[:9]])


def test_too_few_rows_give_all_labels():
    targets, probabilities = draw(8, seed=3)
    assert fit_prediction_sets(targets, probabilities, coverage=0.9).of(probabilities).all()


@pytest.mark.parametrize("coverage", [0.9, 0.7])
def test_coverage_is_as_stated(coverage):
    """Over 400 draws of 150 rows and 200 new ones; ties apart, it lies between coverage and coverage + 1 / 151."""
    held, total = 0, 0
    for seed in range(400):
        targets, probabilities = draw(350, seed=seed)
        sets = fit_prediction_sets(targets[:150], probabilities[:150], coverage=coverage)
        held += int(sets.of(probabilities[150:])[np.arange(200), targets[150:]].sum())
        total += 200
    # Rows that share a quantile hang together; their number is not that of independent ones, hence the factor.
    spread = np.sqrt(coverage * (1 - coverage) * (1 / 150 + 1 / 200) / 400)
    assert coverage - 4 * spread < held / total < coverage + 1 / 151 + 4 * spread


def test_what_cannot_be_fitted():
    targets, probabilities = draw(20, seed=0)
    with pytest.raises(DataError, match=r"found shapes \[20\] and \[19, 5\]"):
        fit_prediction_sets(targets, probabilities[:19], coverage=0.9)
    with pytest.raises(DataError, match=r"found shapes \[0\] and \[0, 5\]"):
        fit_prediction_sets(targets[:0], probabilities[:0], coverage=0.9)
    for values in ((1.0, 0.5, 10), (0.9, float("nan"), 10), (0.9, 0.5, 0)):
        with pytest.raises(ConfigError, match="Expected coverage and quantile between 0 and 1"):
            PredictionSets("lac", *values)
