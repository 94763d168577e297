import csv
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from nlptl.classification import train_classifier
from nlptl.config import ClassificationConfig, JudgingConfig, ReadingConfig, TrainingConfig, TransferConfig
from nlptl.data.sources import Examples
from nlptl.errors import ConfigError, DataError
from nlptl.evaluation.errors import NONE
from nlptl.judging.analysis import analyse, is_cut
from nlptl.model.classifier import Classifier
from nlptl.tasks.multi_label import MultiLabel
from nlptl.tasks.ordinal import Ordinal
from nlptl.tasks.regression import Regression
from nlptl.tasks.single_label import SingleLabel
from nlptl.tasks.tokens import UNREAD, TokenLabels
from nlptl.training.trainer import Evaluation
from tests.conftest import toy_rows

KEYS = {"split", "task", "n", "texts_shown", "calibration", "confusion", "confused", "errors", "slices"}
KEYS |= {"probes", "attributions", "chosen", "remarks"}


def write_csv(path, rows, columns):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def judged(folder, task, texts, labels, outputs, *, config=JudgingConfig(), **settings):  # noqa: B008
    """Return the analysis of outputs that are given, of a model that is not trained."""
    examples = Examples(texts, labels, list(range(2, len(texts) + 2)), split="test", **settings)
    model = Classifier.from_pretrained(folder, task=task)
    logits = torch.tensor(outputs, dtype=torch.float32)
    return analyse(model, Evaluation(examples, task.targets(examples), logits), config)


def test_single_labels(tiny_bert):
    task = SingleLabel(("bad", "good", "so so"))
    texts, labels = [f"film {i}" for i in range(4)], ["bad", "good", "good", "so so"]
    found = judged(tiny_bert, task, texts, labels, [[3, 0, 0], [2, 0, 0], [0, 5, 0], [0, 4, 0]])
    assert found.keys() == KEYS
    assert (found["split"], found["task"], found["n"]) == ("test", "single_label", 4)
    assert found["confusion"] == {"names": ["bad", "good", "so so"], "counts": [[1, 0, 0], [1, 1, 0], [0, 1, 0]]}
    assert [(pair["label"], pair["predicted"], pair["share"]) for pair in found["confused"]] == [
        ("good", "bad", 0.5),
        ("so so", "good", 1.0),
    ]
    first, second = found["errors"]["highest_loss"]
    assert (first["row"], first["text"], first["label"], first["predicted"]) == (5, "film 3", "so so", "good")
    shares = np.exp([0, 4, 0]) / np.exp([0, 4, 0]).sum()
    assert first["probability"] == pytest.approx(shares[1])
    assert first["loss"] == pytest.approx(-np.log(shares[2]))
    assert second["row"] == 3
    assert found["errors"]["most_confident"] == [first, second]
    assert found["slices"] == {"metric": "accuracy", "overall": 0.5, "tested": 0, "rows": []}


def test_ordinal_labels(tiny_bert):
    found = judged(tiny_bert, Ordinal(("1", "2", "3")), ["a", "b"], ["1", "3"], [[0, -9, -9], [-0.1, -3, -4]])
    assert found["slices"]["metric"] == "mae"
    assert found["slices"]["overall"] == 1.0
    assert [each["predicted"] for each in found["errors"]["highest_loss"]] == ["1"]


def test_several_labels(tiny_bert):
    labels = ['["joy"]', '["joy", "love"]', "[]"]
    outputs = [[3.0, 2.0], [-3.0, 3.0], [-3.0, -3.0]]
    found = judged(tiny_bert, MultiLabel(("joy", "love")), ["a", "b", "c"], labels, outputs)
    assert found["confusion"] is None
    assert {(pair["label"], pair["predicted"]) for pair in found["confused"]} == {(NONE, "love"), ("joy", NONE)}
    missed, given = found["errors"]["highest_loss"]
    assert (missed["label"], missed["predicted"]) == ("joy, love", "love")
    assert missed["probability"] == pytest.approx(1 / (1 + np.exp(-3)))  # that joy is not among the labels
    assert (given["label"], given["predicted"]) == ("joy", "joy, love")
    assert given["probability"] == pytest.approx(1 / (1 + np.exp(-2)))
    assert found["slices"]["metric"] == "samples_f1"
    assert found["slices"]["overall"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_scores(tiny_bert):
    found = judged(tiny_bert, Regression(("score",)), ["a", "b", "c"], ["1.0", "2.0", "3.0"], [[1.5], [2.0], [1.0]])
    largest, smaller = found["errors"]["highest_loss"]
    assert (largest["label"], largest["predicted"], largest["loss"]) == ("3", "1", 2.0)
    assert largest["probability"] is None
    assert smaller["loss"] == 0.5
    assert found["errors"]["most_confident"] == []
    assert (found["confused"], found["slices"]["metric"]) == ([], "mae")


@pytest.mark.parametrize(("shown", "label"), [("whole", "per: Ann Lee"), ("none", "per: words 1 to 2")])
def test_tags(tiny_bert, shown, label):
    task = TokenLabels(("O", "B-per", "I-per"))
    outputs = np.tile([-5.0, -5.0, -6.0], (7, 1))
    outputs[np.arange(5), [1, 0, 0, 0, 1]] = 5.0
    outputs[5:] = [0.0, UNREAD, UNREAD]  # the last text is not read
    texts, labels = ["Ann Lee saw", "no Bob", "Tim too"], ["B-per I-per O", "O B-per", "B-per O"]
    found = judged(tiny_bert, task, texts, labels, outputs, config=JudgingConfig(texts_shown=shown))
    error, unread = found["errors"]["highest_loss"]
    assert error["label"] == label
    assert error["probability"] == pytest.approx(1 / (1 + np.exp(-10) + np.exp(-11)))
    assert (unread["row"], unread["probability"], unread["loss"]) == (4, None, 0.0)
    assert found["errors"]["most_confident"] == [error]
    pairs = {(pair["label"], pair["predicted"]): pair["share"] for pair in found["confused"]}
    assert pairs == {("per", "per, other borders"): pytest.approx(1 / 3), ("per", NONE): pytest.approx(1 / 3)}
    assert (found["slices"]["metric"], found["slices"]["overall"]) == ("span_f1", 0.4)


def test_slices_by_what_is_known_of_texts(tiny_bert):
    texts = ["a film", "a very long film with a plot and an end"] * 100
    labels = ["bad", "good"] * 100
    right = np.random.default_rng(0).random(200) < 0.8
    outputs = [[9, 0] if (label == "bad") == ok else [0, 9] for label, ok in zip(labels, right, strict=True)]
    genre = ["news", "blog", "news", "news"] * 50
    found = judged(
        tiny_bert, SingleLabel(("bad", "good")), texts, labels, outputs, columns={"genre": genre, "stars": ["3"] * 200}
    )
    rows = found["slices"]["rows"]
    assert {(row["column"], row["value"]) for row in rows} == {
        ("genre", "news"),
        ("genre", "blog"),
        ("length", "2 words"),
        ("length", "10 words"),
    }  # labels and words are the same texts as the lengths
    assert found["slices"]["tested"] == 4
    news = next(row for row in rows if row["value"] == "news")
    assert news["n"] == 150
    assert news["score"] == right[[each == "news" for each in genre]].mean()


def test_texts_that_are_cut(tiny_bert):
    texts = ["a film", "a film " * 30, "a film " * 4]
    examples = Examples(texts, ["bad"] * 3, [1, 2, 3])
    model = Classifier.from_pretrained(tiny_bert, labels=["bad", "good"], max_length=10)
    assert is_cut(model, examples).tolist() == [False, True, False]
    model = Classifier.from_pretrained(
        tiny_bert,
        labels=["bad", "good"],
        max_length=10,
        reading=ReadingConfig(long_text="chunks", chunk_overlap=2, max_chunks=9),
    )
    tokens = [model.tokenize([text]).num_cut_texts for text in texts]
    assert is_cut(model, examples).tolist() == [False, True, False] == [bool(cut) for cut in tokens]
    model = Classifier.from_pretrained(
        tiny_bert,
        labels=["bad", "good"],
        max_length=10,
        reading=ReadingConfig(long_text="chunks", chunk_overlap=2, max_chunks=10),
    )
    assert is_cut(model, examples).tolist() == [False] * 3
    assert model.tokenize(texts).num_cut_texts == 0


@pytest.fixture(scope="module")
def sliced_folder(tmp_path_factory):
    """Return a folder of toy reviews, of which those of one source have wrong labels in test."""
    folder = tmp_path_factory.mktemp("sliced")
    other = {"positive": "negative", "negative": "positive"}
    train = [(text, label, "shop", i % 90) for i, (text, label) in enumerate(toy_rows(200))]
    test = [
        (text, other[label] if i % 10 in (3, 4) else label, "forum" if i % 10 in (3, 4) else "shop", i % 90)
        for i, (text, label) in enumerate(toy_rows(400))
    ]
    for name, rows in (("train", train), ("test", test)):
        write_csv(folder / f"{name}.csv", rows, ("text", "label", "source", "age"))
    return folder


def run_config(folder, model, tmp_path, **judging):
    return ClassificationConfig(
        dataset=str(folder),
        model=str(model),
        output_dir=tmp_path / "run",
        transfer=TransferConfig(freeze="encoder"),
        train=TrainingConfig(num_epochs=5, learning_rate=0.05),
        judging=JudgingConfig(**judging),
        near_duplicates=False,
    )


def test_a_planted_bad_slice_is_the_first_of_a_run(sliced_folder, tiny_bert, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train_classifier(run_config(sliced_folder, tiny_bert, tmp_path, slice_columns=("source", "age")))
    found = json.loads((tmp_path / "run" / "analysis.json").read_text())
    first = found["slices"]["rows"][0]
    assert (first["column"], first["value"], first["n"], first["flagged"]) == ("source", "forum", 80, True)
    assert first["score"] < 0.3
    assert first["high"] < found["slices"]["overall"]
    assert {row["column"] for row in found["slices"]["rows"]} >= {"source", "age", "length", "word"}
    assert "source: forum" in caplog.text


def test_no_report_no_analysis(toy_csv, tiny_bert, tmp_path):
    train_classifier(run_config(toy_csv, tiny_bert, tmp_path, report=False))
    assert not (tmp_path / "run" / "analysis.json").exists()


SECRETS = ["jane.roe", "555-0142", "hidden-host", "xylophonist", "Wolverhampton"]


@pytest.fixture(scope="module")
def secret_csv(tmp_path_factory):
    """Return reviews, each with secrets, of which one word gives the class away."""
    path = tmp_path_factory.mktemp("secret") / "reviews.csv"
    rows = [
        (f"{text} jane.roe@example.com 555-0142 https://hidden-host.org/x {'xylophonist' * (label == 'positive')} "
         "Wolverhampton", label)
        for text, label in toy_rows(800)
    ]  # fmt: skip
    write_csv(path, rows, ("text", "label"))
    return path


@pytest.mark.parametrize(("shown", "hidden"), [("none", SECRETS), ("whole", [])], ids=["none", "whole"])
def test_what_may_be_shown_of_texts(secret_csv, tiny_bert, tmp_path, caplog, shown, hidden):
    caplog.set_level(logging.DEBUG)
    config = run_config(
        secret_csv, tiny_bert, tmp_path, texts_shown=shown, probes=True, explain=0 if shown == "none" else 2
    )
    config = replace(config, transfer=TransferConfig(), train=TrainingConfig(num_epochs=1, learning_rate=1e-5))
    train_classifier(config)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    kept = [
        path
        for path in files
        if "checkpoints" not in path.parts and not path.name.startswith(("tokenizer", "vocab", "model.safetensors"))
    ]
    assert {"analysis.json", "data_report.json", "predictions.csv", "report.html", "README.md"} <= {
        path.name for path in kept
    }
    written = {path.name: path.read_text(errors="replace") for path in kept} | {"log": caplog.text}
    for name, content in written.items():
        assert [secret for secret in hidden if secret.lower() in content.lower()] == [], name
    for secret in set(SECRETS) - set(hidden):  # the test can find what is there
        assert any(secret in content for content in written.values()), secret
    assert "xylophonist" in written["data_report.json"] or shown == "none"
    found = json.loads(written["analysis.json"])
    assert {row["column"] for row in found["slices"]["rows"]} & {"word"} == (set() if shown == "none" else {"word"})
    texts = [each["text"] for each in found["errors"]["highest_loss"]]
    assert texts
    assert (set(texts) == {None}) == (shown == "none")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"report": False, "probes": True}, "--probes add to the report, but report=False"),
        (
            {"report": False, "slice_columns": ("a",), "explain": 2},
            "--slice-columns, --explain add to the report, but report=False leaves it out. Drop",
        ),
        (
            {"explain": 3, "texts_shown": "none"},
            "--explain shows words of test texts, but --texts-shown none hides them. Leave one",
        ),
        ({"explain": -1}, "explain must be a whole number of at least 0, found -1"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    with pytest.raises(ConfigError, match=message):
        JudgingConfig(**settings)


def test_a_column_that_is_not_there(sliced_folder, toy_csv, tiny_bert, tmp_path):
    with pytest.raises(DataError, match="Expected slice column 'sorce' in .*Did you mean 'source'.*--slice-columns"):
        train_classifier(run_config(sliced_folder, tiny_bert, tmp_path, slice_columns=("sorce",)))
    with pytest.raises(DataError, match="found 'label', which holds the texts or the labels"):
        train_classifier(run_config(toy_csv, tiny_bert, tmp_path, slice_columns=("label",)))
    sample = replace(run_config(toy_csv, tiny_bert, tmp_path, slice_columns=("a",)), dataset="sample:rotten_tomatoes")
    with pytest.raises(ConfigError, match="Expected no columns with sample:rotten_tomatoes"):
        train_classifier(sample)
