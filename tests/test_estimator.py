"""TextClassifier does what scikit-learn's users expect of a classifier."""

import copy
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from nlptl import (
    Classifier,
    DataError,
    Examples,
    HeadConfig,
    ReadingConfig,
    TextClassifier,
    Trainer,
    TrainingConfig,
    TransferConfig,
)
from nlptl.data.sources import read_file
from nlptl.errors import ConfigError

FULL = {"freeze": "nothing", "num_epochs": 4, "batch_size": 8, "learning_rate": 3e-3, "dropout": 0.0}


@pytest.fixture(scope="module")
def data(toy_csv: Path) -> Examples:
    return read_file(toy_csv)


@pytest.fixture(scope="module")
def fitted(tiny_bert: Path, data: Examples) -> TextClassifier:
    return TextClassifier(str(tiny_bert), **FULL).fit(data.texts, data.labels)


@pytest.fixture
def quick(tiny_bert: Path) -> TextClassifier:
    """Return an estimator that learns little, soon."""
    return TextClassifier(str(tiny_bert), num_epochs=2, batch_size=60)


def test_it_learns(fitted: TextClassifier, data: Examples):
    assert list(fitted.classes_) == ["negative", "positive"]
    assert fitted.score(data.texts, data.labels) >= 0.95
    predicted = fitted.predict(data.texts)
    probabilities = fitted.predict_proba(data.texts)
    assert fitted.score(data.texts, data.labels) == accuracy_score(data.labels, predicted)
    assert (probabilities.shape, probabilities.dtype) == ((120, 2), np.float64)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(predicted, fitted.classes_[probabilities.argmax(axis=1)])


def test_it_equals_classifier_and_trainer(tiny_bert: Path, fitted: TextClassifier, data: Examples):
    model = Classifier.from_pretrained(tiny_bert, labels=["negative", "positive"], freeze="nothing", dropout=0.0)
    config = TrainingConfig(num_epochs=4, batch_size=8, learning_rate=3e-3)
    Trainer(model, config).fit(Examples.from_lists(data.texts, data.labels))
    expected = model.predict_probabilities(data.texts).numpy()
    np.testing.assert_array_equal(fitted.predict_proba(data.texts), expected)


SGD = TrainingConfig(optimizer="sgd", weight_decay=0.1, warm_head_epochs=1, label_smoothing=0.1)
# Settings of the model, and of the training; together they differ from every default.
PARAMETERS = [
    (
        {
            "freeze": 1,
            "pooling": "max",
            "head": HeadConfig(layers=2, activation="gelu", binary_loss="sigmoid"),
            "hidden": 16,
            "dropout": 0.2,
            "max_length": 20,
            "reading": ReadingConfig(long_text="tail"),
        },
        {
            "num_epochs": 2,
            "batch_size": 40,
            "learning_rate": 1e-3,
            "class_weights": (1.0, 3.0),
            "training": SGD,
        },
    ),
    (
        {
            "freeze": "encoder",
            "max_length": 8,
            "reading": ReadingConfig(long_text="chunks", chunk_overlap=3, max_chunks=2),
            "head": HeadConfig(chunk_pooling="max"),
        },
        {},
    ),
    (
        {"freeze": "nothing", "lora_rank": 2, "transfer": TransferConfig(lora_alpha=8.0)},
        {"num_epochs": 2, "training": TrainingConfig(unfreeze_every_epochs=1)},
    ),
    ({"freeze": "encoder", "head": "centroid"}, {}),
]


@pytest.mark.parametrize(("model_settings", "training"), PARAMETERS)
def test_every_parameter_reaches_the_parts(model_settings: dict, training: dict, tiny_bert: Path, data: Examples):
    estimator = TextClassifier(str(tiny_bert), **model_settings, **training, seed=5)
    model = Classifier.from_pretrained(tiny_bert, labels=["negative", "positive"], seed=5, **model_settings)
    settings = dict(training)
    config = replace(settings.pop("training", TrainingConfig()), **settings)
    Trainer(model, config, seed=5).fit(Examples.from_lists(data.texts, data.labels))
    expected = model.predict_probabilities(data.texts).numpy()
    np.testing.assert_array_equal(estimator.fit(data.texts, data.labels).predict_proba(data.texts), expected)


def test_a_shortcut_that_contradicts_a_configuration_is_refused(tiny_bert: Path, data: Examples):
    estimator = TextClassifier(str(tiny_bert), num_epochs=2, training=TrainingConfig(num_epochs=3))
    with pytest.raises(ConfigError, match="num_epochs=2 contradicts num_epochs=3 in the TrainingConfig. Pass one of"):
        estimator.fit(data.texts, data.labels)
    with pytest.raises(ConfigError, match="freeze='encoder' contradicts freeze=1 in the TransferConfig"):
        Classifier.from_pretrained(tiny_bert, labels=["a", "b"], freeze="encoder", transfer=TransferConfig(freeze=1))
    with pytest.raises(ConfigError, match="max_length=8 contradicts max_length=9 in the ReadingConfig"):
        Classifier.from_pretrained(tiny_bert, labels=["a", "b"], max_length=8, reading=ReadingConfig(max_length=9))


def test_a_shortcut_that_says_the_same_is_taken(tiny_bert: Path, data: Examples):
    training = TrainingConfig(num_epochs=1, class_weights=(1.0, 3.0))
    found = TextClassifier(str(tiny_bert), class_weights=[1.0, 3.0], training=training).fit(data.texts, data.labels)
    expected = TextClassifier(str(tiny_bert), training=training).fit(data.texts, data.labels)
    np.testing.assert_array_equal(found.predict_proba(data.texts), expected.predict_proba(data.texts))


def test_configurations_are_obeyed_without_shortcuts(tiny_bert: Path, data: Examples):
    transfer, training = TransferConfig(freeze=1), TrainingConfig(num_epochs=1, batch_size=8)
    fitted = TextClassifier(str(tiny_bert), transfer=transfer, training=training).fit(data.texts, data.labels)
    model = Classifier.from_pretrained(tiny_bert, labels=["negative", "positive"], transfer=transfer)
    Trainer(model, training).fit(Examples.from_lists(data.texts, data.labels))
    np.testing.assert_array_equal(fitted.predict_proba(data.texts), model.predict_probabilities(data.texts).numpy())
    assert fitted.classifier_.transfer == transfer


def test_no_parameter_is_left_out():
    defaults = TextClassifier().get_params()
    cases = [{**model_settings, **training} for model_settings, training in PARAMETERS]
    tried = {name for case in cases for name, value in case.items() if value != defaults[name]}
    assert tried == defaults.keys() - {"model", "seed"}


def test_it_depends_on_the_seed_and_nothing_else_random(quick: TextClassifier, data: Examples):
    first = quick.fit(data.texts, data.labels).predict_proba(data.texts)
    np.random.default_rng().random()
    np.testing.assert_array_equal(clone(quick).fit(data.texts, data.labels).predict_proba(data.texts), first)
    assert not np.array_equal(quick.set_params(seed=1).fit(data.texts, data.labels).predict_proba(data.texts), first)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["yes", "no"], ["no", "yes"]),
        ([1, 0], [0, 1]),
        ([1, -1], [-1, 1]),
        ([10, 9], [9, 10]),
        ([2.0, 1.0], [1.0, 2.0]),
        ([True, False], [False, True]),
        (["b", "a", "c"], ["a", "b", "c"]),
    ],
)
def test_labels_of_any_kind_come_back(classes: list, expected: list, quick: TextClassifier, data: Examples):
    labels = (classes * 120)[:120]
    quick.fit(data.texts, labels)
    assert quick.classes_.tolist() == expected
    assert quick.predict_proba(data.texts[:3]).shape == (3, len(expected))
    assert set(quick.predict(data.texts).tolist()) <= set(expected)
    names = [int(name) if isinstance(name, float) else name for name in expected]
    assert quick.classifier_.labels.names == tuple(map(str, names))


@pytest.mark.parametrize("kind", [tuple, np.array, pd.Series, lambda labels: np.array(labels)[:, None]])
def test_labels_in_any_vessel(kind, quick: TextClassifier, data: Examples):
    quick.fit(data.texts, kind([1, -1] * 60))
    assert quick.classes_.tolist() == [-1, 1]


@pytest.mark.parametrize("dtype", ["category", "object", "string", "bool"])
def test_labels_of_a_table(dtype: str, quick: TextClassifier, data: Examples):
    labels = pd.Series([name == "positive" for name in data.labels] if dtype == "bool" else data.labels, dtype=dtype)
    quick.fit(data.texts, labels)
    assert quick.classes_.tolist() == ([False, True] if dtype == "bool" else ["negative", "positive"])
    assert 0 <= quick.score(data.texts, labels) <= 1


@pytest.mark.parametrize("kind", [tuple, np.array, pd.Series, lambda texts: np.array(texts, dtype=object)])
def test_texts_of_any_kind(kind, fitted: TextClassifier, data: Examples):
    np.testing.assert_array_equal(fitted.predict(kind(data.texts)), fitted.predict(data.texts))


def test_a_series_is_read_by_position(quick: TextClassifier, data: Examples):
    table = pd.DataFrame({"text": data.texts, "label": data.labels})
    first = quick.fit(data.texts, data.labels).predict_proba(data.texts)
    table.index = table.index[::-1]
    np.testing.assert_array_equal(quick.fit(table["text"], table["label"]).predict_proba(table["text"]), first)


def test_no_texts_no_predictions(fitted: TextClassifier):
    assert fitted.predict([]).shape == (0,)
    assert fitted.predict_proba([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("good", "Expected a list of texts, found the string 'good'. Pass [text] for a single one"),
        (pd.DataFrame({"text": ["a", "b"]}), "found a DataFrame with 'text'. Pass one column of it: data['text']"),
        (np.array([["a"], ["b"]]), "Expected texts, found ['a'] at position 0"),
        (["a", 1.0], "Expected texts, found 1.0 at position 1"),
        ([b"a", b"b"], "Expected texts, found b'a' at position 0"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(texts, message: str, fitted: TextClassifier, quick: TextClassifier):
    with pytest.raises(ConfigError, match=re.escape(message)):
        quick.fit(texts, ["x", "y"])
    with pytest.raises(ConfigError, match=re.escape(message)):
        fitted.predict(texts)


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_a_missing_text_is_an_empty_one(missing, fitted: TextClassifier):
    assert np.array_equal(fitted.predict_proba(["good", missing]), fitted.predict_proba(["good", ""]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["x", "x", "x"], "Expected labels of two or more classes, found ['x']"),
        (["x", "y"], "Expected one label per text, found 3 texts and 2 labels"),
        (["x", None, "y"], "Expected a label for every text in the train labels, found none in row 2"),
        ([1.0, float("nan"), 2.0], "Expected a label for every text in the train labels, found none in row 2"),
        ([0.5, 1.5, 2.5], "Pass --task regression"),
        (np.array(["x", 1, "y"], dtype=object), "Expected labels of one type"),
        ([[1, 0], [0, 1], [1, 1]], "y should be a 1d array, got an array of shape (3, 2) instead"),
    ],
)
def test_what_is_no_list_of_classes_is_refused(labels, message: str, quick: TextClassifier):
    with pytest.raises(ValueError, match=re.escape(message)):
        quick.fit(["a", "b", "c"], labels)
    with pytest.raises(NotFittedError, match="not fitted"):
        quick.predict(["a"])


def test_two_classes_are_needed(quick: TextClassifier):
    with pytest.raises(DataError, match=r"two or more classes, found \[\]"):
        quick.fit([], [])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be a whole number of at least 1, found 0"),
        ({"training": "lamb"}, "training to be a TrainingConfig or None, found 'lamb'"),
        ({"learning_rate": -1.0}, "learning_rate must be a number above 0"),
        ({"pooling": "sum"}, "pooling"),
        ({"head": HeadConfig(activation="relu")}, "activation"),
        ({"class_weights": np.array([1.0, 3.0])}, "class_weights must be 'balanced', a list of numbers"),
        ({"reading": 20}, "reading must be ReadingConfig or None, found 20"),
        ({"freeze": 9}, "layers"),
        ({"max_length": 65}, "max_length"),
        ({"model": "./nowhere"}, "found nothing at"),
    ],
)
def test_parameters_are_checked_by_fit(parameters: dict, message: str, quick: TextClassifier, data: Examples):
    quick.set_params(**parameters)
    with pytest.raises(ConfigError, match=message):
        quick.fit(data.texts, data.labels)


def test_before_fit_there_is_nothing_to_predict_with(quick: TextClassifier):
    with pytest.raises(NotFittedError, match="not fitted"):
        quick.predict(["good"])
    with pytest.raises(NotFittedError, match="not fitted"):
        quick.predict_proba(["good"])


def test_a_failed_fit_keeps_the_model_before_it(quick: TextClassifier, data: Examples):
    before = quick.fit(data.texts, data.labels).predict_proba(data.texts)
    with pytest.raises(ConfigError, match="batch_size"):
        quick.set_params(batch_size=0).fit(data.texts, [0, 1] * 60)
    assert list(quick.classes_) == ["negative", "positive"]
    np.testing.assert_array_equal(quick.predict_proba(data.texts), before)


def test_parameters_are_read_set_and_cloned(quick: TextClassifier, data: Examples):
    quick.fit(data.texts, data.labels)
    quick.set_params(hidden=8, pooling="max")
    assert (quick.hidden, quick.get_params()["pooling"]) == (8, "max")
    copied = clone(quick)
    assert copied.get_params() == quick.get_params()
    assert vars(copied).keys() == quick.get_params().keys()
    assert is_classifier(copied)
    with pytest.raises(ValueError, match="Invalid parameter 'epochs'"):
        quick.set_params(epochs=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'lr'"):
        TextClassifier(lr=1e-3)


def test_a_copy_of_a_fitted_one_predicts_the_same(fitted: TextClassifier, data: Examples):
    copied = copy.deepcopy(fitted)
    np.testing.assert_array_equal(copied.predict_proba(data.texts), fitted.predict_proba(data.texts))


def test_cross_validation(quick: TextClassifier, data: Examples):
    scores = cross_val_score(quick, data.texts, data.labels, cv=3, error_score="raise")
    assert scores.shape == (3,)
    np.testing.assert_array_equal(scores, cross_val_score(quick, pd.Series(data.texts), np.array(data.labels), cv=3))


@pytest.mark.nightly
def test_a_grid_search_finds_the_rate_that_learns(tiny_bert: Path, data: Examples):
    grid = {"learning_rate": np.array([1e-9, 3e-3]), "batch_size": np.array([8])}
    search = GridSearchCV(TextClassifier(str(tiny_bert), **FULL), grid, cv=2, error_score="raise")
    search.fit(data.texts, data.labels)
    assert search.best_params_["learning_rate"] == 3e-3
    assert search.best_score_ >= 0.9
    assert list(search.classes_) == ["negative", "positive"]


def test_a_pipeline(tiny_bert: Path, fitted: TextClassifier, data: Examples):
    strip = FunctionTransformer(lambda texts: [text.removeprefix("noise ") for text in texts])
    pipeline = make_pipeline(strip, TextClassifier(str(tiny_bert), **FULL))
    noisy = [f"noise {text}" for text in data.texts]
    pipeline.fit(noisy, data.labels)
    np.testing.assert_array_equal(pipeline.predict_proba(noisy), fitted.predict_proba(data.texts))
    assert pipeline.set_params(textclassifier__seed=3)[-1].seed == 3


def test_it_is_silent(
    quick: TextClassifier, data: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    with_handlers = logging.getLogger().handlers
    quick.fit(data.texts, data.labels).predict(data.texts)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == with_handlers
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_estimator_tags_renamed,
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimators_unfitted,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_mixin_order,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_set_params,
        estimator_checks.check_valid_tag_types,
    ],
    ids=lambda check: check.__name__,
)
def test_the_checks_of_scikit_learn_that_need_no_numbers(check):
    check("TextClassifier", TextClassifier())


def test_tags_say_that_it_reads_texts():
    tags = TextClassifier().__sklearn_tags__()
    assert (tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array) == (True, True, False)
    assert tags.classifier_tags is not None
    assert tags.target_tags.required
