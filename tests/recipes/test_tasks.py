"""The recipes for several labels, pairs, scores, ordered labels, tags and aspects, from a file to predictions."""

import csv
import dataclasses
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, pipeline

from nlptl import Classifier, Trainer, TrainingConfig, cli, load_splits, make_task
from nlptl.config import TransferConfig
from nlptl.evaluation.multi_label import tune_thresholds
from tests.conftest import NEGATIVE, POSITIVE, toy_rows
from tests.recipes.test_recipes import RUN_FOLDER, load

ROOT = Path(cli.__file__).parents[1]
TRAIN = TrainingConfig(num_epochs=6, batch_size=8, learning_rate=3e-3)
RECIPES = ("multilabel", "sentence_pair", "aspect_sentiment", "regression", "ordinal", "token_classification")
WORK = ("film", "movie", "story")
FLOOR = {"micro_f1": 0.8, "accuracy": 0.8, "spearman": 0.7, "quadratic_kappa": 0.6, "span_f1": 0.9}


def toy_data(name: str, count: int = 120) -> list[dict[str, object]]:
    """Return rows of a toy task that a few words decide."""
    rows: list[dict[str, object]] = []
    for i, (text, label) in enumerate(toy_rows(count)):
        words = text.split()
        if name == "multilabel":
            labels = [label, *["work"] * any(word in WORK for word in words)]
            rows.append({"text": text, "labels": labels if i % 7 else labels[:1]})
        elif name in ("sentence_pair", "aspect_sentiment"):
            second = "text2" if name == "sentence_pair" else "aspect"
            rows.append({"text": f"the film {i % 9 * 'very '}.", second: text, "label": label})
        elif name == "regression":
            sign = sum(word in POSITIVE for word in words) - sum(word in NEGATIVE for word in words)
            rows.append({"text": text, "score": 50 + 10 * sign})
        elif name == "ordinal":
            rows.append({"text": text if i % 3 else "the film was .", "label": {"positive": 3, "negative": 1}[label]})
            rows[-1]["label"] = rows[-1]["label"] if i % 3 else 2
        else:
            is_work = [word in WORK for word in words]
            tags = [("I-work" if i and is_work[i - 1] else "B-work") if is_work[i] else "O" for i in range(len(words))]
            rows.append({"tokens": words, "tags": tags})
    return rows


@pytest.fixture(scope="module")
def trained(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], SimpleNamespace]:
    """Return the data, the run folder and the scores of a recipe that was run through, once, in this process."""
    done: dict[str, SimpleNamespace] = {}

    def get(name: str) -> SimpleNamespace:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            data = folder / "data.jsonl"
            data.write_text("".join(json.dumps(row) + "\n" for row in toy_data(name)))
            recipe = load(ROOT / "recipes" / f"{name}.py")
            config = replace(
                recipe.Config(),
                model=str(tiny_bert),
                dataset=str(data),
                output_dir=folder / "run",
                transfer=TransferConfig(),
                train=replace(TRAIN, num_epochs=20) if name == "token_classification" else TRAIN,
                near_duplicates=False,
            )
            scores = recipe.main(config)
            done[name] = SimpleNamespace(data=data, run=folder / "run", scores=scores, config=config, recipe=recipe)
        return done[name]

    return get


for_each = pytest.mark.parametrize("name", RECIPES)
for_each_kind = pytest.mark.parametrize("name", [name for name in RECIPES if name != "aspect_sentiment"])


def run_command(words: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """Run `nlptl` in this process and return what it wrote to standard output."""
    capsys.readouterr()
    cli.main([str(word) for word in words])
    return capsys.readouterr().out


@for_each
def test_the_recipe_learns_its_task_and_fills_its_folder(name, trained):
    found = trained(name)
    ((metric, floor),) = [(metric, floor) for metric, floor in FLOOR.items() if metric in found.scores][:1]
    assert found.scores[metric].value >= floor
    assert found.scores[metric].low <= found.scores[metric].value <= found.scores[metric].high
    assert [file for file in RUN_FOLDER if not (found.run / file).exists()] == []
    written = json.loads((found.run / "scores.json").read_text())
    assert written["test"][metric] == dataclasses.asdict(found.scores[metric])
    (baseline,) = [key for key in written if key not in ("test", "validation")]
    assert written[baseline]["test"][metric]["value"] < floor
    with (found.run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    if name not in ("regression", "multilabel"):
        share = np.mean([row["label"] == row["predicted"] for row in rows])
        assert share >= 0.5
    if name == "regression":
        errors = [abs(float(row["label"]) - float(row["predicted"])) for row in rows]
        assert np.mean(errors) == pytest.approx(found.scores["mae"].value, rel=1e-9)


@for_each_kind
def test_evaluate_gives_the_scores_of_training(name, trained, tmp_path, capsys):
    found = trained(name)
    rows = found.data.read_text().splitlines()
    numbers = json.loads((found.run / "splits.json").read_text())["test"]
    (tmp_path / "test.jsonl").write_text("".join(rows[number - 1] + "\n" for number in numbers))
    pair = {"sentence_pair": ["--pair-column", "text2"], "aspect_sentiment": ["--pair-column", "aspect"]}
    words = ["evaluate", found.run / "model", tmp_path / "test.jsonl", *pair.get(name, [])]
    run_command([*words, "--output", tmp_path / "scores.json"], capsys)
    again = json.loads((tmp_path / "scores.json").read_text())["test"]
    before = json.loads((found.run / "scores.json").read_text())["test"]
    for metric, score in before.items():
        if metric != "per_class":
            assert again[metric]["value"] == pytest.approx(score["value"], rel=1e-6, abs=1e-6), metric


@for_each_kind
def test_predict_is_the_same_on_the_command_line_and_in_python(name, trained, tmp_path, capsys):
    found = trained(name)
    model = Classifier.from_pretrained(found.run / "model")
    text = "The movie was very good. A bad film story!"
    second = {"sentence_pair": "text2", "aspect_sentiment": "aspect"}.get(name)
    with (tmp_path / "new.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", *[second] * bool(second)], [text, *["great ."] * bool(second)]])
    words = [
        "predict",
        found.run / "model",
        "--input",
        tmp_path / "new.csv",
        *(["--pair-column", second] if second else []),
    ]
    if name == "token_classification":
        words += ["--text-column", "text"]
    (line,) = run_command(words, capsys).splitlines()
    row = json.loads(line)
    (prediction,) = model.predict([text], ["great ."] if second else [])
    assert row["text"] == text
    match name:
        case "multilabel":
            assert tuple(row["labels"]) == prediction.labels
            assert row["probability_positive"] == pytest.approx(prediction.probabilities["positive"], abs=1e-7)
        case "regression":
            assert row["score"] == pytest.approx(prediction.score, rel=1e-6)
        case "token_classification":
            assert row["spans"] == [dataclasses.asdict(span) for span in prediction]
            assert [text[span.start : span.end] for span in prediction] == ["movie", "film story"]
        case _:
            assert row["label"] == prediction.label
            assert row["probability"] == pytest.approx(prediction.probability, abs=1e-7)


@for_each_kind
def test_the_model_folder_is_one_of_transformers(name, trained):
    """Logits of the stock class are those of nlptl up to rounding, and a pipeline says the same."""
    found = trained(name)
    model = Classifier.from_pretrained(found.run / "model")
    auto = AutoModelForTokenClassification if name == "token_classification" else AutoModelForSequenceClassification
    stock = auto.from_pretrained(found.run / "model").eval()
    assert tuple(stock.config.id2label.values()) == model.task.names
    text, second = "the film movie was very good .", "a bad story ."
    pairs = [second] if model.reads_pairs else []
    batch = model.tokenizer(text, *pairs, return_tensors="pt")
    with torch.no_grad():
        logits = stock(**batch).logits
    logits = model.task.by_word(
        logits.flatten(0, 1) if model.task.is_per_token else logits, model.tokenize([text], pairs), [text]
    )
    outputs = model.task.outputs(logits)
    if name == "regression":  # its scale, which is in the stock model's last layer, is taken out of it
        outputs = logits.double().numpy()
        np.testing.assert_allclose(model.predict_outputs([text], pairs), outputs, rtol=1e-6)
    else:
        np.testing.assert_allclose(model.predict_outputs([text], pairs), outputs, rtol=0, atol=1e-6)
        assert model.task.calibration.method == ("platt" if name == "multilabel" else "temperature")
        outputs = model.task.uncalibrated().outputs(logits)  # as a pipeline gives them
    if name == "token_classification":
        words = pipeline("token-classification", model=str(found.run / "model"))(text)
        assert [word["entity"] for word in words] == ["B-work", "I-work"]
        return
    predict = pipeline("text-classification", model=str(found.run / "model"), top_k=None)
    given = {"text": text, "text_pair": second} if pairs else text
    said = predict(given)
    values = {each["label"]: each["score"] for each in (said if pairs else said[0])}
    np.testing.assert_allclose([values[label] for label in model.task.names], outputs[0], rtol=1e-5, atol=1e-6)


def test_a_regression_that_goes_on_keeps_its_scores(trained, tmp_path):
    """A saved model predicts in the units of the scores; trained again, it starts from there."""
    found = trained("regression")
    splits = load_splits(found.data, task="regression", near_duplicates=False)
    model = Classifier.from_pretrained(found.run / "model")
    before = model.predict_outputs(splits.test.texts)
    Trainer(model, TrainingConfig(num_epochs=1, learning_rate=1e-12)).fit(splits.train)
    np.testing.assert_allclose(model.predict_outputs(splits.test.texts), before, rtol=1e-4)
    assert 20 < before.mean() < 80


def test_thresholds_are_chosen_on_validation_and_saved(trained):
    found = trained("multilabel")
    splits = load_splits(found.data, task="multi_label", near_duplicates=False)
    model = Classifier.from_pretrained(found.run / "model")
    validation = splits.validation
    tuned = tune_thresholds(model.task.targets(validation), model.predict_outputs(validation.texts))
    np.testing.assert_allclose(model.task.thresholds, tuned, atol=1e-6)
    assert json.loads((found.run / "model/nlptl.json").read_text())["thresholds"] == list(model.task.thresholds)


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        (
            "sentence_pair",
            ["--loss", "asymmetric"],
            "--loss asymmetric applies to multi_label",
        ),
        ("regression", ["--class-weights", "balanced"], "do not apply to the task regression: --class-weights"),
        (
            "regression",
            ["--selection-metric", "accuracy"],
            "The task regression has no score 'accuracy'",
        ),
        (
            "regression",
            ["--head", "logistic", "--freeze", "encoder"],
            "head 'dense' with the task regression",
        ),
        ("ordinal", ["--pooling", "native"], "steps between labels for the task ordinal, found pooling 'native'"),
        ("ordinal", ["--loss", "focal"], "not apply to the task ordinal: --loss"),
        ("token_classification", ["--pooling", "mean"], "own head for tags of words, found pooling 'mean'"),
        ("token_classification", ["--long-text", "tail"], "long_text 'head' for words with tags, found 'tail'"),
        ("token_classification", ["--long-text", "chunks"], "pooling|words with tags"),
        ("sentence_pair", ["--long-text", "chunks"], "long_text 'head' or 'tail' for pairs, found 'chunks'"),
        ("sentence_pair", ["--long-text", "head-tail"], "long_text 'head' or 'tail' for pairs, found 'head-tail'"),
        ("multilabel", ["--label-order", "a", "b"], "--label-order only with the task ordinal, found multi_label"),
        ("multilabel", ["--binary-loss", "sigmoid"], "binary_loss 'sigmoid' only with one of two labels"),
    ],
)
def test_what_contradicts_the_task_is_refused(name, flags, message, trained, tmp_path, capsys):
    found = trained(name)
    words = ["--model", found.config.model, "--dataset", found.data, "--output-dir", tmp_path / "run", *flags]
    with pytest.raises(SystemExit, match="2"):
        cli.run(found.recipe.main, found.recipe.Config, [str(word) for word in words])
    err = capsys.readouterr().err
    assert re.search(message, err), err
    assert not (tmp_path / "run/model").exists()


def test_a_label_order_that_is_needed(trained, tiny_bert, tmp_path, capsys):
    rows = [{"text": text, "label": {"positive": "good", "negative": "bad"}[label]} for text, label in toy_rows(60)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = trained("ordinal").recipe
    words = ["--model", tiny_bert, "--dataset", tmp_path / "data.jsonl", "--output-dir", tmp_path / "run"]
    words = [str(word) for word in [*words, "--num-epochs", 1]]
    with pytest.raises(SystemExit, match="2"):
        cli.run(recipe.main, recipe.Config, words)
    assert "different numbers, or --label-order, found bad, good" in capsys.readouterr().err
    cli.run(recipe.main, recipe.Config, [*words, "--label-order", "good", "bad"])
    assert Classifier.from_pretrained(tmp_path / "run/model").labels.names == ("good", "bad")


def test_words_are_read_as_they_stand(trained, tmp_path, capsys):
    """Lists of words, and CoNLL files, to train on and to predict from: no word is cut into others."""
    found = trained("token_classification")
    sentences = [["The", "movie,film", "was"], ["a", "story", "."]]
    rows = [{"tokens": words, "tags": ["O"] * 3} for words in sentences]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "new.conll").write_text("\n\n".join("\n".join(f"{word} O" for word in words) for words in sentences))
    outputs = []
    for suffix in ("jsonl", "conll"):
        words = ["predict", found.run / "model", "--input", tmp_path / f"new.{suffix}"]
        lines = [json.loads(line) for line in run_command(words, capsys).splitlines()]
        assert [line["text"] for line in lines] == [" ".join(words) for words in sentences]
        outputs.append([line["spans"] for line in lines])
    assert outputs[0] == outputs[1]
    assert [span["text"] for span in outputs[0][1]] == ["story"]
    classifier = trained("sentence_pair").run / "model"
    with pytest.raises(SystemExit, match="2"):
        cli.main(["predict", str(classifier), "--input", str(tmp_path / "new.jsonl")])
    assert "Expected texts as strings for a model of the task single_label" in capsys.readouterr().err

    rows = [json.loads(line) for line in found.data.read_text().splitlines()]
    pairs = [zip(row["tokens"], row["tags"], strict=True) for row in rows]
    text = "\n\n".join("\n".join(f"{word}\t{tag}" for word, tag in pair) for pair in pairs)
    (tmp_path / "train.conll").write_text(text + "\n")
    recipe = found.recipe
    config = replace(found.config, dataset=str(tmp_path / "train.conll"), output_dir=tmp_path / "run", dry_run=True)
    recipe.main(config)
    splits = [
        load_splits(path, task="tokens", near_duplicates=False) for path in (found.data, tmp_path / "train.conll")
    ]
    assert splits[0].train.labels == splits[1].train.labels


def test_a_model_of_pairs_says_that_it_wants_pairs(trained, tmp_path, capsys):
    model, single = trained("sentence_pair").run / "model", trained("ordinal").run / "model"
    (tmp_path / "new.csv").write_text("text,text2,label\ngood,bad,3\ndull,great,1\n")
    for words, message in (
        (["predict", model, "--text", "good"], "Expected pairs of texts, which the model in .* was trained on"),
        (["predict", model, "--input", tmp_path / "new.csv"], "the one with the second texts as --pair-column"),
        (["evaluate", single, tmp_path / "new.csv", "--pair-column", "text2"], "Expected single texts, .*found pairs"),
    ):
        with pytest.raises(SystemExit, match="2"):
            cli.main([str(word) for word in words])
        assert re.search(message, capsys.readouterr().err)


def test_what_is_no_better_than_its_baseline_is_told(trained, tiny_bert, caplog):
    found = trained("aspect_sentiment")
    splits = load_splits(found.data, pair_column="aspect", near_duplicates=False)
    model = Classifier.from_pretrained(tiny_bert, task=make_task(splits), pairs=True)
    trainer = Trainer(model, TRAIN)
    trainer.fit(splits.train)
    trainer.evaluate(splits.test)
    assert "no better than" not in caplog.text
    other = {"positive": "negative", "negative": "positive"}
    trainer.evaluate(replace(splits.test, labels=[other[label] for label in splits.test.labels]))
    assert "test: accuracy is no better than the majority baseline: train for more" in caplog.text


@pytest.mark.parametrize("name", ["multilabel", "regression"])
def test_its_configuration_repeats_it_and_a_folder_that_holds_a_run_is_refused(name, trained, tmp_path, capsys):
    found = trained(name)
    words = ["--config", str(found.run / "config.json"), "--output-dir"]
    before = {file: file.read_bytes() for file in found.run.rglob("*") if file.is_file()}
    with pytest.raises(SystemExit, match="2"):
        cli.run(found.recipe.main, found.recipe.Config, [*words, str(found.run)])
    assert f"{found.run} already holds a run. Pass --resume to continue it, --overwrite" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in found.run.rglob("*") if file.is_file()} == before
    cli.run(found.recipe.main, found.recipe.Config, [*words, str(tmp_path / "again")])
    for file in ("model/model.safetensors", "model/nlptl.json", "scores.json", "predictions.csv"):
        assert (tmp_path / "again" / file).read_bytes() == (found.run / file).read_bytes()
    cli.run(found.recipe.main, found.recipe.Config, [*words, str(tmp_path / "dry"), "--dry-run"])
    assert re.search(r"\nestimate: about [\d,]+ MB of memory .* on cpu, about \d+ s\n$", capsys.readouterr().out)
    assert not (tmp_path / "dry").exists()


def test_the_hint_is_a_command_that_looks_at_the_same_columns(trained, tmp_path, caplog, capsys):
    caplog.set_level("INFO")
    rows = [{"body": f"text {i % 20}", "second": "same", "tags here": ["x", "y"][: i % 3]} for i in range(60)]
    path = tmp_path / "my data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    load_splits(path, task="multi_label", text_column="body", pair_column="second", label_column="tags here")
    (line,) = [line for line in caplog.messages if "For details and what to do, run:" in line]
    words = shlex.split(line.partition("run: ")[2])
    assert words[:3] == ["nlptl", "check", str(path)]
    assert "duplicate texts in train" in run_command(words[1:], capsys)
