"""TrainingConfig, and JSON <-> frozen dataclass."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from nlptl.config import (
    ClassificationConfig,
    Columns,
    HeadConfig,
    JudgingConfig,
    RepeatsConfig,
    TrainingConfig,
    TransferConfig,
    from_json,
    load_config,
    to_json,
)
from nlptl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    """One field of each kind."""

    name: str
    freeze: Literal["nothing", "encoder"] | int = "encoder"
    rate: float | None = None
    folder: Path = Path("runs")
    columns: tuple[str, ...] = ()
    is_new: bool = False
    train: TrainingConfig = field(default_factory=TrainingConfig)


EXAMPLES = [
    Config(name="x"),
    Config(name="x", freeze=3, rate=1e-5, folder=Path("a/b"), columns=("t", "l"), is_new=True),
    Config(name="caf\u00e9", train=TrainingConfig(num_epochs=1, learning_rate=2e-5, optimizer="sgd", eval_steps=5)),
]


@pytest.mark.parametrize("config", EXAMPLES)
def test_a_saved_configuration_loads_to_an_equal_one(config: Config, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    loaded = load_config(Config, tmp_path / "config.json")
    assert loaded == config
    assert type(loaded.folder) is type(config.folder)
    assert to_json(loaded) == to_json(config)


def test_whole_numbers_of_numpy_are_saved(tmp_path: Path):
    config = TrainingConfig(num_epochs=np.int64(3), learning_rate=np.float64(0.5))
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    assert load_config(TrainingConfig, tmp_path / "config.json") == TrainingConfig(num_epochs=3, learning_rate=0.5)


def test_missing_keys_take_the_defaults():
    assert from_json(Config, {"name": "x", "train": {"num_epochs": 2}}) == Config(
        name="x", train=TrainingConfig(num_epochs=2)
    )


def test_whole_numbers_are_floats_where_a_float_is_wanted():
    config = from_json(Config, {"name": "x", "rate": 1})
    assert type(config.rate) is float


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nam": "x"}, "Unknown setting 'nam' in the configuration. Did you mean 'name'?"),
        ({"zzz": 1}, "Unknown setting 'zzz' in the configuration. Known settings: name, freeze, rate"),
        ({"name": "x", "train": {"num_epoch": 1}}, "Unknown setting 'num_epoch' in train in the configuration."),
        ({"rate": 1.0}, "Expected 'name' in the configuration: these settings have no default."),
        ({"name": 3}, "Expected a string for name in the configuration, found 3."),
        ({"name": "x", "is_new": 1}, "Expected True or False for is_new in the configuration, found 1."),
        ({"name": "x", "rate": "1"}, "Expected a number or null for rate in the configuration, found '1'."),
        ({"name": "x", "rate": True}, "Expected a number or null for rate in the configuration, found True."),
        ({"name": "x", "freeze": "all"}, "Expected 'nothing', 'encoder' or a whole number for freeze"),
        ({"name": "x", "freeze": True}, "for freeze in the configuration, found True."),
        ({"name": "x", "columns": "t"}, "Expected a list of strings for columns in the configuration, found 't'."),
        ({"name": "x", "columns": [1]}, "Expected a list of strings for columns in the configuration, found [1]."),
        ({"name": "x", "folder": None}, "Expected a path for folder in the configuration, found None."),
        ({"name": "x", "train": 3}, "Expected an object with settings in train in the configuration, found int."),
        ({"name": "x", "train": {"num_epochs": 2.0}}, "Expected a whole number for num_epochs"),
        ({"name": "x", "train": {"num_epochs": -1}}, "num_epochs must be a whole number of at least 1, found -1"),
        ({"name": "x", "folder": "a\0b"}, "Expected a path for folder in the configuration, found 'a\\x00b'."),
        ([], "Expected an object with settings in the configuration, found list."),
    ],
)
def test_what_does_not_fit_is_refused(values: Any, message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        from_json(Config, values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"num_epochs: 3", "Expected JSON in "),
        (b"", "Expected JSON in "),
        (b"\xff\xfe", "Expected JSON in "),
        (b"[" * 100_000, "Expected JSON in "),
        (b'{"name": "x", "name": "y"}', "the key 'name' occurs twice"),
        (b"[1]", "Expected an object with settings in "),
        (b'{"name": 1}', "Expected a string for name in "),
    ],
)
def test_a_file_that_does_not_fit_is_named(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        load_config(Config, path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"cannot read {re.escape(str(tmp_path / name))}"):
        load_config(Config, tmp_path / name)


@pytest.mark.parametrize(
    "setting",
    [
        {"num_epochs": 0},
        {"num_epochs": 2.5},
        {"batch_size": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("inf")},
        {"head_learning_rate": -1.0},
        {"weight_decay": float("nan")},
        {"warmup_ratio": 1.5},
        {"max_grad_norm": -0.1},
        {"label_smoothing": 1.0},
        {"class_weights": "even"},
        {"class_weights": (1.0, 0.0)},
        {"class_weights": ()},
        {"micro_batch_tokens": 0},
        {"eval_steps": 0},
        {"early_stopping": 0},
        {"logging_steps": 0},
        {"optimizer": "lion"},
        {"schedule": "step"},
        {"mixed_precision": "int8"},
        {"selection_metric": "f1"},
        {"learning_rate": "1e-5"},
        {"learning_rate": True},
        {"num_epochs": "3"},
        {"num_epochs": True},
        {"num_epochs": 3.0},
        {"batch_size": None},
        {"cache": 1},
        {"max_grad_norm": float("nan")},
        {"coverage": "0.9"},
    ],
)
def test_values_out_of_range_are_refused(setting: dict[str, Any]):
    ((name, value),) = setting.items()
    with pytest.raises(ConfigError, match=re.escape(f"{name} must be ") + ".*" + re.escape(f"found {value!r}")):
        TrainingConfig(**setting)


def test_all_bad_values_are_named_at_once():
    with pytest.raises(ConfigError, match="num_epochs must be .*; optimizer must be .*; warmup_ratio must be "):
        TrainingConfig(num_epochs=0, warmup_ratio=2, optimizer="lion")


@pytest.mark.parametrize(
    ("cls", "setting"),
    [
        (HeadConfig, {"dropout": "0.1"}),
        (HeadConfig, {"dropout": float("nan")}),
        (HeadConfig, {"hidden": (8, 0)}),
        (HeadConfig, {"hidden": "8"}),
        (HeadConfig, {"layers": True}),
        (TransferConfig, {"lora_rank": 8.0}),
        (TransferConfig, {"lora_alpha": float("nan")}),
        (TransferConfig, {"lora_targets": "query"}),
        (TransferConfig, {"dora": "yes"}),
        (TransferConfig, {"freeze": 0}),
        (JudgingConfig, {"explain": "5"}),
        (RepeatsConfig, {"folds": 1}),
        (RepeatsConfig, {"seeds": ("0", "1")}),
        (Columns, {"label_columns": "joy"}),
        (Columns, {"text_column": ["title", "body"]}),
        (ClassificationConfig, {"max_examples": 1}),
        (ClassificationConfig, {"train": {"num_epochs": 3}}),
        (ClassificationConfig, {"chunk_overlap": -1}),
    ],
)
def test_every_configuration_checks_its_fields(cls: type, setting: dict[str, Any]):
    ((name, value),) = setting.items()
    with pytest.raises(ConfigError, match=re.escape(f"{name} must be ") + ".* found"):
        cls(**setting)
    if isinstance(value, str | bool | list):
        with pytest.raises(ConfigError, match=f"{name} (in the configuration|must be)"):
            from_json(cls, {name: value})


def test_lists_and_strings_become_what_the_field_holds():
    config = ClassificationConfig(label_columns=["a", "b"], output_dir="runs/x", train=TrainingConfig(learning_rate=1))
    assert (config.label_columns, config.output_dir) == (("a", "b"), Path("runs/x"))
    assert type(config.train.learning_rate) is float
    assert type(TrainingConfig(learning_rate=np.float32(0.5)).learning_rate) is float


def test_padding_free_and_layers_that_see_padding_are_refused():
    with pytest.raises(ConfigError, match="padding_free contradicts gradient_checkpointing"):
        TrainingConfig(padding_free=True, gradient_checkpointing=True)
    assert TrainingConfig(gradient_checkpointing=True).padding_free is None


def test_the_defaults_are_json():
    assert json.loads(json.dumps(to_json(TrainingConfig()))) == to_json(TrainingConfig())
