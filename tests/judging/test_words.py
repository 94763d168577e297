"""What words alone can tell, beside scikit-learn's own pipeline."""

import json
from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, root_mean_squared_error
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.utils.class_weight import compute_class_weight

from nlptl import Examples, Splits, make_task
from nlptl.judging.words import STRENGTHS, fit_words, name_of_words
from tests.conftest import WORDS, toy_rows


def splits_of(texts, labels, *, task="single_label", pairs=None):
    """Return splits of rows in turn: three of five to train on."""

    def part(name, places):
        rows = [i for i in range(len(texts)) if i % 5 in places]
        seconds = [] if pairs is None else [pairs[i] for i in rows]
        return Examples([texts[i] for i in rows], [labels[i] for i in rows], rows, "toy", name, pairs=seconds)

    return Splits(part("train", (0, 1, 2)), part("validation", (3,)), part("test", (4,)), task)


def noisy_rows(count=300):
    """Return toy reviews of which every seventh has the other label."""
    other = {"positive": "negative", "negative": "positive"}
    return [(text, other[label] if i % 7 == 0 else label) for i, (text, label) in enumerate(toy_rows(count))]


def features():
    return FeatureUnion(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]+")),
            ("characters", TfidfVectorizer(ngram_range=(2, 5), sublinear_tf=True, analyzer="char_wb")),
        ]
    )


def test_probabilities_are_those_of_scikit_learn():
    texts, labels = zip(*noisy_rows(), strict=True)
    splits = splits_of(texts, labels)
    task = make_task(splits)
    found = fit_words(task, splits, metric="accuracy")
    pipelines = [
        make_pipeline(features(), LogisticRegression(C=strength, max_iter=1000)).fit(
            splits.train.texts, splits.train.labels
        )
        for strength in STRENGTHS
    ]
    scores = [accuracy_score(splits.validation.labels, each.predict(splits.validation.texts)) for each in pipelines]
    best = pipelines[int(np.argmax(scores))]
    # TF-IDF is in single precision here.
    np.testing.assert_allclose(task.outputs(found.test), best.predict_proba(splits.test.texts), atol=2e-3)
    np.testing.assert_allclose(task.outputs(found.validation), best.predict_proba(splits.validation.texts), atol=2e-3)
    assert found.parameters == best[-1].coef_.size + 1
    assert name_of_words(task) == "TF-IDF, logistic regression"


def test_rare_labels_weigh_as_in_scikit_learn():
    rows = [row for i, row in enumerate(noisy_rows()) if row[1] == "positive" or i % 5 == 0]
    splits = splits_of(*zip(*rows, strict=True))
    task = make_task(splits)
    by_hand = compute_class_weight("balanced", classes=np.array([0, 1]), y=task.targets(splits.train))
    balanced, same, plain = (
        fit_words(task, splits, metric="macro_f1", class_weights=weights).test.numpy()
        for weights in ("balanced", tuple(by_hand.tolist()), None)
    )
    np.testing.assert_allclose(balanced, same, atol=1e-6)
    assert np.abs(balanced - plain).max() > 0.1


def test_validation_chooses_how_strong_the_regularization_is(monkeypatch):
    texts, labels = zip(*noisy_rows(), strict=True)
    splits = splits_of(texts, labels)
    task, losses = make_task(splits), []
    for strength in STRENGTHS:
        monkeypatch.setattr("nlptl.judging.words.STRENGTHS", (strength,))
        alone = fit_words(task, splits, metric="log_loss")
        losses.append(task.point_scores(task.targets(splits.validation), task.outputs(alone.validation))["log_loss"])
    assert len({round(loss, 3) for loss in losses}) == len(STRENGTHS)
    for order in (STRENGTHS, STRENGTHS[::-1]):
        monkeypatch.setattr("nlptl.judging.words.STRENGTHS", order)
        found = fit_words(task, splits, metric="log_loss")
        value = task.point_scores(task.targets(splits.validation), task.outputs(found.validation))["log_loss"]
        assert value == pytest.approx(min(losses))


def test_scores_are_those_of_ridge_regression():
    texts, labels = zip(*toy_rows(200), strict=True)
    targets = [300.0 + 20 * (label == "positive") + len(text) % 7 for text, label in zip(texts, labels, strict=True)]
    splits = splits_of(texts, [str(target) for target in targets], task="regression")
    task = make_task(splits)
    found = fit_words(task, splits, metric="rmse")
    train = np.array([float(label) for label in splits.train.labels])
    wanted = np.array([float(label) for label in splits.validation.labels])
    mean, scale = train.mean(), train.std()
    errors, predictions = [], []
    for strength in STRENGTHS:
        pipeline = make_pipeline(features(), Ridge(alpha=1 / strength)).fit(splits.train.texts, (train - mean) / scale)
        errors.append(root_mean_squared_error(wanted, pipeline.predict(splits.validation.texts) * scale + mean))
        predictions.append(pipeline.predict(splits.test.texts) * scale + mean)
    np.testing.assert_allclose(task.outputs(found.test)[:, 0], predictions[int(np.argmin(errors))], rtol=1e-3)
    assert name_of_words(task) == "TF-IDF, ridge regression"


def test_several_labels_and_one_that_all_texts_have():
    rows = toy_rows(200)
    labels = [json.dumps(["all", label] if "story" in text else ["all", label, "other"]) for text, label in rows]
    splits = splits_of([text for text, _ in rows], labels, task="multi_label")
    task = make_task(splits)
    found = fit_words(task, splits, metric="micro_f1")
    outputs, targets = task.outputs(found.test), task.targets(splits.test)
    assert outputs.shape == targets.shape == (40, 4)
    assert task.point_scores(targets, outputs)["micro_f1"] > 0.95


def test_a_label_that_train_lacks_is_never_predicted():
    texts, labels = zip(*toy_rows(60), strict=True)
    numbers = [{"negative": "1", "positive": "3"}[label] for label in labels]
    splits = splits_of(texts, numbers, task="ordinal")
    task = make_task(splits, label_order=("1", "2", "3"))
    outputs = task.outputs(fit_words(task, splits, metric="quadratic_kappa").test)
    assert outputs.shape == (12, 3)
    assert (outputs[:, 1] == 0).all()
    np.testing.assert_allclose(outputs.sum(axis=1), 1)


def test_of_pairs_what_both_texts_share_is_read():
    # Each word is as frequent in either text of either class, so that no text alone tells the label.
    words = WORDS[:19]
    rows = [
        (words[i % 19], words[(i + (0 if i // 19 % 2 else 7)) % 19], "same" if i // 19 % 2 else "other")
        for i in range(400)
    ]
    first, second, labels = zip(*rows, strict=True)
    splits = splits_of(first, labels, pairs=second)
    task = make_task(splits)
    outputs = task.outputs(fit_words(task, splits, metric="accuracy").test)
    assert task.point_scores(task.targets(splits.test), outputs)["accuracy"] == 1.0


def test_a_word_has_its_most_frequent_tag():
    texts = ["In Rome", "Rome burns", "In In", "Rome Rome", "Oslo In", "x", "y", "z", "In Rome", "Rome Oslo In Bern"]
    tags = ["O B-place", "B-place O", "O O", "O B-place", "B-place O", "O", "O", "O", "O B-place", "B-place O O O"]
    splits = splits_of(texts, tags, task="tokens")
    task = make_task(splits)
    found = fit_words(task, splits, metric="span_f1")
    counts = {}
    for text, labels in zip(splits.train.texts, splits.train.labels, strict=True):
        for word, tag in zip(text.split(" "), labels.split(" "), strict=True):
            counts.setdefault(word, Counter())[tag] += 1
    assert "Oslo" not in counts
    wanted = [
        counts[word].most_common(1)[0][0] if word in counts else "O"
        for text in splits.test.texts
        for word in text.split(" ")
    ]
    predicted = [task.names[i] for i in task.outputs(found.test).argmax(axis=1)]
    assert predicted == wanted
    assert "B-place" in predicted
    assert found.parameters == len(counts)
    assert name_of_words(task) == "most frequent tag of a word"
