"""Tests of differences against statsmodels, scipy and counting; coverage and false alarms by simulation."""

import math

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from nlptl.errors import ConfigError, DataError
from nlptl.evaluation import metrics, multi_label, ordinal, regression, spans, uncertainty
from nlptl.evaluation.comparison import (
    holm,
    mcnemar,
    paired_bootstrap,
    randomization_test,
    smallest_accuracy_difference,
    smallest_difference,
)


def two_systems(rng, rows, accuracies=(0.7, 0.8)):
    return tuple(rng.random(rows) < accuracy for accuracy in accuracies)


def accuracy_of(correct):
    return lambda weights: {"accuracy": weights @ correct.astype(float) / weights.sum(axis=1)}


@pytest.mark.parametrize("seed", range(20))
def test_mcnemar_is_that_of_statsmodels(seed):
    rng = np.random.default_rng(seed)
    a, b = two_systems(rng, int(rng.integers(1, 400)), rng.random(2))
    table = [[np.sum(a & b), np.sum(a & ~b)], [np.sum(~a & b), np.sum(~a & ~b)]]
    assert mcnemar(a, b) == mcnemar(b, a)
    assert mcnemar(a, b) == pytest.approx(reference_mcnemar(table, exact=True).pvalue, abs=1e-9)


def test_mcnemar_of_systems_that_agree():
    assert mcnemar(np.array([True, False]), np.array([True, False])) == 1.0
    with pytest.raises(DataError, match=r"found shapes \[3\] and \[2\]\. Score both systems on the same examples"):
        mcnemar(np.ones(3, bool), np.ones(2, bool))


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_that_of_statsmodels(seed):
    rng = np.random.default_rng(seed)
    p_values = np.round(rng.random(rng.integers(1, 12)) ** 4, 2)  # with ties
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], atol=1e-9)
    assert holm([]).shape == (0,)


@pytest.mark.parametrize("wrong", [[0.2, 1.1], [-0.1], [math.nan], [[0.1]]])
def test_holm_refuses_what_are_no_p_values(wrong):
    with pytest.raises(DataError, match="Expected p-values from 0 to 1"):
        holm(np.array(wrong))


def test_paired_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(0)
    a, b = two_systems(rng, 300)
    found = paired_bootstrap(accuracy_of(a), accuracy_of(b), 300, resamples=8000, seed=1)["accuracy"]
    reference = stats.bootstrap(
        (a.astype(float), b.astype(float)),
        lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=8000,
        method="percentile",
        rng=np.random.default_rng(2),
    )
    width = reference.confidence_interval.high - reference.confidence_interval.low
    assert found.value == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    assert found.low == pytest.approx(reference.confidence_interval.low, abs=0.04 * width)
    assert found.high == pytest.approx(reference.confidence_interval.high, abs=0.04 * width)
    assert found.standard_error == pytest.approx(reference.standard_error, rel=0.04)


def test_paired_bootstrap_resamples_both_systems_alike():
    correct = np.random.default_rng(0).random(50) < 0.5
    found = paired_bootstrap(accuracy_of(correct), accuracy_of(correct), 50, resamples=20)["accuracy"]
    assert (found.value, found.low, found.high, found.standard_error) == (0, 0, 0, 0)


def test_randomization_agrees_with_all_permutations():
    rng = np.random.default_rng(3)
    a, b = two_systems(rng, 12, (0.3, 0.8))
    exact = stats.permutation_test(
        (a.astype(float), b.astype(float)),
        lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
    ).pvalue
    found = randomization_test(accuracy_of(np.concatenate([a, b])), 12, resamples=40_000, seed=0)["accuracy"]
    assert 0.01 < exact < 0.9
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 40_000))


def test_randomization_counts_itself_and_ties_as_hits():
    same = np.random.default_rng(0).random(101) < 0.6
    assert randomization_test(accuracy_of(np.concatenate([same, same])), 101, resamples=99)["accuracy"] == 1.0
    apart = np.concatenate([np.ones(60), np.zeros(60)])
    assert randomization_test(accuracy_of(apart), 60, resamples=99)["accuracy"] == 1 / 100
    numbers = np.random.default_rng(0).random(100) / 3  # whose sums are rounded in another order
    losses = np.concatenate([numbers, numbers])
    mean = randomization_test(lambda w: {"log_loss": w @ losses / w.sum(axis=1)}, 100, resamples=99)
    assert mean["log_loss"] == 1.0


def test_seeds_and_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = two_systems(rng, 81)
    pooled = accuracy_of(np.concatenate([a, b]))

    def both(seed):
        interval = paired_bootstrap(accuracy_of(a), accuracy_of(b), 81, resamples=100, seed=seed)
        return interval, randomization_test(pooled, 81, resamples=100, seed=seed)

    first = both(0)
    monkeypatch.setattr(uncertainty, "_DRAWS_AT_ONCE", 500)
    assert both(0) == first
    assert both(1) != first


def test_smallest_difference_is_found_in_four_of_five_cases():
    assert smallest_difference(2.0) == pytest.approx(2 * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)), abs=1e-9)
    rng, error = np.random.default_rng(0), 0.03
    observed = rng.normal(smallest_difference(error), error, size=40_000)
    assert np.mean(np.abs(observed / error) > stats.norm.ppf(0.975)) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("rows", [30, 100, 853, 10_000])
@pytest.mark.parametrize("discordant", [0.05, 0.2, 0.5])
def test_smallest_accuracy_difference_has_the_power_asked_for(rows, discordant):
    def missing_power(difference):
        spread = math.sqrt(max(discordant - difference**2, 1e-300))
        z = math.sqrt(rows) * difference - stats.norm.ppf(0.995) * math.sqrt(discordant)
        return z / spread - stats.norm.ppf(0.9)

    found = smallest_accuracy_difference(rows, discordant, level=0.01, power=0.9)
    if missing_power(discordant) < 0:
        assert found is None
    else:
        assert found == pytest.approx(optimize.brentq(missing_power, 1e-9, discordant, xtol=1e-13), abs=1e-9)


def test_smallest_accuracy_difference_is_one_that_mcnemar_finds():
    rows, discordant = 800, 0.15
    difference = smallest_accuracy_difference(rows, discordant)
    rng = np.random.default_rng(0)
    shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    counts = rng.multinomial(rows, shares, size=4000)
    found = [reference_mcnemar([[0, a], [b, 0]], exact=False, correction=False).pvalue <= 0.05 for a, b, _ in counts]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
    assert smallest_accuracy_difference(3, 0.5) is None


def test_settings_out_of_range_are_refused():
    score = accuracy_of(np.ones(3, bool))
    with pytest.raises(ConfigError, match="Expected 2 or more resamples, found 1"):
        paired_bootstrap(score, score, 3, resamples=1)
    with pytest.raises(ConfigError, match="Expected 1 or more resamples, found 0"):
        randomization_test(score, 3, resamples=0)
    with pytest.raises(ConfigError, match="Expected a level and a power between 0 and 1, found 0 and 0.8"):
        smallest_difference(1.0, level=0)
    with pytest.raises(ConfigError, match="found 0.05 and 1"):
        smallest_accuracy_difference(10, 0.1, power=1)


def by_kind(kind, rng, rows):
    """Return a function from chosen rows to their scorer, for a kind of task."""
    if kind == "regression":
        targets, values = rng.normal(size=(2, rows, 2)).round(1)  # with ties
        return lambda chosen: regression.scorer(targets[chosen], values[chosen], names=["a", "b"])
    if kind == "multi_label":
        targets, shares = rng.random((rows, 5)) < 0.3, rng.random((rows, 5))
        return lambda chosen: multi_label.scorer(
            targets[chosen], shares[chosen], predicted=shares[chosen] >= 0.4, names=list("abcde")
        )
    if kind == "tokens":
        true, found = ([list(rng.choice(["O", "B-x", "I-x", "B-y"], size=6)) for _ in range(rows)] for _ in range(2))
        return lambda chosen: spans.scorer([true[i] for i in chosen], [found[i] for i in chosen])
    labels, shares = rng.integers(4, size=rows), rng.dirichlet(np.ones(4), size=rows)
    module = {"single_label": metrics, "ordinal": ordinal}[kind]
    return lambda chosen: module.scorer(labels[chosen], shares[chosen], names=list("abcd"))


@pytest.mark.parametrize("kind", ["single_label", "ordinal", "multi_label", "regression", "tokens"])
def test_weighted_scores_are_those_of_the_rows_that_count(kind):
    rng = np.random.default_rng(0)
    scorer_of = by_kind(kind, rng, 30)
    weights = np.vstack([np.ones(30), rng.integers(3, size=(3, 30)), np.arange(30) < 15, np.arange(30) == 4])
    found = scorer_of(np.arange(30)).weighted(weights.astype(np.float64))
    for i, counts in enumerate(weights.astype(int)):
        expected = scorer_of(np.repeat(np.arange(30), counts)).points()
        assert len(expected) >= 5
        assert {name: values[i] for name, values in found.items()} == pytest.approx(expected, abs=1e-9)


def confusions(shares, accuracy):
    """Return the probability of each label with each prediction; mistakes go to the other classes by their shares."""
    shares = np.array(shares)
    wrong = shares[:, None] * (1 - accuracy) * shares / (1 - shares[:, None])
    return np.where(np.eye(len(shares), dtype=bool), accuracy * shares[:, None], wrong)


@pytest.mark.parametrize(
    ("shares", "accuracy", "rows", "num_simulations"),
    [
        ([0.6, 0.4], 0.8, 100, 2000),
        *(
            pytest.param(shares, accuracy, *sizes, marks=pytest.mark.nightly)
            for shares, accuracy in (([0.8, 0.2], 0.85), ([0.4, 0.3, 0.2, 0.1], 0.7))
            for sizes in ((100, 2000), (500, 2000), (2000, 1000))
        ),
    ],
)
def test_intervals_cover_the_true_score(shares, accuracy, rows, num_simulations):
    """95 % intervals of new test sets hold what the system scores on all texts in 93 to 97 % of cases."""
    cells = confusions(shares, accuracy)
    num_classes, rounding = len(shares), 1e-9  # accuracies are counts over rows, and often that of all texts itself
    truth = metrics.from_counts(np.diag(cells), cells.sum(axis=1), cells.sum(axis=0))
    rng = np.random.default_rng([rows, num_classes])
    covered = dict.fromkeys(("accuracy", "macro_f1", "matthews"), 0)
    for seed in range(num_simulations):
        labels, predictions = np.divmod(rng.choice(cells.size, p=cells.ravel(), size=rows), num_classes)
        counts = uncertainty.resample_counts(labels, predictions, num_classes=num_classes, resamples=1000, seed=seed)
        drawn = metrics.from_counts(*counts)
        for name in covered:
            low, high = uncertainty.percentile_interval(drawn[name], confidence=0.95)
            covered[name] += int(low - rounding <= truth[name] <= high + rounding)
    shares_covered = {name: count / num_simulations for name, count in covered.items()}
    assert all(0.93 <= share <= 0.97 for share in shares_covered.values()), shares_covered


@pytest.mark.nightly
@pytest.mark.parametrize("rows", [100, 300])
def test_equally_good_systems_are_told_apart_in_one_of_twenty_cases_at_most(rows):
    rng, num_simulations = np.random.default_rng(rows), 1000
    alarms = dict.fromkeys(("mcnemar", "accuracy", "macro_f1"), 0)
    for seed in range(num_simulations):
        labels = rng.integers(2, size=rows)
        # As two seeds of one training: mostly the same mistakes, and some of their own.
        shared = rng.random(rows) < 0.15
        a, b = (np.where(shared ^ (rng.random(rows) < 0.1), 1 - labels, labels) for _ in range(2))
        predictions = np.concatenate([a, b])
        pooled = metrics.scorer(
            np.concatenate([labels, labels]), np.eye(2)[predictions], names=["a", "b"], predictions=predictions
        ).weighted
        p_values = {"mcnemar": mcnemar(a == labels, b == labels)}
        p_values |= randomization_test(pooled, rows, resamples=499, seed=seed)
        for name in alarms:
            alarms[name] += int(p_values[name] <= 0.05)
    shares = {name: count / num_simulations for name, count in alarms.items()}
    assert all(0 < share <= 0.055 for share in shares.values()), shares
