"""What is predicted, saved and refused, by kind of task; the losses are held against stock in tests/invariants."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from nlptl import (
    Classifier,
    ConfigError,
    DataError,
    Examples,
    MultiLabel,
    Ordinal,
    Regression,
    SingleLabel,
    TokenLabels,
    UntrustedFileError,
)
from tests.conftest import options


def examples(labels, texts=None):
    return Examples(texts or ["a"] * len(labels), list(labels), list(range(1, len(labels) + 1)), "a.csv")


def test_label_sets():
    task = MultiLabel.from_examples(examples(['["rage", "joy"]', "[]", '["love"]']))
    assert task.names == ("joy", "love", "rage")
    assert task.targets(examples(['["love", "rage"]', "[]"])).tolist() == [[0, 1, 1], [0, 0, 0]]
    with pytest.raises(DataError, match="Expected labels 'joy', 'love', 'rage', found 'fear' as well"):
        task.targets(examples(['["fear"]']))
    with pytest.raises(DataError, match="Expected two or more labels in a.csv, found 'joy' alone"):
        MultiLabel.from_examples(examples(['["joy"]', "[]"]))
    outputs = task.outputs(torch.tensor([[0.0, -1.0, 2.0]]))
    np.testing.assert_allclose(outputs, [[0.5, 0.268941, 0.880797]], atol=1e-6)
    assert task.predictions(outputs, ["a"], ["a"])[0].labels == ("joy", "rage")
    stricter = MultiLabel(task.names, (0.6, 0.2, 0.9))
    assert stricter.predictions(outputs, ["a"], ["a"])[0].labels == ("love",)
    assert stricter.columns(outputs, ["a"], ["a"], name="label")["labels"] == [["love"]]
    assert MultiLabel.from_card(task.names, json.loads(json.dumps(stricter.card()))) == stricter
    for thresholds in ([0.5], [0.5, 0.5, 2], [0.5, 0.5, float("nan")]):
        with pytest.raises(ValueError, match="Expected a threshold for each of 3 labels|thresholds must be"):
            MultiLabel.from_card(task.names, {"thresholds": thresholds})


def test_scores():
    task = Regression.from_examples(examples(["1.0", "2.0", "6.0"]))
    assert (task.names, task.means) == (("score",), (3.0,))
    assert task.scales == pytest.approx((np.std([1, 2, 6]),))
    np.testing.assert_allclose(task.outputs(torch.tensor([[0.0], [1.0]])), [[3.0], [3 + np.std([1, 2, 6])]])
    with pytest.raises(DataError, match=r"Expected scores in a.csv that differ, found 'score' to be 2 throughout"):
        Regression.from_examples(examples(["2.0", "2.0"]))
    with pytest.raises(
        DataError, match="Expected the scores score in a.csv, found style. Pass the same --label-columns"
    ):
        task.targets(examples(['{"style": 1.0}']))
    two = Regression(("style", "content"))
    assert two.targets(examples(['{"style": 1.0, "content": 2.5}'])).tolist() == [[1.0, 2.5]]
    (prediction,) = two.predictions(np.array([[1.0, 2.0]]), ["a"], ["a"])
    assert (prediction.score, prediction.scores) == (1.0, {"style": 1.0, "content": 2.0})
    for labels, message in (
        (["1000000000.0", "1000000001.0"], r"single precision can tell, found 'score' with mean 1e\+09"),
        (["1e300", "-1e300"], "single precision can tell"),
        (['{"a": 3.0, "b": 1.0}', '{"a": 3.0, "b": 2.0}'], "found 'a' to be 3 throughout"),
    ):
        with pytest.raises(DataError, match=message):
            Regression.from_examples(examples(labels))
    with pytest.raises(DataError, match=r"different ones of several, found \['s', 's'\]"):
        Regression(("s", "s"))
    with pytest.raises(DataError, match="Expected labels, found a regression"):
        _ = two.labels


def test_ordered_labels():
    assert Ordinal.from_examples(examples(["10", "9", "-1", "2.5"])).names == ("-1", "2.5", "9", "10")
    assert Ordinal.from_examples(examples(["b", "a"]), order=("b", "a", "c")).names == ("b", "a", "c")
    for labels in (["1", "1.0"], ["1", "nan"], ["1", "inf"]):
        with pytest.raises(ConfigError, match="different numbers, or --label-order"):
            Ordinal.from_examples(examples(labels))
    for order, message in ((("a", "b", "a"), "found a twice"), (("a", "c"), "found b left out")):
        with pytest.raises(ConfigError, match=f"Expected every label of a.csv once in --label-order, {message}"):
            Ordinal.from_examples(examples(["b", "a"]), order=order)
    with pytest.raises(ConfigError, match="labels in an order: different numbers, or --label-order, found a, b"):
        Ordinal.from_examples(examples(["b", "a"]))
    task = Ordinal(("low", "middle", "high"))
    outputs = task.outputs(torch.tensor([[0.4, 0.25, 0.35], [0.2, 0.2, 0.6]]).log())
    assert [prediction.label for prediction in task.predictions(outputs, ["a"] * 2, ["a"] * 2)] == ["middle", "high"]
    assert task.predictions(outputs, ["a"] * 2, ["a"] * 2)[0].probability == pytest.approx(0.25)
    with pytest.raises(DataError, match="Expected labels 'low', 'middle', 'high', found 'top' as well"):
        task.targets(examples(["top"]))


def test_tags():
    task = TokenLabels.from_examples(examples(["O B-x", "I-y O", "O"]))
    assert task.names == ("O", "B-x", "I-x", "B-y", "I-y")
    assert [ids.tolist() for ids in task.targets(examples(["O I-x B-y", "O"]))] == [[0, 2, 3], [0]]
    for names in (("PER", "LOC"), ("B-x", "O", "I-x")):
        with pytest.raises(ConfigError, match=f"Expected the tags O, then B-type and I-type .* found {names[0]}"):
            TokenLabels(names)
    for labels, message in (
        (["O B_x"], r"Expected tags O, B-type and I-type \(IOB2\) in a.csv, found 'B_x'"),
        (["O E-x"], "found 'E-x'"),
        (["O O", "O"], "Expected tags of spans in a.csv, found only O"),
    ):
        with pytest.raises(DataError, match=message):
            TokenLabels.from_examples(examples(labels))


def test_spans_have_their_places_in_the_text():
    task, text = TokenLabels(("O", "B-x", "I-x")), "Hi: (New York) isn't @rome/it, e.g. Rome."
    (read,) = task.readable([text])
    assert read.split(" ") == ["Hi", ":", "(", "New", "York", ")", "isn't", "@rome/it", ",", "e.g", ".", "Rome", "."]
    outputs = np.full((13, 3), 0.1)
    outputs[:, 0] = 0.8
    outputs[[3, 4, 11]] = [[0.1, 0.8, 0.1], [0.3, 0.1, 0.6], [0.1, 0.2, 0.7]]  # the last one goes on with nothing
    (spans,) = task.predictions(outputs, [read], [text])
    assert [(span.text, text[span.start : span.end]) for span in spans] == [("New York",) * 2, ("Rome",) * 2]
    assert [span.probability for span in spans] == pytest.approx([0.7, 0.7])
    assert task.readable(["", "  \n"]) == ["", ""]
    assert task.readable(["हिन्दी में", "Zoe\u0308 sagt", "我在北京", "👩‍👩‍👧 ok!"]) == [
        "हिन्दी में",
        "Zoe\u0308 sagt",
        "我 在 北 京",
        "👩‍👩‍👧 ok !",
    ]
    assert task.predictions(np.zeros((0, 3)), [], []) == []
    assert task.predictions(np.array([[0.8, 0.1, 0.1]]), [""], ["  "]) == [[]]


@pytest.mark.parametrize(
    ("task", "logits", "targets", "doubts"),
    [
        (SingleLabel(("a", "b")), [[1.0, 0.0], [2.0, 0.0]], np.array([0, 1]), "every prediction is 'a'"),
        (SingleLabel(("a", "b")), [[1.0, 0.0], [0.0, 2.0]], np.array([0, 1]), None),
        (MultiLabel(("a", "b")), [[1.0, -1.0], [2.0, -1.0]], np.array([[0, 1], [1, 0]]), "every text gets 'a'"),
        (MultiLabel(("a", "b")), [[-1.0, -1.0], [-2.0, -1.0]], np.array([[0, 1], [1, 0]]), "every text gets no label"),
        (MultiLabel(("a", "b")), [[1.0, -1.0], [-2.0, 1.0]], np.array([[0, 1], [1, 0]]), None),
        (Regression(("score",)), [[1.0], [1.0]], np.array([[0.0], [1.0]]), "all scores are nearly the same"),
        (Regression(("score",)), [[1.0], [1.5]], np.array([[0.0], [1.0]]), None),
        (TokenLabels(("O", "B-x", "I-x")), [[1.0, 0.0, 0.0]], None, "no span is found"),
        (TokenLabels(("O", "B-x", "I-x")), [[1.0, 2.0, 0.0]], None, None),
    ],
)
def test_what_looks_as_if_nothing_was_learned(task, logits, targets, doubts):
    said = task.doubts(targets, task.outputs(torch.tensor(logits)))
    assert said is None if doubts is None else said.startswith(doubts)


def test_a_regression_has_its_scale_in_memory_and_in_its_folder(tiny_bert, tmp_path):
    """In memory the last layer knows nothing of it, so that half precision does not round a large mean away."""
    model = Classifier.from_pretrained(tiny_bert, task=Regression(("year",), (2015.0,), (5.0,)))
    weight = model.network.classifier.weight.detach().clone()
    texts = ["good film", "the story was dull", "a"]
    scores = model.predict_outputs(texts)
    model.save(tmp_path / "model")
    assert torch.equal(model.network.classifier.weight, weight)
    assert np.array_equal(model.predict_outputs(texts), scores)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        logits = [stock(**model.tokenizer(text, return_tensors="pt")).logits.item() for text in texts]
    np.testing.assert_allclose(logits, scores[:, 0], rtol=1e-6)
    again = Classifier.from_pretrained(tmp_path / "model")
    assert again.task == model.task
    np.testing.assert_allclose(again.predict_outputs(texts), scores, rtol=1e-6)
    torch.testing.assert_close(again.network.classifier.weight, weight)


def test_models_of_a_task(tiny_bert, tmp_path):
    with pytest.raises(ConfigError, match="task must be Task or None, found 'multi_label'"):
        Classifier.from_pretrained(tiny_bert, task="multi_label")
    with pytest.raises(ConfigError, match="Expected labels or a task, found both"):
        Classifier.from_pretrained(tiny_bert, labels=["a", "b"], task=SingleLabel(("a", "b")))
    model = Classifier.from_pretrained(tiny_bert, task=MultiLabel(("a", "b"), (0.3, 0.4)), pairs=True)
    for pairs in ([], ["x"]):
        with pytest.raises(ConfigError, match=f"Expected 2 second texts, one for each text, .* found {len(pairs)}"):
            model.predict(["good film", "bad film"], pairs)
    model.save(tmp_path / "model")
    again = Classifier.from_pretrained(tmp_path / "model")
    assert (again.task, again.reads_pairs) == (model.task, True)
    texts, pairs = ["good film", "bad film"], ["a story", "the plot was dull"]
    assert np.array_equal(again.predict_outputs(texts, pairs), model.predict_outputs(texts, pairs))
    assert not np.array_equal(again.predict_outputs(texts, pairs), model.predict_outputs(texts, pairs[::-1]))
    card = json.loads((tmp_path / "model/nlptl.json").read_text())
    for change in ({"task": "tokens"}, {"task": "other"}, {"thresholds": [0.5]}, {"thresholds": "high"}):
        (tmp_path / "model/nlptl.json").write_text(json.dumps(card | change))
        with pytest.raises(UntrustedFileError, match=r"nlptl.json|token|weights"):
            Classifier.from_pretrained(tmp_path / "model")
    single = Classifier.from_pretrained(tiny_bert, labels=["a", "b"])
    with pytest.raises(ConfigError, match="Expected single texts, as the model was trained, found 1 second texts"):
        single.predict(["good"], ["bad"])


@pytest.mark.parametrize(
    "family", ["bert", "distilbert", "roberta", "electra", "deberta", "albert", "modernbert", "mpnet"]
)
@pytest.mark.parametrize("settings", [{}, {"pooling": "mean", "hidden": (8, 4)}])
def test_a_scale_that_moves_into_the_last_layer_leaves_the_scores(family, settings, family_folder):
    task = Regression(("a", "b"), (3.0, -100.0), (2.0, 50.0))
    model = Classifier.from_pretrained(family_folder(family), task=task, **options(**settings))
    texts = ["good film", "the story was dull and bad"]
    before = model.predict_outputs(texts)
    model.rescale(Regression(("a", "b")))
    assert model.task.scaling()[0].tolist() == [0, 0]
    np.testing.assert_allclose(model.predict_outputs(texts), before, rtol=1e-4)
    model.rescale(task)
    np.testing.assert_allclose(model.predict_outputs(texts), before, rtol=1e-4)
