"""The table of what will train, and settings that contradict each other."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from nlptl import Classifier, ConfigError, Examples, Trainer, TrainingConfig
from nlptl.model.encoder import FAMILIES
from nlptl.training.plan import plan_training, training_table
from nlptl.training.stages import Stage
from tests.conftest import options

# Of a BERT with 80 words, 64 positions, 2 layers of width 32, 64 units between: word, position and type embeddings
# and a norm; four projections, two dense layers and two norms; one dense layer; one for two labels.
EMBEDDINGS = f"{(80 + 64 + 2 + 2) * 32:,}"
LAYER = f"{4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 2 * 2 * 32:,}"
POOLER = f"{32 * 32 + 32:,}"
NORMS = f"{2 * 2 * 32:,}"


def cells(table: str) -> dict[str, list[str]]:
    """Return the cells of each row by its group."""
    head, line, *rows = table.splitlines()
    assert head.split("  ")[0] == "group"
    assert line == "-" * len(head)
    assert {len(row) for row in rows} == {len(head)}
    return {words[0].strip(): words[1:] for words in ([w for w in row.split("  ") if w.strip()] for row in rows)}


def table_of(model: Classifier, **settings: object) -> dict[str, list[str]]:
    found = cells(training_table(model, plan_training(model, TrainingConfig(**settings))))
    return {group: [word.strip() for word in words] for group, words in found.items()}


@pytest.mark.parametrize(
    ("transfer", "settings", "expected"),
    [
        (
            {"freeze": 1},
            {"layer_decay": 0.8, "head_learning_rate": 1e-3},
            {
                "embeddings": [EMBEDDINGS, "0", "-", "-"],
                "layer 1": [LAYER, "0", "-", "-"],
                "layer 2": [LAYER, LAYER, "5e-05", "0.01"],
                "pooler": [POOLER, POOLER, "5e-05", "0.01"],
                "head": ["66", "66", "0.001", "0.01"],
            },
        ),
        (
            {},
            {"num_epochs": 2, "unfreeze_every_epochs": 1},
            {
                "embeddings": [EMBEDDINGS, "0", "-", "-"],
                "layer 1": [LAYER, "0", "-", "-"],
                "layer 2": [LAYER, LAYER, "5e-05", "0.01"],
                "pooler": [POOLER, POOLER, "5e-05", "0.01"],
                "head": ["66", "66", "5e-05", "0.01"],
            },
        ),
        (
            {},
            {"layer_decay": 0.5, "learning_rate": 0.1, "weight_decay": 0.2, "head_weight_decay": 0.3},
            {
                "embeddings": [EMBEDDINGS, EMBEDDINGS, "0.025", "0.2"],
                "layer 1": [LAYER, LAYER, "0.05", "0.2"],
                "layer 2": [LAYER, LAYER, "0.1", "0.2"],
                "pooler": [POOLER, POOLER, "0.1", "0.2"],
                "head": ["66", "66", "0.1", "0.3"],
            },
        ),
        (
            {"train_only": "norms"},
            {},
            {
                "embeddings": [EMBEDDINGS, "64", "0.0005", "0"],
                "layer 1": [LAYER, NORMS, "0.0005", "0"],
                "layer 2": [LAYER, NORMS, "0.0005", "0"],
                "pooler": [POOLER, "0", "-", "-"],
                "head": ["66", "66", "0.0005", "0.01"],
            },
        ),
        (
            {"freeze": "encoder"},
            {"head_learning_rate": 0.2, "head_weight_decay": 0.5},
            {
                "embeddings": [EMBEDDINGS, "0", "-", "-"],
                "layer 1": [LAYER, "0", "-", "-"],
                "layer 2": [LAYER, "0", "-", "-"],
                "pooler": [POOLER, "0", "-", "-"],
                "head": ["66", "66", "0.2", "0.5"],
            },
        ),
        ({"freeze": "encoder"}, {"optimizer": "sgd"}, {"head": ["66", "66", "0.005", "0"]}),
        (
            {"freeze": "encoder", "hidden": 8},
            {},
            {"head": [f"{32 * 8 + 8 + 18}", f"{32 * 8 + 8 + 18}", "0.001", "0.01"]},
        ),
    ],
    ids=str,
)
def test_table(transfer: dict, settings: dict, expected: dict, build_model: Callable[..., Classifier]):
    found = table_of(build_model(**transfer), **settings)
    assert list(found) == ["embeddings", "layer 1", "layer 2", "pooler", "head"]
    assert found == found | expected


def test_table_of_low_rank_updates(build_model: Callable[..., Classifier]):
    found = table_of(build_model(freeze=1, lora_rank=2))
    updates = 2 * (4 * (32 + 32) + 2 * (32 + 64))
    total = f"{int(LAYER.replace(',', '')) + updates:,}"
    assert found["layer 2"] == [total, str(updates), "0.0005", "0.01"]
    assert found["layer 1"] == [LAYER, "0", "-", "-"]


def test_a_fitted_head_has_no_rates(build_model: Callable[..., Classifier]):
    model = build_model(freeze="encoder", head="logistic")
    plan = plan_training(model, TrainingConfig(cache=False, calibration="none"))
    assert plan.stages == []
    assert all(row[1:] == ["0", "-", "-"] for row in table_of(model).values())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_in_one_row(family: str, family_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(
        family_folder(family), labels=("0", "1"), freeze="embeddings" if family == "albert" else 1
    )
    rows = table_of(model, layer_decay=0.8, head_learning_rate=1e-3)
    assert list(rows) == [name for name in model.parts.group_names if name in model.groups.values()]
    counts = [int(row[0].replace(",", "")) for row in rows.values()]
    assert sum(counts) == sum(parameter.numel() for parameter in model.network.parameters())
    frozen = [group for group, row in rows.items() if row[1] == "0"]
    assert frozen == (["embeddings"] if family == "albert" else ["embeddings", "layer 1"])
    assert rows["head"][2] == "0.001"
    assert {row[2] for group, row in rows.items() if group not in {*frozen, "head"}} == {"5e-05"}


def test_a_dry_run_shows_the_stages(build_model: Callable[..., Classifier], caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    examples = Examples.from_lists(["good", "bad"], ["positive", "negative"])
    Trainer(build_model(), TrainingConfig(num_epochs=6, unfreeze_every_epochs=1)).estimate(examples)
    table, *stages, estimate = caplog.messages[-6:]
    assert table.strip().splitlines()[-1].split()[:3] == ["head", "66", "66"]
    assert [line.split(":")[0] for line in stages] == ["epoch 1", "epoch 2", "epoch 3", "epochs 4 to 6"]
    assert stages[0].endswith("(head); encoder frozen; learning rate of the head 0.005")
    assert stages[-1].endswith("nothing frozen; learning rate of the head 5e-05")
    assert estimate.startswith("estimate: ")


FROZEN, HEAD_ONLY = {"freeze": "encoder"}, {"train_only": "head"}
LOGISTIC = {"freeze": "encoder", "head": "logistic"}


@pytest.mark.parametrize(
    ("transfer", "settings", "message"),
    [
        (
            FROZEN,
            {"layer_decay": 0.9},
            "layer_decay=0.9 has no effect, since the encoder is frozen. .* leave --layer",
        ),
        ({}, {"early_stopping": 1}, "early_stopping needs a validation split. Pass validation= to"),
        (HEAD_ONLY, {"layer_decay": 0.9}, "layer_decay=0.9 has no effect, since the encoder is frozen"),
        (
            FROZEN,
            {"learning_rate": 0.1, "head_learning_rate": 0.2},
            "learning_rate=0.1 and head_learning_rate=0.2 contradict each other. Pass one of the two",
        ),
        (
            FROZEN,
            {"weight_decay": 0.1, "head_weight_decay": 0.2},
            "weight_decay=0.1 and head_weight_decay=0.2 contradict each other. Pass one of the two",
        ),
        ({}, {"cache": False, "cache_dtype": "float16"}, "--no-cache turns off the cache that cache_dtype would"),
        ({}, {"cache": False, "cache_size": 1.0}, "--no-cache turns off the cache that --cache-size would"),
        (
            LOGISTIC,
            {"learning_rate": 0.1},
            "fits a logistic head, so these settings have no effect: --learning-rate. Leave them out",
        ),
        (
            {},
            {"class_weights": (1.0, 2.0, 3.0)},
            r"--class-weights has 3 weights for 2 labels \(negative, positive\). Pass one for each",
        ),
        (
            {**FROZEN, "head": "centroid"},
            {"class_weights": "balanced"},
            "fits a centroid head, .* no effect: --class-weights",
        ),
        (
            LOGISTIC,
            {"num_epochs": 3, "layer_decay": 0.9},
            "no effect: --num-epochs, --layer-decay. .* or pass --head dense",
        ),
        (
            {**FROZEN, "head": "centroid"},
            {"early_stopping": 1},
            "scikit-learn fits a centroid head, .* no effect: --early-stop",
        ),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(
    transfer: dict, settings: dict, message: str, build_model: Callable[..., Classifier], tmp_path: Path
):
    model = build_model(**transfer)
    modes = [module.training for module in model.modules()]
    trainer = Trainer(model, TrainingConfig(**settings), output_dir=tmp_path / "run")
    with pytest.raises(ConfigError, match=message):
        trainer.fit(Examples.from_lists(["good", "bad"], ["positive", "negative"]))
    assert [module.training for module in model.modules()] == modes
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "config.json"]


@pytest.mark.parametrize(
    ("transfer", "settings"),
    [
        ({"freeze": 1}, {"layer_decay": 0.9}),
        (FROZEN, {"learning_rate": 0.1, "head_weight_decay": 0.1}),
        ({"lora_rank": 2, "lora_dropout": 0.1}, {"layer_decay": 0.9}),
        (LOGISTIC, {"cache": False, "logging_steps": 5, "class_weights": "balanced"}),
    ],
    ids=str,
)
def test_settings_that_go_together(transfer: dict, settings: dict, build_model: Callable[..., Classifier]):
    plan = plan_training(build_model(**transfer), TrainingConfig(**settings))
    assert plan.stages == ([] if transfer is LOGISTIC else [Stage(0, 10, None)])


def test_weights_of_half_precision_are_refused(build_model: Callable[..., Classifier]):
    with pytest.raises(ConfigError, match=r"lost in the model's torch.bfloat16 weights. Call model.float"):
        plan_training(build_model().bfloat16(), TrainingConfig())


def test_the_plan_is_said_before_anything_is_computed(
    build_model: Callable[..., Classifier], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    Trainer(build_model(freeze=1), TrainingConfig(num_epochs=2)).fit(
        Examples.from_lists(["good", "bad"], ["positive", "negative"])
    )
    assert caplog.messages[0].endswith("(layer 2, pooler and head); embeddings, layer 1 frozen")


def test_a_fitted_head_over_an_encoder_that_trains_is_refused(build_model: Callable[..., Classifier], tmp_path: Path):
    model = build_model(freeze="encoder", head="logistic")
    Trainer(model, TrainingConfig()).fit(Examples.from_lists(["good", "bad"] * 4, ["positive", "negative"] * 4))
    model.save(tmp_path / "saved")
    again = Classifier.from_pretrained(tmp_path / "saved")
    with pytest.raises(ConfigError, match="A logistic head needs a frozen encoder"):
        Trainer(again, TrainingConfig()).fit(Examples.from_lists(["good", "bad"], ["positive", "negative"]))
    for settings in ({"lora_rank": 2}, {"reinit_layers": 1}):
        with pytest.raises(
            ConfigError, match="the encoder that the logistic head in .* was fitted to, found lora_rank"
        ):
            Classifier.from_pretrained(tmp_path / "saved", **options(**settings))


def test_a_plan_starts_from_all_that_is_not_frozen(build_model: Callable[..., Classifier]):
    model = build_model()
    plan_training(model, TrainingConfig(num_epochs=2, unfreeze_every_epochs=1))
    stages = plan_training(model, TrainingConfig(num_epochs=8, unfreeze_every_epochs=1)).stages
    assert [stage.top for stage in stages] == [0, 1, 2, 3]
