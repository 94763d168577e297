"""Public functions refuse what their annotations do not allow, and say what to pass instead."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow
import pytest

from nlptl import (
    Classifier,
    ConfigError,
    Examples,
    Labels,
    MultiLabel,
    Run,
    TextClassifier,
    Trainer,
    TrainingConfig,
    load_splits,
    make_task,
    train_classifier,
)

TEXTS, LABELS = ["good film", "bad film", "dull"], ["a", "b", "a"]
FRAME = pd.DataFrame({"text": TEXTS, "id": [1, 2, 3], "label": LABELS})
DATASET = datasets.Dataset.from_pandas(FRAME)
TABLES = {
    "a DataFrame with 'text', 'id', 'label'": FRAME,
    "a Dataset with 'text', 'id', 'label'": DATASET,
    "a Table with 'text'": pyarrow.table({"text": TEXTS}),
    "a dict with 'text'": {"text": TEXTS},
    "a DatasetDict with 'train'": datasets.DatasetDict(train=DATASET),
}
NO_LISTS = {
    **TABLES,
    "the string 'abc'": "abc",
    "{'only'}": {"only"},
    "3": 3,
    "None": None,
    "array('a', dtype='<U1')": np.array("a"),
}
LISTS = {
    "list": TEXTS,
    "tuple": tuple(TEXTS),
    "generator": (text for text in TEXTS),
    "array": np.array(TEXTS),
    "series": FRAME["text"],
    "nullable": FRAME["text"].astype("string"),
    "column": DATASET["text"],
    "arrow": pyarrow.chunked_array([TEXTS[:1], TEXTS[1:]]),
}


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> Classifier:
    return Classifier.from_pretrained(tiny_bert, labels=["a", "b"])


@pytest.mark.parametrize("found", NO_LISTS)
def test_what_is_no_list_of_texts_is_refused(found: str, model: Classifier):
    """A table would be read as the names of its columns, a string letter by letter, a set in any order."""
    values = NO_LISTS[found]
    calls: list[Callable[[Any], Any]] = [
        *(model.predict, model.predict_probabilities, model.predict_outputs, model.predict_logits, model.encode),
        lambda given: Examples.from_lists(given, LABELS),
        lambda given: Examples.from_lists(TEXTS, given),
        lambda given: Examples.from_lists(TEXTS, LABELS, pairs=given),
        lambda given: TextClassifier().fit(given, LABELS),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="Expected a list of .*found " + re.escape(found)):
            call(values)
    if "text" in found:
        with pytest.raises(ConfigError, match=re.escape("Pass one column of it: data['text']")):
            model.predict(values)


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_every_kind_are_read_alike(kind: str, model: Classifier):
    texts = list(LISTS[kind]) if kind == "generator" else LISTS[kind]
    assert model.predict(texts) == model.predict(TEXTS)
    assert Examples.from_lists(texts, LABELS).texts == TEXTS
    assert Examples.from_lists(LABELS, texts).labels == TEXTS
    assert Examples.from_lists(LABELS, LABELS, pairs=texts).pairs == TEXTS


def test_labels_may_be_any_list(tiny_bert: Path):
    for labels in (("b", "a"), np.array(["b", "a"]), pd.Series(["b", "a"]), Labels(("b", "a"))):
        assert Classifier.from_pretrained(tiny_bert, labels=labels).labels.names == ("b", "a")


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_a_missing_text_gets_the_answer_of_an_empty_one(missing: object, model: Classifier):
    assert model.predict(["good", missing]) == model.predict(["good", ""])
    assert np.array_equal(model.encode(["good", missing]), model.encode(["good", ""]))
    assert Examples.from_lists(["good", missing], ["a", "b"], pairs=[missing, "x"]).texts == ["good", ""]


def test_texts_that_are_no_strings_are_named(model: Classifier):
    with pytest.raises(ConfigError, match=r"found a dict with 'text' at position 0\. Pass \[row\['text'\] for row"):
        model.predict([{"text": "a"}])
    with pytest.raises(ConfigError, match=r"half of a surrogate pair in '\\ud800' at position 1"):
        model.predict(["a", "\ud800"])


@pytest.mark.parametrize("found", TABLES)
def test_data_in_memory_is_refused_where_examples_or_files_are_wanted(found: str, model: Classifier):
    trainer, data = Trainer(model, TrainingConfig(num_epochs=1)), TABLES[found]
    way_out = "Examples.from_lists(split['text']" if "Dict" in found else "Examples.from_lists(data['text']"
    for call in (
        *(load_splits, trainer.fit, trainer.evaluate, trainer.estimate, make_task),
        lambda given: trainer.fit(Examples.from_lists(TEXTS, LABELS), validation=given),
    ):
        with pytest.raises(ConfigError, match=re.escape(f"found {found}. ") + ".*" + re.escape(way_out)):
            call(data)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda trainer: trainer.fit((TEXTS, LABELS)), r"train must be Examples, .*Examples\.from_lists\(texts, lab"),
        (lambda trainer: trainer.fit(TEXTS, LABELS), r"too many positional arguments.*Examples\.from_lists\(texts"),
        (lambda trainer: trainer.fit(), "missing a required argument: 'train'"),
        (lambda trainer: trainer.evaluate("test"), "examples must be Examples, found 'test'"),
        (
            lambda trainer: trainer.fit(load_splits("sample:rotten_tomatoes")),
            "Pass one of the splits, such as",
        ),
        (
            lambda trainer: Trainer("bert", trainer.config),
            r"values for Trainer\(\): model must be Classifier, ",
        ),
        (lambda trainer: Trainer(trainer.model, {"num_epochs": 3}), "config must be TrainingConfig, found a dict with"),
        (lambda trainer: load_splits(("x.csv", "y.csv")), "dataset must be a string or a path, found"),
        (
            lambda trainer: load_splits("x.csv", label_columns="joy"),
            "label_columns must be a list of strings, fo",
        ),
        (lambda trainer: load_splits("x.csv", task="multilabel"), "task must be 'single_label', .* found 'multilabel'"),
        (
            lambda trainer: load_splits("x.csv", max_examples="5", seed=None),
            "max_examples must be .*; seed must be a",
        ),
        (lambda trainer: load_splits("x.csv", text="a"), r"load_splits\(\): got an unexpected keyword argument 'text'"),
        (
            lambda trainer: Examples.from_lists(["a"], ["b"], task="multilabel"),
            "it must be 'single_label', .* found 'multilabel'",
        ),
        (lambda trainer: MultiLabel("joy"), "names must be a list of strings, found 'joy'"),
        (lambda trainer: Labels("ab"), "names must be a list of strings, found 'ab'"),
        (lambda trainer: trainer.model.save(None), "directory must be a string or a path, found None"),
        (lambda trainer: trainer.model.use_engine("tensorrt", "."), "engine must be 'torch', .* found 'tensorrt'"),
        (lambda trainer: train_classifier({"num_epochs": 3}), "config must be ClassificationConfig, found a dict with"),
        (lambda trainer: Run.open(3, trainer.config), r"values for Run\.open\(\): path must be a string or a path, fo"),
        (lambda trainer: Classifier.from_pretrained(None), "name must be a string or a path, found None"),
    ],
)
def test_arguments_of_other_types_are_refused(call: Callable[[Trainer], Any], message: str, model: Classifier):
    with pytest.raises(ConfigError, match=message):
        call(Trainer(model, TrainingConfig(num_epochs=1)))
