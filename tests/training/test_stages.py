"""Schedules of freezing: which layers train in which epochs, and schedules that cannot be obeyed."""

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from nlptl import Classifier, ConfigError, Examples, Trainer, TrainingConfig
from nlptl.training.stages import Stage, plan_stages
from tests.conftest import toy_rows


@pytest.mark.parametrize(
    ("settings", "num_unfrozen", "expected"),
    [
        ({"num_epochs": 5}, 4, [Stage(0, 5, None)]),
        ({"num_epochs": 5}, 0, [Stage(0, 5, None)]),
        ({"num_epochs": 5, "warm_head_epochs": 1}, 4, [Stage(0, 1, 0), Stage(1, 4, None)]),
        ({"num_epochs": 2, "warm_head_epochs": 1}, 1, [Stage(0, 1, 0), Stage(1, 1, None)]),
        (
            {"num_epochs": 9, "unfreeze_every_epochs": 2},
            3,
            [Stage(0, 2, 0), Stage(2, 2, 1), Stage(4, 2, 2), Stage(6, 3, 3)],
        ),
        ({"num_epochs": 3, "unfreeze_every_epochs": 1}, 9, [Stage(0, 1, 0), Stage(1, 1, 1), Stage(2, 1, 2)]),
        ({"num_epochs": 3, "unfreeze_every_epochs": 2}, 9, [Stage(0, 2, 0), Stage(2, 1, 1)]),
        ({"num_epochs": 9, "unfreeze_every_epochs": 1}, 1, [Stage(0, 1, 0), Stage(1, 8, 1)]),
    ],
    ids=str,
)
def test_stages(settings: dict, num_unfrozen: int, expected: list[Stage]):
    assert plan_stages(TrainingConfig(**settings), num_unfrozen=num_unfrozen) == expected


def test_every_epoch_is_in_one_stage():
    for epochs, every, num_unfrozen in itertools.product(range(2, 9), range(1, 9), range(1, 6)):
        if every < epochs:
            config = TrainingConfig(num_epochs=epochs, unfreeze_every_epochs=every)
            stages = plan_stages(config, num_unfrozen=num_unfrozen)
            covered = [epoch for s in stages for epoch in range(s.first_epoch, s.first_epoch + s.num_epochs)]
            assert covered == list(range(epochs))
            assert [stage.top for stage in stages] == list(range(len(stages)))
            assert len(stages) == min(-(-epochs // every), num_unfrozen + 1)
            assert all(stage.num_epochs == every for stage in stages[:-1])


@pytest.mark.parametrize(
    ("settings", "num_unfrozen", "message"),
    [
        (
            {"warm_head_epochs": 1, "unfreeze_every_epochs": 2},
            4,
            "warm_head_epochs=1 and unfreeze_every_epochs=2 are two schedules that both start .* Leave one",
        ),
        (
            {"warm_head_epochs": 1},
            0,
            "--warm-head-epochs 1 trains layers after the head, but the encoder is frozen. Pass --freeze",
        ),
        (
            {"unfreeze_every_epochs": 2},
            0,
            "--unfreeze-every-epochs 2 trains layers after the head, but the encoder is frozen",
        ),
        (
            {"num_epochs": 3, "warm_head_epochs": 3},
            4,
            "alone trains for 3 epochs, and there are 3. Raise --num-epochs to 4 or more, or lower --warm-head",
        ),
        (
            {"num_epochs": 2, "unfreeze_every_epochs": 5},
            4,
            "alone trains for 5 epochs, and there are 2. Raise --num-epochs to 6 or more, or lower --unfreeze",
        ),
        (
            {"num_epochs": 1, "warm_head_epochs": 1},
            4,
            "alone trains for 1 epochs, and there are 1. Raise --num-epochs to 2 or mo",
        ),
    ],
    ids=str,
)
def test_schedules_that_cannot_be_obeyed_are_refused(settings: dict, num_unfrozen: int, message: str):
    with pytest.raises(ConfigError, match=message):
        plan_stages(TrainingConfig(**settings), num_unfrozen=num_unfrozen)


@pytest.mark.parametrize("transfer", [{"freeze": "encoder"}, {"train_only": "head"}], ids=str)
@pytest.mark.parametrize("schedule", [{"warm_head_epochs": 1}, {"unfreeze_every_epochs": 1}], ids=str)
def test_a_frozen_encoder_has_no_schedule(transfer: dict, schedule: dict, build_model: Callable[..., Classifier]):
    with pytest.raises(ConfigError, match="trains layers after the head, but the encoder is frozen"):
        Trainer(build_model(**transfer), TrainingConfig(num_epochs=4, **schedule)).fit(examples())


def examples(count: int = 24, split: str = "train") -> Examples:
    return Examples.from_lists(*map(list, zip(*toy_rows(count), strict=True)), split=split)


@pytest.fixture
def trained_by_step(build_model: Callable[..., Classifier]) -> Callable[..., list[set[str]]]:
    """Return a function that trains, and gives for each optimizer step the groups of layers that it changes."""

    def run(transfer: dict, **settings: object) -> list[set[str]]:
        model, found = build_model(**transfer), []
        groups = model.groups

        def look(*_: object) -> None:
            with_gradient = (n for n, p in model.network.named_parameters() if p.requires_grad and p.grad is not None)
            found.append({groups[name] for name in with_gradient})

        handle = register_optimizer_step_pre_hook(look)
        try:
            Trainer(model, TrainingConfig(batch_size=12, **settings)).fit(examples())
        finally:
            handle.remove()
        assert model.transfer.freeze == transfer.get("freeze", "nothing")
        expected = build_model(**transfer)
        for one, two in zip(model.network.parameters(), expected.network.parameters(), strict=True):
            assert one.requires_grad == two.requires_grad
        return found

    return run


HEAD = {"head"}
TOP = {"head", "pooler", "layer 2"}
BOTH = TOP | {"layer 1"}
ALL = BOTH | {"embeddings"}


@pytest.mark.parametrize(
    ("transfer", "settings", "by_epoch"),
    [
        ({}, {"warm_head_epochs": 1, "num_epochs": 3}, [HEAD, ALL, ALL]),
        ({"freeze": 1}, {"warm_head_epochs": 2, "num_epochs": 3}, [HEAD, HEAD, TOP]),
        ({}, {"unfreeze_every_epochs": 1, "num_epochs": 5}, [HEAD, TOP, BOTH, ALL, ALL]),
        ({"freeze": "embeddings"}, {"unfreeze_every_epochs": 1, "num_epochs": 4}, [HEAD, TOP, BOTH, BOTH]),
        ({"freeze": 1}, {"unfreeze_every_epochs": 1, "num_epochs": 3}, [HEAD, TOP, TOP]),
        (
            {"lora_rank": 2},
            {"unfreeze_every_epochs": 1, "num_epochs": 3},
            [HEAD, {"head", "layer 2"}, BOTH - {"pooler"}],
        ),
        ({"train_only": "biases"}, {"unfreeze_every_epochs": 1, "num_epochs": 4}, [HEAD, TOP, BOTH, ALL]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",  # sets have no order
)
def test_what_trains_in_each_epoch(
    transfer: dict, settings: dict, by_epoch: list[set[str]], trained_by_step: Callable[..., list[set[str]]]
):
    assert trained_by_step(transfer, **settings) == [groups for groups in by_epoch for _ in range(2)]


def test_every_stage_says_what_trains(build_model: Callable[..., Classifier], caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    Trainer(build_model(), TrainingConfig(num_epochs=6, unfreeze_every_epochs=1)).fit(examples())
    said = [message for message in caplog.messages if ": training " in message]
    assert [message.split(":")[0] for message in said] == ["epoch 1", "epoch 2", "epoch 3", "epochs 4 to 6"]
    words = (
        "(head); encoder frozen; learning rate of the head 0.005",
        "(layer 2, pooler and head); embeddings, layer 1 frozen; learning rate of the head 5e-05",
        "; learning rate of the head 5e-05",
        "nothing frozen; learning rate of the head 5e-05",
    )
    assert all(message.endswith(word) for message, word in zip(said, words, strict=True))
    caplog.clear()
    Trainer(build_model(), TrainingConfig(num_epochs=1)).fit(examples())
    assert not any(": training " in message for message in caplog.messages)


def test_every_stage_warms_up_and_goes_down_to_its_end(build_model: Callable[..., Classifier], tmp_path: Path):
    config = TrainingConfig(
        num_epochs=4,
        warm_head_epochs=2,
        batch_size=6,
        learning_rate=0.01,
        head_learning_rate=0.1,
        layer_decay=0.5,
        warmup_ratio=0.25,
        logging_steps=1,
    )
    rates: list[dict[float, float]] = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append({group["peak_lr"]: group["lr"] for group in optimizer.param_groups})
    )
    Trainer(build_model(), config, output_dir=tmp_path / "run").fit(examples())
    handle.remove()
    shares = [0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert [list(rate) for rate in rates] == [[0.1]] * 8 + [[0.0025, 0.005, 0.01, 0.1]] * 8
    for rate, share in zip(rates, shares * 2, strict=True):
        assert list(rate.values()) == pytest.approx([peak * share for peak in rate])
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 17))
    assert [record["learning_rate"] for record in records] == pytest.approx([0.1 * share for share in shares * 2])


def test_patience_begins_with_the_last_stage(build_model: Callable[..., Classifier], caplog: pytest.LogCaptureFixture):
    """The head may have learned all it can long before: it is not stopped, nor is what comes after it for that."""
    caplog.set_level(logging.INFO)
    config = TrainingConfig(
        num_epochs=9, warm_head_epochs=5, early_stopping=2, learning_rate=1e-9, head_learning_rate=1e-9
    )
    Trainer(build_model(), config).fit(examples(), validation=examples(12, "validation"))
    said = [message for message in caplog.messages if message.startswith("epoch ")]
    assert "(best so far)" in said[0]
    assert len(said) == 7
    assert said[-1].endswith("; stopping early: no better score in 2 evaluations")
