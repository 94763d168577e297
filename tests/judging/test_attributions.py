import dataclasses
import importlib.util
import sys

import numpy as np
import pytest
import torch
from torch import nn

from nlptl.classification import train_classifier
from nlptl.config import ClassificationConfig, JudgingConfig
from nlptl.data.sources import Examples
from nlptl.errors import ConfigError
from nlptl.judging.attributions import BETWEEN, attribute, explain, log_odds, read_tokens
from nlptl.judging.outcomes import outcomes_of
from nlptl.model.classifier import Classifier
from nlptl.tasks.multi_label import MultiLabel
from nlptl.tasks.ordinal import Ordinal
from nlptl.tasks.regression import Regression
from tests.conftest import FAMILIES, options, toy_rows

TEXT = "the film was rather good , and the acting was not bad but very weak"
LABELS = ["negative", "positive"]


def linear_model(folder, **settings):
    """Return a classifier whose logits are a linear function of the word embeddings: weights times their mean."""
    model = Classifier.from_pretrained(folder, labels=LABELS, pooling="mean", **options(**settings))
    encoder = model.network.base_model
    encoder.encoder.layer = nn.ModuleList()
    encoder.embeddings.LayerNorm = nn.Identity()
    return model


def test_a_linear_model_in_closed_form(tiny_bert):
    model = linear_model(tiny_bert)
    found = attribute(model, TEXT, target=1)
    ids = model.tokenizer(TEXT)["input_ids"]
    table = model.network.base_model.get_input_embeddings().weight
    weights = model.network.head.output.weight
    direction = weights[1] - weights[0]
    wanted = ((table[ids[1:-1]] - table[model.tokenizer.mask_token_id]) @ direction / len(ids)).detach()
    assert [word for word, _ in found.words] == TEXT.split()
    np.testing.assert_allclose([part for _, part in found.words], wanted.numpy(), rtol=1e-4, atol=1e-7)
    assert found.change == pytest.approx(float(wanted.sum()), rel=1e-4)


def test_the_parts_of_the_other_label_are_the_opposite(tiny_bert):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS)
    of_first, of_second = (dict(attribute(model, TEXT, target=target).words) for target in (0, 1))
    assert of_first == pytest.approx({word: -part for word, part in of_second.items()}, abs=1e-5)


POOLINGS = [
    {"pooling": "native"},
    {"pooling": "cls"},
    {"pooling": "mean"},
    {"pooling": "max"},
    {"pooling": "attention"},
    {"pooling": "max", "layers": "mix"},
    {"pooling": "mean", "binary_loss": "sigmoid"},
    {"pooling": "mean", "long_text": "chunks", "max_length": 8, "chunk_overlap": 2},
    {"pooling": "mean", "long_text": "head-tail", "max_length": 10},
    {"long_text": "tail", "max_length": 10},
]


@pytest.mark.parametrize("settings", POOLINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_parts_add_up_with_every_pooling_and_reading(tiny_bert, settings):
    check_completeness(Classifier.from_pretrained(tiny_bert, labels=LABELS, **options(**settings)))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "bert"])
def test_parts_add_up_in_every_family(family_folder, family):
    for pooling in ("native", "mean"):
        check_completeness(Classifier.from_pretrained(family_folder(family), labels=LABELS, pooling=pooling))


def check_completeness(model):
    model.train()
    found = attribute(model, TEXT, target=0)
    assert not model.training
    tokens = model.tokenize([TEXT])
    assert [token.id for token in read_tokens(model, [TEXT])] == tokens[0].tolist()
    assert sum(part for _, part in found.words) == pytest.approx(found.change, abs=0.01 * max(abs(found.change), 0.1))
    assert abs(found.change) > 1e-4
    # What all add up to: the log-odds of the text minus that of mask tokens between the same special tokens.
    masked = " ".join([model.tokenizer.mask_token] * len(TEXT.split()))
    odds = [np.log(p[0] / p[1]) for p in model.predict_outputs([TEXT, masked])]
    assert found.change == pytest.approx(odds[0] - odds[1], abs=1e-4)


def test_pairs(tiny_bert):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS, pairs=True, max_length=16)
    found = attribute(model, "the film was dull", TEXT, target=0)
    words = [word for word, _ in found.words]
    assert words[:6] == ["the", "film", "was", "dull", BETWEEN, "the"]
    assert len(words) == 16 - 3 + 1
    assert sum(part for _, part in found.words) == pytest.approx(found.change, abs=0.01)


@pytest.mark.parametrize(
    "task", [Ordinal(("1", "2", "3")), MultiLabel(("joy", "love", "fear")), Regression(("score",), (2.0,), (3.0,))]
)
def test_other_tasks(tiny_bert, task):
    model = Classifier.from_pretrained(tiny_bert, task=task)
    found = attribute(model, TEXT, target=0)
    assert sum(part for _, part in found.words) == pytest.approx(found.change, abs=0.01 * max(abs(found.change), 0.1))


def test_log_odds_are_those_of_the_probability():
    class Three:
        task = type("Task", (), {"kind": "single_label"})()

    logits = torch.tensor([[1.0, -2.0, 0.5]])
    shares = logits.softmax(dim=1)
    assert log_odds(Three, logits, 2).item() == pytest.approx(torch.logit(shares[0, 2]).item(), abs=1e-6)


def test_which_texts_are_explained(tiny_bert):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS)
    texts = [text for text, _ in toy_rows(6)]
    labels = ["positive"] * 3 + ["negative"] * 3
    examples = Examples(texts, labels, [2, 3, 4, 5, 6, 7])
    outputs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3], [0.99, 0.01], [0.2, 0.8]])
    task = model.task
    outcomes = outcomes_of(task, examples, outputs, texts_shown=True)
    found = explain(model, examples, outcomes, 5)
    assert [(each["row"], each["label"], each["predicted"]) for each in found] == [
        (2, "positive", "negative"),
        (7, "negative", "positive"),
        (3, "positive", "negative"),
        (6, "negative", "negative"),
        (4, "positive", "positive"),
    ]
    assert found[0]["target"] == "negative"
    assert [word for word, _ in found[0]["tokens"]] == texts[0].split()
    assert explain(model, examples, outcomes, 0) == []
    assert len(explain(model, examples, outcomes, 50)) == 6


def test_what_cannot_be_explained_is_refused_before_training(tmp_path):
    config = ClassificationConfig(judging=JudgingConfig(explain=2), output_dir=tmp_path / "run", task="tokens")
    with pytest.raises(ConfigError, match="for --explain, found the task tokens. Leave --explain out"):
        train_classifier(config)
    assert not (tmp_path / "run").exists()


def test_captum_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("nlptl.judging.attributions.find_spec", lambda name: None)
    config = dataclasses.replace(ClassificationConfig(output_dir=tmp_path / "run"), judging=JudgingConfig(explain=2))
    with pytest.raises(ConfigError, match=r"Expected the package captum.*pip install 'nlptl\[explain\]'"):
        train_classifier(config)
