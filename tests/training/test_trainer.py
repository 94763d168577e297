"""What the trainer does with its settings, and what it refuses."""

import json
import logging

import numpy as np
import pytest
import torch

from nlptl import Classifier, ConfigError, DataError, Examples, NonFiniteError, Trainer, TrainingConfig
from nlptl.model import quick


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.network.named_parameters()}


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def fit(build_model, splits):
    """Train a model and return its trainer."""

    def run(output=None, *, validation=True, seed=0, model=None, **settings):
        model = build_model(freeze="encoder") if model is None else model
        config = TrainingConfig(**{"num_epochs": 2, "batch_size": 24, "learning_rate": 0.01, **settings})
        trainer = Trainer(model, config, output_dir=output, seed=seed)
        trainer.fit(splits["train"], validation=splits["validation"] if validation else None)
        return trainer

    return run


@pytest.mark.parametrize("where", ["loss", "gradient", "gradient of one micro-batch"])
def test_numbers_that_are_not_finite_stop_before_the_step(where, build_model, splits, fit, tmp_path):
    model = build_model(dropout=0.0)
    before, calls = weights(model), []

    def poison(module, inputs, logits):
        calls.append(len(logits))
        if where == "loss":
            return logits * float("nan")
        if where == "gradient" or len(calls) == 3:
            logits.register_hook(lambda gradient: gradient * float("inf"))
        return logits

    handle = model.register_forward_hook(poison)
    with pytest.raises(NonFiniteError, match=r"Training diverged: loss ") as error:
        fit(tmp_path / "run", model=model, micro_batch_tokens=100)
    handle.remove()
    message = str(error.value)
    assert error.value.exit_code == 5
    assert "in step 1, on rows [" in message
    assert f"and 19 more of {splits['train'].source}. The step was not taken. Lower --learning-rate" in message
    rows = json.loads("[" + message.partition("on rows [")[2].partition("]")[0] + "]")
    assert set(rows) <= set(splits["train"].rows)
    assert all(torch.equal(before[name], weight) for name, weight in weights(model).items())
    assert not (tmp_path / "run/checkpoints").exists()
    assert not (tmp_path / "run/model").exists()


def test_step_that_breaks_the_weights_is_not_kept(build_model, fit, tmp_path):
    model = build_model(freeze="encoder")
    settings = {"optimizer": "sgd", "learning_rate": 1e42, "max_grad_norm": 0, "warmup_ratio": 0, "eval_steps": 1}
    with pytest.raises(NonFiniteError, match=r"NaN or infinity in the weights head\.output\."):
        fit(tmp_path / "run", model=model, **settings)
    assert not (tmp_path / "run/checkpoints").exists()
    assert not (tmp_path / "run/model").exists()


def test_training_after_numbers_that_were_not_finite(build_model, splits):
    found = []
    for is_poisoned in (False, True):
        model = build_model()
        trainer = Trainer(model, TrainingConfig(num_epochs=1))
        if is_poisoned:
            handle = model.register_forward_hook(lambda module, inputs, logits: logits * float("nan"))
            with pytest.raises(NonFiniteError, match="diverged: loss nan"):
                trainer.fit(splits["train"])
            handle.remove()
        trainer.fit(splits["train"])
        found.append(weights(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_evaluations_and_steps(fit, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    fit(tmp_path / "run", eval_steps=3, logging_steps=2)
    found = records(tmp_path / "run")
    assert [r["step"] for r in found if "epoch" in r] == [3, 6, 8]
    assert [r["epoch"] for r in found if "epoch" in r] == [0.75, 1.5, 2.0]
    logged = [r for r in found if "epoch" not in r]
    assert [r["step"] for r in logged] == [2, 4, 6, 8]
    assert logged[0].keys() == {"step", "loss", "gradient_norm", "learning_rate", "seconds"}
    assert logged[0]["learning_rate"] == pytest.approx(0.01)
    assert logged[3]["learning_rate"] == pytest.approx(0.01 / 7)
    assert caplog.messages[0].startswith("training 2 of 41 tensors: 66 of 22,946 parameters (head); encoder frozen")


def test_mean_loss_of_an_evaluation_is_that_of_its_steps(fit, tmp_path):
    fit(tmp_path / "run", eval_steps=3, logging_steps=1)
    found = records(tmp_path / "run")
    losses = {r["step"]: r["loss"] for r in found if "epoch" not in r}
    means = {r["step"]: r["loss"] for r in found if "epoch" in r}
    for last, steps in ((3, (1, 2, 3)), (6, (4, 5, 6)), (8, (7, 8))):
        assert means[last] == pytest.approx(np.mean([losses[step] for step in steps]))


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "macro_f1"])
def test_best_model_on_validation_is_kept(metric, fit, splits, tmp_path):
    trainer = fit(tmp_path / "run", num_epochs=12, learning_rate=0.2, selection_metric=metric)
    values = [r[f"validation_{metric}"] for r in records(tmp_path / "run")]
    assert len(set(values)) > 2
    best = min(values) if metric == "log_loss" else max(values)
    assert values.index(best) not in (0, 11)
    first = 4 * (values.index(best) + 1)
    state = json.loads((tmp_path / "run/checkpoints/step-000048/state.json").read_text())
    assert (state["best_step"], state["best_value"]) == (first, best)
    trainer.model.task = trainer.model.task.uncalibrated()  # as in training
    assert trainer.evaluate(splits["validation"])[metric].value == pytest.approx(best)
    kept = Classifier.from_pretrained(tmp_path / "run/model")
    assert all(torch.equal(weight, weights(trainer.model)[name]) for name, weight in weights(kept).items())


def test_best_and_last_two_checkpoints_are_kept(fit, tmp_path):
    fit(tmp_path / "run", num_epochs=30, learning_rate=1e-12, selection_metric="accuracy", eval_steps=2)
    names = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert names == ["step-000002", "step-000118", "step-000120"]


def test_early_stopping(fit, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    fit(tmp_path / "run", num_epochs=9, learning_rate=1e-12, early_stopping=3)
    assert [r["step"] for r in records(tmp_path / "run")] == [4, 8, 12, 16]
    assert "(best so far)" in caplog.text
    assert "; stopping early: no better score in 3 evaluations" in caplog.text
    assert "kept the model of step 4 (epoch 1): best validation accuracy" in caplog.text


def test_without_validation_the_last_weights_are_kept(fit, splits, tmp_path):
    trainer = fit(tmp_path / "run", validation=False)
    assert records(tmp_path / "run") == []
    assert not (tmp_path / "run/scores.json").exists()
    kept = Classifier.from_pretrained(tmp_path / "run/model")
    assert all(torch.equal(weight, weights(trainer.model)[name]) for name, weight in weights(kept).items())
    trainer.evaluate(splits["test"])
    assert json.loads((tmp_path / "run/scores.json").read_text()).keys() == {"test", "majority_baseline"}


def test_without_a_folder_nothing_is_written(fit, splits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit().evaluate(splits["test"])
    assert list(tmp_path.iterdir()) == []


def test_evaluation_without_training_has_no_baseline(build_model, splits, caplog):
    caplog.set_level(logging.INFO)
    scores = Trainer(build_model(), TrainingConfig()).evaluate(splits["test"])
    assert scores["accuracy"].n == 12
    assert "majority baseline" not in caplog.text


def test_classes_are_shown_where_there_are_a_few(tiny_bert, caplog):
    caplog.set_level(logging.INFO)
    examples = Examples.from_lists(["good film", "bad film", "plot"] * 4, ["a", "b", "c"] * 4, split="test")
    model = Classifier.from_pretrained(tiny_bert, labels=("a", "b", "c"))
    scores = Trainer(model, TrainingConfig()).evaluate(examples)
    assert scores.per_class.keys() == {"a", "b", "c"}
    assert "class  precision  recall" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"micro_batch_tokens": 9}, r"is 9, but the longest example has 24 tokens \(train, row \d+\)\. Raise"),
        ({"head_learning_rate": 0.1}, "learning_rate=0.01 and head_learning_rate=0.1 contradict each other"),
        ({"mixed_precision": "bf16"}, "Expected a device with bf16, found the device "),
    ],
)
def test_settings_that_cannot_be_obeyed_are_refused(settings, message, fit, tmp_path):
    if "mixed_precision" in settings and torch.cuda.is_available():
        pytest.skip("this machine has the precision")
    with pytest.raises(ConfigError, match=message):
        fit(tmp_path / "run", **settings)
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_micro_batch_of_the_longest_example_is_enough(fit, tmp_path):
    fit(tmp_path / "run", micro_batch_tokens=24)
    assert json.loads((tmp_path / "run/manifest.json").read_text())["micro_batch_tokens"] == 24


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (Examples(["a film"], ["neutral"], [3]), "Expected labels 'negative', 'positive', found 'neutral' as well"),
        (Examples([], [], []), r"memory \(train\) has 0 texts and 0 labels"),
        (Examples(["a film"], [], [3]), "has 1 texts and 0 labels. Pass a split with"),
    ],
)
def test_examples_that_cannot_be_used_are_refused(examples, message, build_model, splits):
    trainer = Trainer(build_model(), TrainingConfig())
    with pytest.raises(DataError, match=message):
        trainer.evaluate(examples)
    with pytest.raises(DataError, match=message):
        trainer.fit(examples)
    with pytest.raises(DataError, match=message):
        trainer.fit(splits["train"], validation=examples)


def test_folder_with_another_run_is_refused(fit, tmp_path):
    fit(tmp_path / "run")
    with pytest.raises(ConfigError, match="already holds a run"):
        fit(tmp_path / "run")


def test_a_model_that_knows_one_answer_is_named(build_model, splits, caplog):
    trainer = Trainer(build_model(), TrainingConfig(num_epochs=1, learning_rate=1e-9))
    trainer.model.network.classifier.bias.data[0] += 100
    trainer.evaluate(splits["test"])
    assert "test: every prediction is 'negative': the model has not learned to tell the classes apart" in caplog.text


@pytest.mark.parametrize(("long_text", "is_seen"), [("head", False), ("tail", True), ("head-tail", True)])
def test_a_clue_in_the_last_word(long_text, is_seen, build_model):
    texts = [f"{'film story plot was very ' * 6}{'good' if i % 2 else 'bad'}" for i in range(64)]
    examples = Examples.from_lists(texts, ["positive" if i % 2 else "negative" for i in range(64)])
    model = build_model(max_length=12, long_text=long_text)
    trainer = Trainer(model, TrainingConfig(num_epochs=4, batch_size=8, learning_rate=3e-3))
    trainer.fit(examples)
    assert trainer.evaluate(examples)["accuracy"].value == (1.0 if is_seen else 0.5)


@pytest.mark.parametrize("wanted", [True, False])
def test_quick_layers_are_those_of_training_evaluation_and_prediction(wanted, build_model, splits, monkeypatch):
    monkeypatch.setattr(quick, "prefers_onednn", lambda: True)
    model, found = build_model(), set()

    def look(module, args):
        kinds = (torch.nn.Linear, torch.nn.Dropout) if model.training else torch.nn.Linear
        found.update((model.training, "forward" in m.__dict__) for m in model.modules() if isinstance(m, kinds))

    model.network.register_forward_pre_hook(look)
    trainer = Trainer(model, TrainingConfig(num_epochs=1, quick_layers=wanted))
    trainer.evaluate(splits["test"])
    assert found == {(False, wanted)}
    trainer.fit(splits["train"], validation=splits["validation"])
    trainer.evaluate(splits["test"])
    model.predict(["a good movie"])
    assert found == {(True, wanted), (False, wanted)}
