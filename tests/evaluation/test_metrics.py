"""Scores against scikit-learn, and the bootstrap against resampling row by row."""

import json
import math
import re

import numpy as np
import pytest
import sklearn.metrics
from scipy import stats

from nlptl.errors import ConfigError, DataError
from nlptl.evaluation import uncertainty
from nlptl.evaluation.metrics import (
    Score,
    Scores,
    class_scores,
    count_classes,
    from_counts,
    log_loss,
    scorer,
)

# rows, classes, how many of the classes the labels use, how many the predictions use, accuracy
CASES = [
    (1, 2, 1, 2, 0.0),
    (1, 3, 3, 3, 1.0),
    (7, 2, 2, 2, 0.5),
    (50, 2, 2, 1, 0.0),
    (50, 2, 1, 1, 1.0),
    (200, 5, 5, 3, 0.3),
    (200, 5, 3, 5, 0.3),
    (300, 9, 4, 6, 0.8),
    (500, 77, 77, 77, 0.7),
    (3000, 1000, 1000, 900, 0.5),
]


def predictions_of(rows, classes, used, predicted, accuracy, seed=0):
    """Return labels and predictions; which classes are used is random as well."""
    rng = np.random.default_rng([seed, rows, classes, used])
    order = rng.permutation(classes)
    labels = order[rng.integers(used, size=rows)]
    guesses = order[::-1][rng.integers(predicted, size=rows)]
    return labels, np.where(rng.random(rows) < accuracy, labels, guesses)


def probabilities_of(predictions, classes, seed=0, dtype=np.float64):
    """Return random probabilities with their maximum at `predictions`."""
    probabilities = np.random.default_rng(seed).random((len(predictions), classes))
    rows = np.arange(len(predictions))
    probabilities[rows, predictions] = probabilities.max(axis=1) + 0.1
    return (probabilities / probabilities.sum(axis=1, keepdims=True)).astype(dtype)


def by_sklearn(labels, predictions):
    macro = {"average": "macro", "zero_division": 0}
    return {
        "accuracy": sklearn.metrics.accuracy_score(labels, predictions),
        "macro_f1": sklearn.metrics.f1_score(labels, predictions, **macro),
        "weighted_f1": sklearn.metrics.f1_score(labels, predictions, average="weighted", zero_division=0),
        "precision": sklearn.metrics.precision_score(labels, predictions, **macro),
        "recall": sklearn.metrics.recall_score(labels, predictions, **macro),
        "matthews": sklearn.metrics.matthews_corrcoef(labels, predictions),
    }


def scored(labels, probabilities, *, names, **options):
    return scorer(labels, probabilities, names=names).score(**options)


def names_of(classes):
    return [f"class {i}" for i in range(classes)]


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning", "ignore:y_pred contains classes")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_scikit_learn(case, seed):
    classes = case[1]
    labels, predictions = predictions_of(*case, seed=seed)
    probabilities = probabilities_of(predictions, classes, seed)
    expected = by_sklearn(labels, predictions)
    expected["log_loss"] = sklearn.metrics.log_loss(labels, probabilities, labels=range(classes))

    scores = scored(labels, probabilities, names=names_of(classes), resamples=20)

    assert {metric: score.value for metric, score in scores.items()} == pytest.approx(expected, abs=1e-12)
    assert all(score.n == len(labels) and score.low <= score.high for score in scores.values())


@pytest.mark.parametrize("case", CASES)
def test_per_class_scores_equal_scikit_learn_and_are_nan_without_support(case):
    classes = case[1]
    labels, predictions = predictions_of(*case)
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
        labels, predictions, labels=range(classes), zero_division=0
    )

    scores = scored(labels, probabilities_of(predictions, classes), names=names_of(classes), resamples=50)

    assert list(scores.per_class) == names_of(classes)
    for i, row in enumerate(scores.per_class.values()):
        assert list(row) == ["precision", "recall", "f1"]
        for score, expected in zip(row.values(), (precision[i], recall[i], f1[i]), strict=True):
            assert score.n == support[i]
            if support[i]:
                assert score.value == pytest.approx(expected, abs=1e-12)
                assert 0 <= score.low <= score.high <= 1
            else:
                assert all(math.isnan(number) for number in (score.value, score.low, score.high))


def test_from_counts_scores_each_resample_by_itself():
    samples = [predictions_of(60, 6, 4, 5, 0.4, seed=seed) for seed in range(8)]
    counts = [np.stack(arrays) for arrays in zip(*(count_classes(*s, num_classes=6) for s in samples), strict=True)]

    together = from_counts(*(array.reshape(4, 2, 6) for array in counts))

    for i, sample in enumerate(samples):
        expected = by_sklearn(*sample)
        assert {metric: array[i // 2, i % 2] for metric, array in together.items()} == pytest.approx(expected)


def test_from_counts_does_not_overflow_for_a_million_rows():
    true_positives, support, predicted = (
        np.array([400_000, 300_000]),
        np.array([500_000] * 2),
        np.array([600_000, 400_000]),
    )
    root = math.sqrt(6e5 * 5e5 * 5e5 * 4e5)
    assert from_counts(true_positives, support, predicted)["matthews"] == pytest.approx((4e5 * 3e5 - 2e5 * 1e5) / root)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_log_loss_clips_like_scikit_learn(dtype):
    probabilities = np.array([[0.0, 1.0], [1.0, 0.0], [0.25, 0.75]], dtype=dtype)
    labels = np.array([0, 0, 1])
    eps = np.finfo(dtype).eps
    assert log_loss(labels, probabilities) == pytest.approx([-math.log(eps), -math.log1p(-eps), -math.log(0.75)])
    if dtype != np.float16:  # scikit-learn widens float16 first
        expected = sklearn.metrics.log_loss(labels, probabilities)
        assert log_loss(labels, probabilities).mean() == pytest.approx(expected, rel=1e-6)


def test_the_first_of_equal_probabilities_is_predicted():
    scores = scored(np.array([0, 1]), np.full((2, 2), 0.5), names=["a", "b"], resamples=10)
    assert scores.per_class["a"]["recall"].value == 1
    assert scores.per_class["b"]["recall"].value == 0


# The first case has few cells and is drawn by cells, the second has nearly as many cells as rows.
@pytest.mark.parametrize("case", [(400, 3, 3, 3, 0.6), (120, 10, 10, 10, 0.3)])
def test_resampled_counts_are_distributed_like_resampled_rows(case):
    resamples, classes = 8000, case[1]
    labels, predictions = predictions_of(*case)
    rng = np.random.default_rng(1)
    drawn_rows = [rng.integers(len(labels), size=len(labels)) for _ in range(resamples)]
    counts = [count_classes(labels[rows], predictions[rows], num_classes=classes) for rows in drawn_rows]
    by_rows = from_counts(*(np.stack(arrays) for arrays in zip(*counts, strict=True)))

    drawn = uncertainty.resample_counts(labels, predictions, num_classes=classes, resamples=resamples, seed=0)
    ours = from_counts(*drawn)

    assert drawn[1].sum(axis=1).tolist() == drawn[2].sum(axis=1).tolist() == [len(labels)] * resamples
    for metric, expected in by_rows.items():
        # 4 standard errors of a difference of means; 8,000 resamples fix a standard deviation to about 1 %.
        assert ours[metric].mean() == pytest.approx(expected.mean(), abs=4 * expected.std() * math.sqrt(2 / resamples))
        assert ours[metric].std() == pytest.approx(expected.std(), rel=0.04), metric


def test_drawing_by_cells_and_by_rows_gives_the_same_distribution(monkeypatch):
    labels, predictions = predictions_of(300, 4, 4, 4, 0.5)
    deviations = []
    for rows_per_binomial in (0, 10**9):  # always by cells, always by rows
        monkeypatch.setattr(uncertainty, "_ROWS_PER_BINOMIAL", rows_per_binomial)
        counts = uncertainty.resample_counts(labels, predictions, num_classes=4, resamples=8000, seed=0)
        deviations.append(np.concatenate([array.std(axis=0) for array in counts]))
    assert deviations[0] == pytest.approx(deviations[1], rel=0.04)


@pytest.mark.parametrize("case", [(401, 3, 3, 3, 0.6), (121, 10, 10, 10, 0.3)])
def test_chunks_do_not_change_the_resamples(case, monkeypatch):
    labels, predictions = predictions_of(*case)
    settings = {"num_classes": case[1], "resamples": 50, "seed": 3}
    whole = uncertainty.resample_counts(labels, predictions, **settings)
    means = uncertainty.resample_means(predictions / 7, resamples=50, seed=3)
    monkeypatch.setattr(uncertainty, "_DRAWS_AT_ONCE", 3 * len(labels))
    for chunked, array in zip(uncertainty.resample_counts(labels, predictions, **settings), whole, strict=True):
        np.testing.assert_array_equal(chunked, array)
    np.testing.assert_array_equal(uncertainty.resample_means(predictions / 7, resamples=50, seed=3), means)


def test_intervals_agree_with_scipy():
    labels, predictions = predictions_of(500, 4, 4, 4, 0.6)
    probabilities = probabilities_of(predictions, 4)
    scores = scored(labels, probabilities, names=names_of(4), resamples=8000)
    for metric, values in {"accuracy": labels == predictions, "log_loss": log_loss(labels, probabilities)}.items():
        interval = stats.bootstrap(
            (values.astype(float),), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(5)
        ).confidence_interval
        width = interval.high - interval.low
        assert scores[metric].low == pytest.approx(interval.low, abs=0.04 * width)
        assert scores[metric].high == pytest.approx(interval.high, abs=0.04 * width)


def test_percentile_interval_equals_numpy_quantiles_and_leaves_nan_out():
    scores = np.random.default_rng(0).random((101, 3, 2))
    scores[::3, 1] = np.nan
    scores[:, 2] = np.nan
    low, high = uncertainty.percentile_interval(scores, confidence=0.9)
    for end, q in ((low, 0.05), (high, 0.95)):
        np.testing.assert_allclose(end[:2], np.nanquantile(scores[:, :2], q, axis=0), rtol=1e-12)
        assert np.isnan(end[2]).all()


def test_resamples_without_the_class_are_left_out_of_its_interval():
    labels = np.array([0] + [1] * 9)
    scores = scored(labels, np.eye(2)[labels], names=["rare", "common"], resamples=200)
    assert scores.per_class["rare"]["recall"] == Score(1.0, 1.0, 1.0, 1)


def test_the_seed_decides_and_confidence_widens():
    labels, predictions = predictions_of(300, 5, 5, 5, 0.6)
    probabilities = probabilities_of(predictions, 5)

    def scores_of(**settings):
        return scored(labels, probabilities, names=names_of(5), resamples=300, **settings)

    assert scores_of(seed=1).to_json() == scores_of(seed=1).to_json()
    assert scores_of(seed=1).to_json() != scores_of(seed=2).to_json()
    narrow, wide = scores_of(confidence=0.5), scores_of(confidence=0.99)
    assert all(wide[m].low < narrow[m].low <= narrow[m].value <= narrow[m].high < wide[m].high for m in narrow)


def test_scores_become_strict_json():
    labels, predictions = np.array([0, 1, 1]), np.array([0, 2, 1])
    scores = scored(labels, np.eye(3)[predictions], names=["a", "b", "c"], resamples=30)
    read = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert list(read) == [*scores, "per_class"]
    assert set(read["accuracy"]) == {"value", "low", "high", "n"}
    assert read["accuracy"]["value"] == scores["accuracy"].value
    assert read["per_class"]["b"]["recall"]["value"] == 0.5
    assert read["per_class"]["c"] == {
        metric: {"value": None, "low": None, "high": None, "n": 0} for metric in ("precision", "recall", "f1")
    }


def test_scores_without_classes():
    scores = Scores({"accuracy": Score(0.5, 0.4, 0.6, 10)})
    assert scores.per_class == {}
    assert scores.to_json() == {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}, "per_class": {}}


def test_class_scores_are_zero_without_a_denominator():
    scores = class_scores(np.array([0, 1]), np.array([0, 1]), np.array([0, 1]))
    assert {metric: array.tolist() for metric, array in scores.items()} == {
        metric: [0.0, 1.0] for metric in ("precision", "recall", "f1")
    }


LABELS = np.array([0, 1, 1])
PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        (np.array([0.0, 1.0, 1.0]), PROBABILITIES, "Expected labels as integer ids of shape [rows], found float64"),
        (LABELS[:, None], PROBABILITIES, "found int64 of shape [3, 1]. Turn label names into ids first"),
        (LABELS[:0], PROBABILITIES[:0], "Expected one example or more to score, found none."),
        (np.array([0, 1, 2]), PROBABILITIES, "Expected label ids from 0 to 1, one for each of the 2 names"),
        (np.array([0, -1, 1]), PROBABILITIES, "found ids from -1 to 1. Remove these rows"),
        (LABELS, PROBABILITIES[:2], "floats of shape [3, 2] for 3 labels and 2 names, found float64 of shape [2, 2]"),
        (LABELS, PROBABILITIES[:, 0], "found float64 of shape [3]. Pass one row for each label"),
        (LABELS, np.ones((3, 2), dtype=np.int64), "found int64 of shape [3, 2]."),
        (
            LABELS,
            np.where(PROBABILITIES == 0.5, np.nan, PROBABILITIES),
            "NaN or infinity in 1 of 3 rows, first in row 2",
        ),
        (LABELS, np.where(PROBABILITIES == 0.9, -np.inf, np.inf), "NaN or infinity in 3 of 3 rows"),
        (LABELS, 3 * PROBABILITIES, "found sum 3 and minimum 0.3 in row 0. Pass the softmax of the logits."),
        (LABELS, PROBABILITIES + [[-0.5, 0.5]], "found sum 1 and minimum -0.3 in row 1."),
    ],
)
def test_bad_predictions_are_refused(labels, probabilities, message):
    with pytest.raises(DataError, match=re.escape(message)):
        scored(labels, probabilities, names=["a", "b"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ["a", "a"]}, "Expected different label names, found ['a'] more than once."),
        ({"names": ["a", "b"], "resamples": 0}, "Expected 1 or more resamples, found 0. Pass resamples=2000"),
        (
            {"names": ["a", "b"], "confidence": 95},
            "Expected a confidence between 0 and 1, found 95. Pass confidence=0.95",
        ),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        scored(LABELS, PROBABILITIES, **settings)
