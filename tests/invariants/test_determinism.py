"""The same run gives the same bytes, and what only watches changes nothing."""

import json
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from nlptl import Classifier, Trainer, TrainingConfig, load_splits
from tests import processes

REPOSITORY = Path(__file__).parents[2]
FILES = ("model/model.safetensors", "scores.json", "predictions.csv", "data_report.json")
EVERYTHING = {"num_epochs": 2, "batch_size": 16, "learning_rate": 1e-3, "warmup_ratio": 0.2, "max_grad_norm": 0.5}


@pytest.fixture
def splits(toy_csv):
    return load_splits(toy_csv, seed=0)


@pytest.fixture
def train(tiny_bert, splits):
    """Train a model, and return it; dropout 0.1 is that of the checkpoint."""

    def run(output=None, *, double=False, dropout=None, pooling="auto", freeze="nothing", hidden=None, **settings):
        model = Classifier.from_pretrained(
            tiny_bert, labels=splits.labels, freeze=freeze, pooling=pooling, hidden=hidden, dropout=dropout
        )
        model = model.double() if double else model
        trainer = Trainer(model, TrainingConfig(**{**EVERYTHING, **settings}), output_dir=output, seed=0)
        trainer.fit(splits["train"], validation=splits["validation"])
        if output is not None:
            trainer.evaluate(splits["test"])
        return model

    return run


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.network.named_parameters()}


def assert_same(one, two):
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


@pytest.mark.parametrize("freeze", ["nothing", "encoder", 1])
def test_two_runs_are_byte_equal(freeze, train, tmp_path):
    for name in ("one", "two"):
        train(tmp_path / name, freeze=freeze)
        torch.rand(7)  # the state of the global generator is no part of a run
    for file in FILES:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_another_seed_gives_another_model(tiny_bert, splits):
    found = []
    for seed in (0, 1):
        model = Classifier.from_pretrained(tiny_bert, labels=splits.labels, seed=0)
        Trainer(model, TrainingConfig(num_epochs=1), seed=seed).fit(splits["train"])
        found.append(weights(model)["classifier.weight"])
    assert not torch.equal(*found)


def test_what_only_watches_changes_nothing(train, tmp_path):
    quiet = weights(train(logging_steps=1000, eval_steps=12))
    for i, settings in enumerate(({"logging_steps": 1}, {"eval_steps": 12, "micro_batch_tokens": 512})):
        assert_same(quiet, weights(train(tmp_path / f"run{i}", **{"eval_steps": 12, **settings})))


def test_evaluation_does_not_disturb_dropout(tiny_bert, splits):
    found = []
    for validation in (None, splits["validation"]):
        model = Classifier.from_pretrained(tiny_bert, labels=splits.labels)
        last = []
        trainer = Trainer(model, TrainingConfig(**EVERYTHING, eval_steps=1 if validation else None))
        handle = register_optimizer_step_post_hook(lambda *_, m=model, s=last: s.append(weights(m)))
        trainer.fit(splits["train"], validation=validation)
        handle.remove()
        found.append(last[-1])
    assert_same(*found)


@pytest.mark.parametrize("pooling", ["native", "mean"])
@pytest.mark.parametrize("cache", [True, False])
def test_frozen_encoder_is_bit_equal_before_and_after(cache, pooling, train, tiny_bert, splits):
    before = Classifier.from_pretrained(tiny_bert, labels=splits.labels, freeze="encoder", pooling=pooling)
    after = train(freeze="encoder", pooling=pooling, cache=cache)
    assert_same(
        *({n: p for n, p in weights(m).items() if n not in m.head_names} for m in (before, after)),
    )
    changed = [n for n in after.head_names if not torch.equal(weights(before)[n], weights(after)[n])]
    assert sorted(changed) == sorted(after.head_names)


def test_lowest_layers_are_bit_equal_before_and_after(train, tiny_bert, splits):
    before = weights(Classifier.from_pretrained(tiny_bert, labels=splits.labels))
    after = weights(train(freeze=1))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith(("bert.embeddings.", "bert.encoder.layer.0."))}


@pytest.mark.parametrize(("double", "tolerance"), [(False, 1e-6), (True, 1e-12)])
@pytest.mark.parametrize(("pooling", "hidden"), [("mean", 8), ("native", None), ("max", None)])
def test_feature_reuse_changes_no_weight(pooling, hidden, double, tolerance, train):
    settings = {"freeze": "encoder", "pooling": pooling, "hidden": hidden, "double": double, "dropout": 0.3}
    reused, computed = (weights(train(cache=reuse, **settings)) for reuse in (True, False))
    for name, weight in computed.items():
        torch.testing.assert_close(reused[name], weight, rtol=0, atol=tolerance)


@pytest.mark.parametrize("freeze", ["nothing", "encoder"])
def test_micro_batches_change_no_weight(freeze, train):
    found = [weights(train(freeze=freeze, micro_batch_tokens=n, dropout=0.0, double=True)) for n in (32, 100, 1000)]
    for other in found[1:]:
        for name, weight in found[0].items():
            torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-9)


@pytest.mark.parametrize("freeze", [pytest.param("encoder", marks=pytest.mark.nightly), "nothing"])
def test_recipe_in_fresh_processes_is_byte_equal(freeze, tiny_bert, toy_csv, tmp_path):
    flags = ["--model", str(tiny_bert), "--dataset", str(toy_csv), "--freeze", freeze, "--num-epochs", "2"]
    one, two, three = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    for arguments in (
        [*flags, "--output-dir", str(one)],
        [*flags, "--output-dir", str(two), "--logging-steps", "1"],
        ["--config", str(one / "config.json"), "--output-dir", str(three)],
    ):
        processes.run([REPOSITORY / "recipes/sentiment.py", *arguments], check=True)
    for file in FILES:
        assert (one / file).read_bytes() == (two / file).read_bytes() == (three / file).read_bytes(), file
    before, after = (json.loads((run / "config.json").read_text()) for run in (one, three))
    assert {**before, "output_dir": ""} == {**after, "output_dir": ""}
