"""A folder that nlptl has saved: what is wrong with it is said before anything is predicted."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nlptl.errors import ConfigError, UntrustedFileError
from nlptl.model.classifier import Classifier

LABELS = ["negative", "positive"]


@pytest.fixture
def saved(tiny_bert: Path, tmp_path: Path) -> Path:
    Classifier.from_pretrained(tiny_bert, labels=LABELS, pooling="mean").save(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_folder_that_nlptl_has_not_saved_needs_labels(tiny_bert: Path):
    with pytest.raises(ConfigError, match=r"found no nlptl\.json in .*Pass labels=, or the model/ folder of a run"):
        Classifier.from_pretrained(tiny_bert)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ["a"]}, "Expected two or more different label names"),
        ({"labels": 3}, "'int' object is not iterable"),
        ({"max_length": float("inf")}, "Expected a whole number or null for max_length"),
        ({"head": {"pooling": "sum"}}, "pooling in the configuration, found 'sum'"),
        (
            {"head": {"pooling": "max"}},
            r"config\.json has head 'dense', pooling 'mean', layers 'last', hidden \[\], chunk_pooling 'mean' and",
        ),
        ({"head": {"pooling": "native"}}, r"config\.json has head 'dense', pooling 'mean', .* and labels"),
        (
            {"head": {"pooling": "mean", "hidden": [8]}},
            r"config\.json has .*, hidden \[\], chunk_pooling 'mean' and labels",
        ),
        (
            {"head": {"pooling": "mean", "hidden": 8}},
            "Expected a list of whole numbers for hidden in the configuration, found 8",
        ),
        ({"head": {"pooling": "mean", "layers": 2}}, r"config\.json has .*, layers 'last', hidden"),
        ({"head": {"pooling": "mean", "head": "centroid"}}, r"config\.json has head 'dense', "),
        ({"max_length": "long"}, "Expected a whole number or null for max_length"),
        ({"tokenizer_canary": "0" * 64}, "Expected the tokenizer that the classifier in .* was trained with"),
        ({"labels": ["positive", "negative"]}, r"config\.json has .* labels \('negative', 'positive'\)"),
    ],
)
def test_a_saved_card_that_is_wrong(settings: dict, message: str, saved: Path, altered: Callable[..., Path]):
    with pytest.raises(UntrustedFileError, match=message):
        Classifier.from_pretrained(altered(saved, file="nlptl.json", **settings))


@pytest.mark.parametrize("key", ["labels", "head", "max_length", "tokenizer_canary"])
def test_a_saved_card_that_is_incomplete(key: str, saved: Path):
    values = json.loads((saved / "nlptl.json").read_text())
    (saved / "nlptl.json").write_text(json.dumps({k: v for k, v in values.items() if k != key}))
    with pytest.raises(UntrustedFileError, match=rf"cannot read .*nlptl\.json: KeyError\('{key}'\)"):
        Classifier.from_pretrained(saved)


def test_a_tokenizer_that_has_changed(saved: Path):
    path = saved / "tokenizer.json"
    values = json.loads(path.read_text())
    words = values["model"]["vocab"]
    words["the"], words["[UNK]"] = words["[UNK]"], words["the"]
    path.write_text(json.dumps(values))
    with pytest.raises(UntrustedFileError, match="found other token ids for the same text"):
        Classifier.from_pretrained(saved)


def test_a_saved_head_that_is_missing(saved: Path, change_weights: Callable[..., None]):
    change_weights(saved, lambda name, tensor: None if name == "head.output.bias" else tensor)
    with pytest.raises(
        UntrustedFileError, match=r"Expected all weights of a nlptl model in .*, found 1 missing: head\.output\.bias"
    ):
        Classifier.from_pretrained(saved)


def test_a_saved_head_is_checked_like_any_weights(saved: Path, change_weights: Callable[..., None]):
    change_weights(saved, lambda name, tensor: tensor * float("nan") if name == "head.output.bias" else tensor)
    with pytest.raises(UntrustedFileError, match=r"found NaN or infinity in head\.output\.bias"):
        Classifier.from_pretrained(saved)


@pytest.mark.parametrize("labels", [None, LABELS])
def test_a_saved_encoder_that_is_incomplete(labels: list[str] | None, saved: Path, change_weights: Callable[..., None]):
    name = "encoder.embeddings.LayerNorm.weight"
    change_weights(saved, lambda key, tensor: None if key == name else tensor)
    with pytest.raises(UntrustedFileError, match="1 missing"):
        Classifier.from_pretrained(saved, labels=labels)


def test_weights_of_more_layers_than_the_settings_tell_of_are_refused(tiny_bert, tmp_path):
    Classifier.from_pretrained(tiny_bert, labels=["a", "b"]).save(tmp_path / "model")
    path = tmp_path / "model/config.json"
    path.write_text(path.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 1'))
    with pytest.raises(UntrustedFileError, match=r"number of layers in config\.json .* found weights of more"):
        Classifier.from_pretrained(tmp_path / "model")


def test_folder_of_a_run_is_told_from_its_model(tiny_bert, tmp_path):
    Classifier.from_pretrained(tiny_bert, labels=["a", "b"]).save(tmp_path / "run/model")
    with pytest.raises(ConfigError, match=r"Expected the model folder of a run, found the run\. Pass .*run/model"):
        Classifier.from_pretrained(tmp_path / "run")


def test_who_may_read_the_folder_may_read_its_files(saved: Path):
    assert len({path.stat().st_mode for path in saved.iterdir()}) == 1
    assert len(list(saved.iterdir())) > 3
