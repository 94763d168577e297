"""Every kind of task: a training that was stopped and goes on ends in the bytes of one that was not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

from nlptl import Classifier, Examples, Run, TokenLabels, Trainer, TrainingConfig, load_splits, make_task
from tests.conftest import options
from tests.recipes.test_tasks import toy_data

SETTINGS = {"num_epochs": 2, "batch_size": 8, "learning_rate": 0.01, "eval_steps": 2, "micro_batch_tokens": 100}
"""40 examples: four steps an epoch, and a checkpoint after every other step."""

KINDS = {
    "multilabel": ("multi_label", {}),
    "sentence_pair": ("single_label", {"pair_column": "text2"}),
    "regression": ("regression", {}),
    "ordinal": ("ordinal", {}),
    "token_classification": ("tokens", {}),
}
REGIMES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "labels": ("multilabel", {}, {"loss": "asymmetric"}),
    "labels, in chunks": ("multilabel", {"long_text": "chunks", "max_length": 8, "chunk_pooling": "attention"}, {}),
    "pairs, one layer frozen": ("sentence_pair", {"freeze": 1}, {"sampling": "balanced"}),
    "pairs, frozen": ("sentence_pair", {"freeze": "encoder"}, {"logit_adjustment": 1.0}),
    "scores": ("regression", {}, {"optimizer": "adam"}),
    "scores, frozen": ("regression", {"freeze": "encoder", "hidden": 8}, {}),
    "order": ("ordinal", {}, {"warm_head_epochs": 1}),
    "tags, frozen": ("token_classification", {"freeze": "encoder"}, {"class_weights": "balanced"}),
    "tags, low-rank": ("token_classification", {"lora_rank": 2, "freeze": 1}, {"unfreeze_every_epochs": 1}),
}
"""A kind of data, settings of the model and of the training; dropout is 0.1."""


class Stopped(BaseException):
    """No error that anything catches."""


@pytest.fixture
def train(tiny_bert: Path, tmp_path: Path) -> Callable[..., Classifier]:
    """Return a function that trains in the folder `output`, scores the test split and gives the model."""

    def run(output: Path, regime: str, *, resume: bool = False) -> Classifier:
        kind, model_settings, settings = REGIMES[regime]
        task, columns = KINDS[kind]
        data = tmp_path / "data.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in toy_data(kind, 50)))
        config = TrainingConfig(**SETTINGS | settings)
        folder = Run.open(output, config, resume=resume)
        splits = load_splits(data, task=task, near_duplicates=False, **columns)
        folder.record_splits(splits)
        model = Classifier.from_pretrained(
            tiny_bert, task=make_task(splits), pairs="pair_column" in columns, **options(**model_settings)
        )
        trainer = Trainer(model, config, output_dir=folder, seed=0)
        trainer.fit(splits["train"], validation=splits["validation"])
        trainer.evaluate(splits["test"])
        return model

    return run


@pytest.mark.parametrize("regime", REGIMES)
def test_it_goes_on_to_the_same_bytes(regime, train, outcome, tmp_path):
    train(tmp_path / "whole", regime)
    steps = []

    def stop(*_):
        steps.append(1)
        if len(steps) in (3, 6):
            raise Stopped

    for _ in range(2):
        handle = register_optimizer_step_post_hook(stop)
        with pytest.raises(Stopped):
            train(tmp_path / "run", regime, resume=True)
        handle.remove()
    model = train(tmp_path / "run", regime, resume=True)
    whole, found = outcome(tmp_path / "whole"), outcome(tmp_path / "run")
    assert found.keys() == whole.keys()
    for name in ("model/model.safetensors", "scores.json", "predictions.csv", "records"):
        assert found[name] == whole[name], name
    again = Classifier.from_pretrained(tmp_path / "run" / "model")
    assert again.task == model.task


def test_a_batch_without_a_word_that_is_read_has_no_loss(tiny_bert, tmp_path):
    texts, labels = ["", "good film", "bad film", ""], ["O", "O B-x", "O B-x", "O"]
    examples = Examples(texts, labels, [1, 2, 3, 4])
    model = Classifier.from_pretrained(tiny_bert, task=TokenLabels(("O", "B-x", "I-x")))
    Trainer(model, TrainingConfig(num_epochs=1, batch_size=1, logging_steps=1), output_dir=tmp_path / "run").fit(
        examples
    )
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = sorted(record["loss"] for record in records if "gradient_norm" in record)
    assert losses[:2] == [0, 0]
    assert losses[2] > 0
