"""What is chosen on held-out data, for each kind of task: calibration, thresholds, abstention, sets, scope."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from nlptl.config import DecisionConfig, HeadConfig, TrainingConfig
from nlptl.errors import ConfigError
from nlptl.evaluation.calibration import Calibration, fit_platt, fit_temperature, fit_vector
from nlptl.evaluation.decisions import Decisions, scope_scores
from nlptl.evaluation.multi_label import tune_thresholds
from nlptl.evaluation.ordinal import median_class
from nlptl.tasks.decision_checks import check_decisions, check_held_out, unmet
from nlptl.tasks.multi_label import MultiLabel
from nlptl.tasks.ordinal import Ordinal
from nlptl.tasks.regression import Regression
from nlptl.tasks.single_label import SingleLabel
from nlptl.tasks.tokens import UNREAD, TokenLabels

AUTO = DecisionConfig()


def drawn(num_rows: int, num_labels: int, *, seed: int = 0) -> tuple[np.ndarray, torch.Tensor]:
    """Return label ids, and logits that are three times as large as they should be, in float32."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_rows, num_labels))
    targets = (rng.random(num_rows)[:, None] > softmax(logits, axis=1).cumsum(axis=1)).sum(axis=1)
    return targets.clip(max=num_labels - 1), torch.from_numpy(logits * 3).float()


def saved(task):
    """Return the task as it comes out of nlptl.json."""
    return type(task).from_card(task.names, json.loads(json.dumps(task.card(), allow_nan=False)))


@pytest.mark.parametrize("method", ["auto", "temperature", "vector", "none"])
def test_single_labels_are_calibrated(method):
    targets, logits = drawn(300, 3)
    plain = SingleLabel(("a", "b", "c"))
    task = plain.tuned(targets, logits, DecisionConfig(calibration=method))
    fit = fit_vector if method == "vector" else fit_temperature
    expected = Calibration() if method == "none" else fit(targets, logits.double().numpy())
    assert task.calibration == expected
    np.testing.assert_allclose(
        task.outputs(logits), softmax(expected.apply(logits.numpy()), axis=1), rtol=1e-12, atol=1e-15
    )
    assert saved(task) == task
    assert task.uncalibrated() == task.untuned() == plain
    assert np.array_equal(task.uncalibrated().outputs(logits), logits.double().softmax(dim=1).numpy())
    if method in ("auto", "temperature"):
        accuracy = plain.point_scores(targets, plain.outputs(logits))["accuracy"]
        assert task.point_scores(targets, task.outputs(logits))["accuracy"] == accuracy
    if method != "none":
        described = task.describe_calibration(targets, logits)
        assert described["after"]["ece"] < described["before"]["ece"] / 2
        assert task.remarks(targets, logits)[0].startswith("calibration (")


def test_what_was_chosen_before_is_forgotten():
    targets, logits = drawn(200, 2)
    config = DecisionConfig(threshold_metric="f1", target_accuracy=0.8, coverage=0.9, out_of_scope=0.95)
    task = SingleLabel(("a", "b")).tuned(targets, logits, config)
    assert task.tuned(targets, logits * 2, AUTO) == SingleLabel(("a", "b")).tuned(targets, logits * 2, AUTO)
    assert task.tuned(targets, logits, config) == task
    assert task.untuned() == SingleLabel(("a", "b"))


def test_ordinal_temperature_leaves_the_median():
    targets, logits = drawn(400, 5)
    logits = logits.log_softmax(dim=1)
    plain = Ordinal(("1", "2", "3", "4", "5"))
    task = plain.tuned(targets, logits, AUTO)
    assert task.calibration.method == "temperature"
    assert task.calibration.temperature != pytest.approx(1, abs=0.1)
    np.testing.assert_array_equal(task.chosen(task.outputs(logits)), median_class(plain.outputs(logits)))
    above, given = (outputs[:, 2:].sum(axis=1) for outputs in (task.outputs(logits), plain.outputs(logits)))
    expected = expit(np.log(given / (1 - given)) / task.calibration.temperature)
    np.testing.assert_allclose(above, expected, atol=1e-9)
    assert saved(task) == task
    log_losses = [t.point_scores(targets, t.outputs(logits))["log_loss"] for t in (task, plain)]
    assert log_losses[0] < log_losses[1]


def test_sets_of_labels_are_calibrated_and_get_thresholds_after_that():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(300, 3)) * 4).float()
    targets = (rng.random((300, 3)) < expit(logits.numpy() / 3 - 1)).astype(np.int64)
    plain = MultiLabel(("a", "b", "c"))
    for metric in (None, "matthews"):
        task = plain.tuned(targets, logits, DecisionConfig(threshold_metric=metric))
        assert task.calibration == fit_platt(targets, logits.double().numpy())
        np.testing.assert_allclose(task.outputs(logits), expit(task.calibration.apply(logits.numpy())), rtol=1e-12)
        tuned = tune_thresholds(targets, task.outputs(logits), metric=metric or "f1")
        np.testing.assert_array_equal(task.thresholds, tuned)
        assert saved(task) == task
        described = task.describe_calibration(targets, logits)
        assert described["method"] == "platt"
        assert described["after"]["ece"] < described["before"]["ece"] / 2
    task = plain.tuned(targets, logits, DecisionConfig(calibration="none"))
    assert task.calibration == Calibration()
    np.testing.assert_array_equal(task.thresholds, tune_thresholds(targets, plain.outputs(logits)))


def test_tags_are_calibrated_on_the_words_that_were_read():
    ids, logits = drawn(120, 3)
    targets = np.empty(3, dtype=object)
    targets[:] = [ids[:50], ids[50:51], np.concatenate([ids[51:], [1, 2]])]
    unread = torch.tensor([[0.0, UNREAD, UNREAD]] * 2)
    plain = TokenLabels(("O", "B-x", "I-x"))
    task = plain.tuned(targets, torch.cat([logits, unread]), AUTO)
    assert task.calibration == fit_temperature(ids, logits.double().numpy())
    outputs = task.outputs(torch.cat([logits, unread]))
    assert np.array_equal(outputs[-2:], plain.outputs(unread))
    expected = softmax(logits.double().numpy() / task.calibration.temperature, axis=1)
    np.testing.assert_allclose(outputs[:-2], expected, rtol=1e-12)
    assert saved(task) == task
    assert task.describe_calibration(targets, torch.cat([logits, unread]))["method"] == "temperature"


def test_scores_have_nothing_to_calibrate():
    task = Regression(("score",), (1.0,), (2.0,))
    targets, logits = np.array([[1.0], [2.0]]), torch.tensor([[0.0], [1.0]])
    assert task.tuned(targets, logits, AUTO) == task
    assert task.describe_calibration(targets, logits) is None
    assert task.remarks(targets, logits) == []


def test_a_threshold_for_two_labels():
    targets, logits = drawn(300, 2)
    logits[:, 1] -= 1.5
    task = SingleLabel(("a", "b")).tuned(targets, logits, DecisionConfig(threshold_metric="f1", calibration="none"))
    outputs = task.outputs(logits)
    (expected,) = tune_thresholds(targets[:, None] == 1, outputs[:, 1:])
    assert task.decisions.threshold == expected < 0.4
    chosen = task.chosen(outputs)
    np.testing.assert_array_equal(chosen, outputs[:, 1] >= expected)
    assert task.point_scores(targets, outputs)["accuracy"] == (chosen == targets).mean()
    assert task.score(targets, outputs, seed=0)["accuracy"].value == (chosen == targets).mean()
    columns = task.columns(outputs, [], [], name="predicted")
    assert columns["predicted"] == [task.names[i] for i in chosen]
    np.testing.assert_array_equal(columns["probability"], outputs[np.arange(300), chosen])
    assert saved(task) == task


def test_abstention_in_what_is_said():
    targets, logits = drawn(300, 3)
    task = SingleLabel(("a", "b", "c")).tuned(targets, logits, DecisionConfig(target_accuracy=0.8))
    abstention, outputs = task.decisions.abstention, task.outputs(logits)
    given = outputs.max(axis=1) >= abstention.below
    assert given.mean() == abstention.coverage < 1
    assert (outputs.argmax(axis=1) == targets)[given].mean() == abstention.accuracy >= 0.8
    names = [("a", "b", "c")[i] if is_given else None for i, is_given in zip(outputs.argmax(1), given, strict=True)]
    answers = task.answers(logits, ["x"] * 300, ["x"] * 300)
    assert [answer.label for answer in answers] == names
    assert [answer.probability for answer in answers] == outputs.max(axis=1).tolist()
    assert task.answer_columns(logits, ["x"] * 300, ["x"] * 300)["label"] == names
    # What is scored is the label that would have been given.
    assert None not in task.columns(outputs, [], [], name="predicted")["predicted"]
    assert None not in [each.label for each in task.predictions(outputs, [], [])]
    assert None not in [each.label for each in task.abstaining(0.0).answers(logits, [], [])]
    stricter = [each.label for each in task.abstaining(0.9).answers(logits, [], [])]
    assert stricter.count(None) == (outputs.max(axis=1) < 0.9).sum()
    assert saved(task) == task
    assert saved(task.abstaining(0.9)) == task.abstaining(0.9)
    with pytest.raises(ConfigError, match="Expected probabilities from 0 to 1 for abstention"):
        task.abstaining(1.5)


def test_sets_of_labels_in_what_is_said():
    targets, logits = drawn(400, 3)
    task = SingleLabel(("a", "b", "c")).tuned(targets, logits, DecisionConfig(coverage=0.8))
    sets = task.decisions.sets
    assert (sets.score, sets.coverage, sets.n) == ("lac", 0.8, 400)
    answers = task.answers(logits, ["x"] * 400, ["x"] * 400)
    held = [task.names[i] in answer.label_set for i, answer in zip(targets, answers, strict=True)]
    assert np.mean(held) == pytest.approx(0.8, abs=0.01)
    assert task.answer_columns(logits, [], [])["label_set"] == [list(answer.label_set) for answer in answers]
    assert "label_set" not in task.columns(task.outputs(logits), [], [], name="label")
    assert saved(task) == task
    ranks = Ordinal(("1", "2", "3")).tuned(targets, logits, DecisionConfig(coverage=0.8))
    assert ranks.decisions.sets.n == 400
    assert saved(ranks) == ranks


def test_texts_out_of_scope_in_what_is_said():
    targets, logits = drawn(200, 3)
    task = SingleLabel(("a", "b", "c")).tuned(targets, logits, DecisionConfig(out_of_scope=0.9, target_accuracy=0.8))
    labels = [answer.label for answer in task.answers(logits, [], [])]
    assert labels.count("out_of_scope") == 20
    below = scope_scores(logits.double().numpy()) < task.decisions.scope.least
    assert [label == "out_of_scope" for label in labels] == below.tolist()
    assert task.answer_columns(logits, [], [])["label"] == labels
    assert None in labels
    # Its energy is that of the stock logits, whatever the temperature.
    hotter = replace(task, calibration=Calibration("temperature", 50.0))
    assert [each.label == "out_of_scope" for each in hotter.answers(logits, [], [])] == below.tolist()
    assert saved(task) == task


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("num_labels", [2, 3])
def test_labels_that_are_told_of_are_those_that_are_given(num_labels, kept):
    targets, logits = drawn(300, num_labels)
    names = ("a", "b", "c")[:num_labels]
    task = SingleLabel(names).tuned(targets, logits, DecisionConfig(out_of_scope=kept, target_accuracy=0.8))
    said = np.array([each.label for each in task.answers(logits, [], [])], dtype=object)
    is_given = np.isin(said, names)
    right = (said == np.array(names, dtype=object)[targets])[is_given]
    (line,) = [each for each in task.remarks(targets, logits) if each.startswith("abstention")]
    assert f": {is_given.mean():.1%} of the texts get a label, of which {right.mean():.4f} (" in line
    fitted = task.decisions.abstention
    assert right.mean() == fitted.accuracy >= 0.8
    assert fitted.coverage == is_given.sum() / (said != "out_of_scope").sum()


def test_the_worst_label_is_told():
    rng = np.random.default_rng(1)
    _, logits = drawn(400, 4)
    targets = np.where(rng.random(400) < 0.9, logits.argmax(dim=1).numpy(), rng.integers(4, size=400))
    logits[:, 3] -= 100  # which is never given
    names = ("a", "b", "c", "d")
    config = DecisionConfig(target_accuracy=0.8, coverage=0.8, out_of_scope=0.9, calibration="none")
    task = SingleLabel(names).tuned(targets, logits, config)
    said, outputs = [each.label for each in task.answers(logits, [], [])], task.outputs(logits)
    sets = task.decisions.sets.of(outputs)

    def worst(is_good: dict[str, np.ndarray]) -> str:
        shares = {name: (good.mean(), len(good)) for name, good in is_good.items() if len(good) >= 20}
        name = min(shares, key=lambda name: shares[name][0])
        return f"; fewest for {name!r}: {shares[name][0]:.4f} of {shares[name][1]}"

    given = {
        name: np.array([names[t] == name for t, s in zip(targets, said, strict=True) if s == name]) for name in names
    }
    held = {name: sets[targets == i, i] for i, name in enumerate(names)}
    abstention, told, _ = task.remarks(targets, logits)
    assert abstention.endswith(f"are right{worst(given)}")
    assert told.endswith(f"labels on average{worst(held)}")
    few = task.remarks(targets[:19], logits[:19])
    assert "fewest" not in " ".join(few)


def test_what_is_said_of_a_split():
    targets, logits = drawn(200, 2)
    config = DecisionConfig(threshold_metric="accuracy", target_accuracy=0.8, coverage=0.9, out_of_scope=0.9)
    task = SingleLabel(("a", "b")).tuned(targets, logits, config)
    calibration, threshold, abstention, sets, scope = task.remarks(targets, logits)
    figures = task.describe_calibration(targets, logits)
    assert f"ece {figures['before']['ece']:.4f} -> {figures['after']['ece']:.4f}; brier " in calibration
    assert calibration.startswith(f"calibration (temperature {task.calibration.temperature:.4g}): ")
    assert threshold == f"threshold: 'b' is predicted at probability {task.decisions.threshold:.4f} or more"
    fitted = task.decisions.abstention
    assert f"{0.9 * fitted.coverage:.1%} of the texts get a label, of which {fitted.accuracy:.4f} (" in abstention
    assert sets.startswith("sets of labels for coverage 0.9: 0.90")
    assert "fewest" not in abstention + sets  # of two labels
    assert scope.startswith("scope: 0.9000 (")
    assert SingleLabel(("a", "b")).remarks(targets, logits) == []


def test_what_held_out_data_cannot_give_is_told():
    logits = torch.tensor([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.5, 0.0]])
    config = DecisionConfig(target_accuracy=0.9, coverage=0.9)
    task = SingleLabel(("a", "b")).tuned(np.array([1, 0, 0, 0]), logits, config)
    assert task.decisions.abstention is None
    assert [each.label_set for each in task.answers(logits, [], [])] == [("a", "b")] * 4
    abstention, sets = unmet(config, task)
    assert abstention.startswith("Expected labels that are right with probability 0.9 above some probability")
    assert sets.startswith("Expected more than 4 held-out texts, or a better model, for --coverage 0.9")
    assert unmet(AUTO, task.tuned(np.array([1, 0, 0, 0]), logits, AUTO)) == []


TASKS = {
    "two": SingleLabel(("a", "b")),
    "three": SingleLabel(("a", "b", "c")),
    "scope": SingleLabel(("a", "out_of_scope")),
    "ordinal": Ordinal(("1", "2", "3")),
    "multi": MultiLabel(("a", "b")),
    "score": Regression(("score",)),
    "tags": TokenLabels(("O", "B-x", "I-x")),
}


@pytest.mark.parametrize(
    ("task", "settings", "head", "message"),
    [
        ("ordinal", {"calibration": "vector"}, {}, r"task ordinal \(auto, none, temperature\), found vector"),
        ("multi", {"calibration": "temperature"}, {}, r"task multi_label \(auto, none\), found temperature"),
        ("tags", {"calibration": "vector"}, {}, "task tokens"),
        ("score", {"calibration": "temperature"}, {}, "task regression"),
        ("score", {"coverage": 0.9}, {}, "apply to the task regression, found --coverage. Leave them out"),
        ("tags", {"target_accuracy": 0.9, "out_of_scope": 0.9}, {}, "found --target-accuracy, --out-of-scope"),
        ("multi", {"coverage": 0.9}, {}, "found --coverage. Leave them out"),
        ("ordinal", {"threshold_metric": "f1"}, {}, "task ordinal, found --threshold-metric"),
        ("ordinal", {"out_of_scope": 0.9}, {}, "task ordinal, found --out-of-scope"),
        ("multi", {"threshold_metric": "macro_f1"}, {}, r"multi_label \(f1, accuracy, matthews\), found macro_f1"),
        ("three", {"threshold_metric": "f1"}, {}, "Expected two labels for a threshold, found 3"),
        ("scope", {"out_of_scope": 0.9}, {}, "Expected no label 'out_of_scope' with --out-of-scope"),
        ("two", {"out_of_scope": 0.9}, {"binary_loss": "sigmoid"}, "by their energy, found one logit and a zero"),
        ("two", {"out_of_scope": 0.9}, {"head": "logistic"}, "found one logit and a zero"),
        ("three", {"out_of_scope": 0.9}, {"head": "centroid"}, "found densities up to a factor"),
    ],
)
def test_what_a_task_cannot_decide_is_refused(task, settings, head, message):
    check_decisions(DecisionConfig(), TASKS[task], HeadConfig(**head))
    with pytest.raises(ConfigError, match=message):
        check_decisions(DecisionConfig(**settings), TASKS[task], HeadConfig(**head))


def test_a_logistic_head_of_three_labels_has_an_energy():
    check_decisions(DecisionConfig(out_of_scope=0.9), TASKS["three"], HeadConfig(head="logistic"))


@pytest.mark.parametrize("config", [DecisionConfig, TrainingConfig])
def test_settings_out_of_range(config):
    with pytest.raises(ConfigError) as refused:
        config(target_accuracy=1.0, coverage=0.0, out_of_scope=float("nan"), calibration="platt", threshold_metric="r2")
    for name in ("target_accuracy", "coverage", "out_of_scope", "calibration", "threshold_metric"):
        assert f"{name} must be " in str(refused.value)


def test_without_held_out_data_nothing_can_be_asked_for():
    check_held_out(AUTO)
    check_held_out(DecisionConfig(calibration="none"))
    with pytest.raises(ConfigError, match="a validation split for --calibration, --coverage, found none"):
        check_held_out(DecisionConfig(calibration="temperature", coverage=0.9))


@pytest.mark.parametrize(
    ("task", "change"),
    [
        ("two", {"calibration": {"method": "other"}}),
        ("two", {"calibration": {"method": "temperature", "temperature": "2"}}),
        ("two", {"calibration": {"method": "temperature", "temperature": -2.0}}),
        ("two", {"calibration": {"method": "vector", "scales": [1.0], "offsets": [0.0]}}),
        ("two", {"calibration": {"method": "platt", "scales": [1.0, 1.0], "offsets": [0.0, 0.0]}}),
        ("two", {"calibration": {"temprature": 2.0}}),
        ("two", {"calibration": 2.0}),
        ("two", {"decisions": {"threshold": 2.0}}),
        ("three", {"decisions": {"threshold": 0.5}}),
        ("two", {"decisions": {"abstention": {"below": float("nan")}}}),
        ("two", {"decisions": {"sets": {"score": "lac", "coverage": 0.9, "quantile": 0.5}}}),
        ("two", {"decisions": {"sets": {"score": "raps", "coverage": 0.9, "quantile": 0.5, "n": 10}}}),
        ("two", {"decisions": {"scope": {"kept": 0.9, "least": float("inf")}}}),
        ("two", {"decisions": [1]}),
        ("ordinal", {"calibration": {"method": "vector", "scales": [1.0] * 3, "offsets": [0.0] * 3}}),
        ("multi", {"calibration": {"method": "temperature", "temperature": 2.0}}),
        ("multi", {"calibration": {"method": "platt", "scales": [1.0], "offsets": [0.0]}}),
        ("tags", {"calibration": {"method": "vector", "scales": [1.0] * 3, "offsets": [0.0] * 3}}),
    ],
)
def test_damaged_cards_are_refused(task, change):
    plain = TASKS[task]
    assert saved(plain).untuned() == plain.untuned()
    with pytest.raises(ValueError, match=".+"):
        type(plain).from_card(plain.names, plain.card() | change)


def test_cards_of_before_have_no_calibration():
    assert SingleLabel.from_card(("a", "b"), {}) == SingleLabel(("a", "b"))
    assert Ordinal.from_card(("1", "2"), {}).decisions == Decisions()
    assert MultiLabel.from_card(("a", "b"), {"thresholds": [0.3, 0.5]}).calibration == Calibration()
    assert TokenLabels.from_card(("O", "B-x", "I-x"), {}).calibration == Calibration()


def test_ordinal_outputs_of_extreme_logits_are_probabilities():
    logits = torch.tensor([[0.0, -500.0, -90.0], [-1e4, 0.0, -1e4]]).log_softmax(dim=1)
    task = replace(Ordinal(("1", "2", "3")), calibration=Calibration("temperature", 3.0))
    outputs = task.outputs(logits)
    np.testing.assert_allclose(outputs.sum(axis=1), 1, atol=1e-9)
    assert outputs.min() >= 0
