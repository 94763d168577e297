"""Every regime of training: it is saved, loaded again, and ends in the same bytes however often it was stopped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from nlptl import Classifier, ConfigError, Run, Splits, Trainer, TrainingConfig, load_splits
from tests.conftest import options

TEXTS = ["a good film .", "bad", "the story was dull and the acting was never good", "great great great"]
SETTINGS = {"num_epochs": 3, "batch_size": 8, "learning_rate": 0.01, "eval_steps": 2, "logging_steps": 1}
"""32 examples: four steps an epoch, and a checkpoint after every other step, so at the end of each epoch too."""

HEAD_ALONE = {"freeze": "encoder"}
REGIMES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "everything": ({}, {}),
    "warm head of frozen layers": ({"freeze": 1}, {"warm_head_epochs": 1, "early_stopping": 3}),
    "gradual unfreezing": ({}, {"unfreeze_every_epochs": 1, "head_learning_rate": 0.1}),
    "one layer frozen, kept in half": ({"freeze": 1}, {"cache_dtype": "float16"}),
    "norms": ({"train_only": "norms", "freeze": 1}, {"cache": False}),
    "lora": ({"lora_rank": 2, "lora_dropout": 0.1}, {"unfreeze_every_epochs": 1}),
    "dora": ({"lora_rank": 2, "dora": True, "freeze": 1}, {"optimizer": "sgd", "schedule": "cosine"}),
    "new layers, rates by depth": (
        {"reinit_layers": 1},
        {
            "unfreeze_every_epochs": 1,
            "layer_decay": 0.9,
            "num_epochs": 4,
        },
    ),
    "frozen": (HEAD_ALONE, {}),
    "attention": ({**HEAD_ALONE, "pooling": "attention"}, {}),
    "mix": ({**HEAD_ALONE, "layers": "mix", "hidden": (8, 4)}, {}),
    "mix above frozen layers": ({"freeze": 1, "pooling": "mean", "layers": 2}, {}),
}
"""Settings of the model and of the training; dropout is 0.1. Four epochs of gradual unfreezing end with the
embeddings."""

FITTED = {kind: {**HEAD_ALONE, "head": kind} for kind in ("logistic", "centroid")}


class Stopped(BaseException):
    """No error that anything catches."""


@pytest.fixture(scope="module")
def splits(toy_csv: Path) -> Splits:
    """Return 32 examples to train on, 12 for validation, 12 for test."""
    return load_splits(toy_csv, seed=0, max_examples=32)


@pytest.fixture
def train(tiny_bert: Path, splits: Splits) -> Callable[..., Classifier]:
    """Return a function that trains in the folder `output`, scores the test split and gives the model."""

    def run(output: Path, transfer: dict[str, Any], settings: dict[str, Any], *, resume: bool = False) -> Classifier:
        config = TrainingConfig(**settings)
        folder = Run.open(output, config, resume=resume)
        folder.record_splits(splits)
        model = Classifier.from_pretrained(tiny_bert, labels=splits.labels, **options(**transfer))
        trainer = Trainer(model, config, output_dir=folder, seed=0)
        trainer.fit(splits["train"], validation=splits["validation"])
        trainer.evaluate(splits["test"])
        return model

    return run


@contextmanager
def stopping_after(num_steps: int) -> Iterator[None]:
    """Stop the training within it after some optimizer steps."""
    steps: list[object] = []

    def stop(*_: object) -> None:
        steps.append(1)
        if len(steps) == num_steps:
            raise Stopped

    handle = register_optimizer_step_post_hook(stop)
    try:
        with pytest.raises(Stopped):
            yield
    finally:
        handle.remove()


def assert_reloads(model: Classifier, folder: Path) -> None:
    expected = model.predict_probabilities(TEXTS)
    loaded = Classifier.from_pretrained(folder)
    torch.testing.assert_close(loaded.predict_probabilities(TEXTS), expected, rtol=0, atol=1e-6)
    assert (loaded.labels, loaded.head) == (model.labels, model.head)
    assert expected.std(dim=0).min() > 0


def checkpoints(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


@pytest.mark.parametrize("regime", REGIMES)
def test_a_stopped_run_ends_in_the_same_bytes(
    regime: str, train: Callable[..., Classifier], outcome: Callable[[Path], dict[str, object]], tmp_path: Path
):
    """It is stopped in the last step of the first epoch, in the first of the second one, and in its middle."""
    transfer, settings = REGIMES[regime][0], {**SETTINGS, **REGIMES[regime][1]}
    model = train(tmp_path / "whole", transfer, settings)
    expected = outcome(tmp_path / "whole")
    assert_reloads(model, tmp_path / "whole/model")

    output, done = tmp_path / "run", 0
    for stop, saved in ((4, 2), (5, 4), (7, 6)):
        with stopping_after(stop - done):
            train(output, transfer, settings, resume=done > 0)
        assert f"step-{saved:06}" in checkpoints(output)
        assert not (output / "model").exists()
        done = saved
    resumed = train(output, transfer, settings, resume=True)
    assert outcome(output) == expected
    assert torch.equal(resumed.predict_probabilities(TEXTS), model.predict_probabilities(TEXTS))


@pytest.mark.nightly
@pytest.mark.parametrize("regime", ["gradual unfreezing", "new layers, rates by depth", "attention"])
def test_a_run_that_is_stopped_after_every_step_ends_in_the_same_bytes(
    regime: str, train: Callable[..., Classifier], outcome: Callable[[Path], dict[str, object]], tmp_path: Path
):
    """With checkpoints that fall on no end of an epoch, and without the files that hold what is computed once."""
    transfer, settings = REGIMES[regime][0], {**SETTINGS, **REGIMES[regime][1], "eval_steps": 3}
    train(tmp_path / "whole", transfer, settings)
    expected = outcome(tmp_path / "whole")
    num_steps = 4 * settings["num_epochs"]
    for step in range(1, num_steps + 1):
        output = tmp_path / str(step)
        with stopping_after(step):
            train(output, transfer, settings)
        train(output, transfer, settings, resume=True)
        assert outcome(output) == expected, step


@pytest.mark.parametrize("regime", ["gradual unfreezing", "frozen"])
def test_without_validation_too(regime: str, tiny_bert: Path, splits: Splits, tmp_path: Path):
    transfer, settings = REGIMES[regime][0], {**SETTINGS, **REGIMES[regime][1]}

    def fit(output: Path, *, resume: bool = False) -> Classifier:
        config = TrainingConfig(**settings)
        model = Classifier.from_pretrained(tiny_bert, labels=splits.labels, **options(**transfer))
        Trainer(model, config, output_dir=Run.open(output, config, resume=resume)).fit(splits["train"])
        return model

    whole = fit(tmp_path / "whole")
    assert_reloads(whole, tmp_path / "whole/model")
    with stopping_after(7):
        fit(tmp_path / "run")
    fit(tmp_path / "run", resume=True)
    done, again = (fit(tmp_path / "run", resume=True) for _ in range(2))
    for name, weight in whole.network.named_parameters():
        assert torch.equal(done.network.get_parameter(name), weight)
        assert torch.equal(again.network.get_parameter(name), weight)
    files = [(tmp_path / run / "model/model.safetensors").read_bytes() for run in ("whole", "run")]
    assert files[0] == files[1]


@pytest.mark.parametrize("kind", FITTED)
def test_a_fitted_head_is_saved_loaded_and_fitted_again(kind: str, train: Callable[..., Classifier], tmp_path: Path):
    model = train(tmp_path / "run", FITTED[kind], {})
    assert_reloads(model, tmp_path / "run/model")
    files = [tmp_path / "run" / name for name in ("model/model.safetensors", "scores.json", "predictions.csv")]
    before = [file.read_bytes() for file in files]
    again = train(tmp_path / "run", FITTED[kind], {}, resume=True)
    assert [file.read_bytes() for file in files] == before
    np.testing.assert_array_equal(again.predict_probabilities(TEXTS), model.predict_probabilities(TEXTS))


@pytest.mark.parametrize(
    "change",
    [{"freeze": 1}, {"train_only": "biases"}, {"reinit_layers": 1}, {"lora_rank": 2}],
    ids=str,
)
def test_a_run_does_not_go_on_under_another_regime(
    change: dict[str, Any], train: Callable[..., Classifier], tmp_path: Path
):
    with stopping_after(3):
        train(tmp_path / "run", {}, SETTINGS)
    (name,) = change
    with pytest.raises(ConfigError, match=f"other settings: .*{name} was .* and is {change[name]!r}"):
        train(tmp_path / "run", change, SETTINGS, resume=True)


def test_low_rank_updates_do_not_go_on_with_another_scale(train: Callable[..., Classifier], tmp_path: Path):
    with stopping_after(3):
        train(tmp_path / "run", {"lora_rank": 2}, SETTINGS)
    with pytest.raises(ConfigError, match=r"lora_alpha was 16\.0 and is 8\.0"):
        train(tmp_path / "run", {"lora_rank": 2, "lora_alpha": 8.0}, SETTINGS, resume=True)
