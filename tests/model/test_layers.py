"""What a head may read besides the mean of the last layer: a learned query, a mix of layers, several layers."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline

from nlptl.config import HeadConfig
from nlptl.errors import ConfigError
from nlptl.model.classifier import Classifier
from nlptl.model.encoder import FAMILIES
from nlptl.model.heads import AttentionPooling, LayerMix, pool
from nlptl.model.inference import evaluating
from tests.conftest import cover, options

LABELS = ["negative", "positive", "mixed"]
TEXTS = ["good film .", "bad", "a very dull story and the acting was awful"]
# Three texts of 5, 3 and 8 tokens, padded with 0.
INPUT_IDS = torch.tensor([[2, 5, 22, 7, 3, 0, 0, 0], [2, 30, 3, 0, 0, 0, 0, 0], [2, 9, 31, 10, 6, 8, 25, 3]])
BATCH = {"input_ids": INPUT_IDS, "attention_mask": (INPUT_IDS != 0).long()}

KINDS = [
    {"pooling": "attention"},
    {"pooling": "attention", "hidden": 8, "activation": "gelu"},
    {"pooling": "mean", "layers": "mix"},
    {"pooling": "max", "layers": "mix", "hidden": (8, 4), "activation": "tanh"},
    {"pooling": "cls", "layers": 2},
    {"pooling": "mean", "layers": 1},
]
every_kind = pytest.mark.parametrize("settings", KINDS, ids=str)


def test_attention_pooling_is_a_weighted_mean_over_the_tokens():
    rng = np.random.default_rng(0)
    rows, query = [rng.normal(size=(n, 6)) for n in (4, 1, 7)], rng.normal(size=6)
    expected = []
    for row in rows:
        shares = np.exp(row @ query)
        expected.append((shares / shares.sum()) @ row)
    pooling = AttentionPooling(6).double()
    with torch.no_grad():
        pooling.query.weight.copy_(torch.from_numpy(query))
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True, padding_value=9)
    mask = torch.tensor([[1] * len(row) + [0] * (7 - len(row)) for row in rows])
    found = pooling(padded, mask).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_a_mix_of_layers_is_that_of_elmo():
    rng = np.random.default_rng(0)
    layers, weights = rng.normal(size=(4, 5, 6)), rng.normal(size=4)
    shares = np.exp(weights) / np.exp(weights).sum()
    mix = LayerMix(4).double()
    features = torch.from_numpy(np.concatenate(layers, axis=1))
    torch.testing.assert_close(mix(features).detach(), torch.from_numpy(layers.mean(axis=0)))  # before any training
    with torch.no_grad():
        mix.weights.copy_(torch.from_numpy(weights))
        mix.scale.fill_(1.7)
    expected = 1.7 * sum(share * layer for share, layer in zip(shares, layers, strict=True))
    np.testing.assert_allclose(mix(features).detach().numpy(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("family", "pooling"), [*cover(FAMILIES, ["cls", "mean", "max"]), ("bert", "mean"), ("bert", "max")]
)
def test_which_layers_are_read(family: str, pooling: str, family_folder: Callable[[str], Path]):
    stock = AutoModel.from_pretrained(family_folder(family)).eval()
    with torch.no_grad():
        outputs = stock(**BATCH, output_hidden_states=True)
    # From the embeddings' output up; what the top layer gives is what the encoder gives.
    states = [pool(state, BATCH["attention_mask"], pooling) for state in outputs.hidden_states[:-1]]
    states.append(pool(outputs.last_hidden_state, BATCH["attention_mask"], pooling))
    assert len(states) == 3
    for layers, expected, lowest in (
        ("last", states[2:], 2),
        (1, states[2:], 2),
        (2, states[1:], 1),
        ("mix", states, 0),
    ):
        model = Classifier.from_pretrained(
            family_folder(family), labels=LABELS, pooling=pooling, head=HeadConfig(layers=layers)
        )
        with evaluating(model):
            torch.testing.assert_close(model.features(**BATCH), torch.cat(expected, dim=1), rtol=0, atol=1e-5)
            model.is_padding_free = False
            assert torch.equal(model.features(**BATCH), torch.cat(expected, dim=1))
        assert model.lowest_layer_read == lowest


def test_a_mix_of_pooled_layers_is_the_pooled_mix(tiny_bert: Path):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS, pooling="mean", head=HeadConfig(layers="mix")).double()
    mix = model.network.head.mix
    with torch.no_grad():
        mix.weights.copy_(torch.tensor([0.3, -1.0, 2.0]))
        states = model.network.encoder.eval()(**BATCH, output_hidden_states=True).hidden_states
        mixed = sum(s * state for s, state in zip(mix.weights.softmax(0), states, strict=True)) * mix.scale
        with evaluating(model):
            found = mix(model.features(**BATCH))
    torch.testing.assert_close(found, pool(mixed, BATCH["attention_mask"], "mean"), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("family", "settings"), [*cover(FAMILIES, KINDS), *(("bert", settings) for settings in KINDS[1:])], ids=str
)
def test_every_kind_trains_saves_and_loads(
    family: str, settings: dict, family_folder: Callable[[str], Path], tmp_path: Path
):
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS, **options(**settings))
    torch.manual_seed(0)  # of dropout
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(model(**BATCH), torch.tensor([0, 1, 2])).backward()
    got = {name for name, parameter in model.network.named_parameters() if parameter.grad is not None}
    assert model.head_names <= got
    assert all(model.network.get_parameter(name).grad.any() for name in model.head_names)
    optimizer.step()
    with evaluating(model):
        logits = model(**BATCH)
        assert torch.equal(model(features=model.features(**BATCH)), logits)
    model.save(tmp_path / "saved")
    loaded = Classifier.from_pretrained(tmp_path / "saved")
    assert (loaded.head, loaded.head_names) == (model.head, model.head_names)
    with evaluating(loaded):
        assert torch.equal(loaded(**BATCH), logits)


@every_kind
def test_stock_classes_and_pipelines_load_every_kind(settings: dict, tiny_bert: Path, tmp_path: Path):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS, **options(**settings))
    model.save(tmp_path / "saved")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad(), evaluating(model):
        assert torch.equal(stock(**BATCH).logits, model(**BATCH))
    classify = pipeline("text-classification", str(tmp_path / "saved"), top_k=None)
    found = [{row["label"]: row["score"] for row in rows} for rows in classify(TEXTS)]
    for row, prediction in zip(found, model.predict(TEXTS), strict=True):
        assert row == pytest.approx(prediction.probabilities, abs=1e-6)


@every_kind
def test_new_heads_are_seeded(settings: dict, tiny_bert: Path):
    one, again, other = (
        Classifier.from_pretrained(tiny_bert, labels=LABELS, seed=seed, **options(**settings)).network.state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], again[name]) for name in one)
    differ = {name for name in one if not torch.equal(one[name], other[name])}
    assert differ == {n for n in one if n.startswith("head.") and n.endswith("weight")}
    assert math.isclose(float(one["head.output.weight"].std()), 0.2, rel_tol=0.5)  # the encoder's initializer_range


def test_a_head_is_linear_whatever_it_pools(tiny_bert: Path):
    for settings, is_linear in (
        ({"pooling": "mean"}, True),
        ({"pooling": "attention"}, True),
        ({"pooling": "mean", "layers": "mix"}, True),
        ({"pooling": "mean", "hidden": 8}, False),
        ({"pooling": "attention", "hidden": 8, "activation": "gelu"}, False),
    ):
        model = Classifier.from_pretrained(tiny_bert, labels=LABELS, freeze="encoder", **options(**settings))
        assert (model.head_is_linear, model.head_is_fitted) == (is_linear, False), settings


def test_more_layers_than_there_are(tiny_bert: Path):
    with pytest.raises(
        ConfigError, match=r"Expected layers from 1 to 2, .* 'last' or 'mix', found 3\. Pass --layers 2"
    ):
        Classifier.from_pretrained(tiny_bert, labels=LABELS, pooling="mean", head=HeadConfig(layers=3))


def test_more_layers_than_a_saved_classifier_has(tiny_bert: Path, tmp_path: Path):
    Classifier.from_pretrained(tiny_bert, labels=LABELS, pooling="mean").save(tmp_path / "saved")
    with pytest.raises(ConfigError, match="Expected layers from 1 to 2"):
        Classifier.from_pretrained(tmp_path / "saved", labels=LABELS, pooling="mean", head=HeadConfig(layers=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 2}, r"the last layer alone with pooling 'native' \('auto' means .*found layers=2\. Pass --pooling"),
        ({"layers": "mix", "pooling": "native"}, "the last layer alone with pooling 'native'.*found layers='mix'"),
        ({"layers": 2, "pooling": "attention"}, "the last layer alone with pooling 'attention'.*or leave --layers out"),
        ({"layers": 0, "pooling": "mean"}, "layers must be 'last', 'mix' or a whole number of at least 1, found 0"),
        ({"layers": True, "pooling": "mean"}, "a whole number of at least 1, found True"),
        ({"layers": "all", "pooling": "mean"}, "a whole number of at least 1, found 'all'"),
        (
            {"hidden": (8, 0), "pooling": "mean"},
            r"hidden must be a list of whole numbers .* found \(8, 0\)",
        ),
        (
            {"hidden": "12", "pooling": "mean"},
            "hidden must be a whole number of at least 1, .* found '12'",
        ),
        (
            {"hidden": (8, 4)},
            "no hidden layer with the architecture's own head, found hidden=8 4 with pooling 'native'",
        ),
    ],
)
def test_settings_that_contradict_each_other(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        Classifier.from_pretrained("no-such-owner/no-such-model", labels=LABELS, **options(**settings))


def test_the_card_holds_the_shape_of_the_head(tiny_bert: Path, tmp_path: Path):
    settings = {"pooling": "mean", "layers": 2, "hidden": np.array([8, 4]), "activation": "gelu"}
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS, **options(**settings))
    model.save(tmp_path / "saved")
    head = json.loads((tmp_path / "saved" / "nlptl.json").read_text())["head"]
    assert (head["layers"], head["hidden"], head["activation"]) == (2, [8, 4], "gelu")
    assert Classifier.from_pretrained(tmp_path / "saved").head == model.head
    assert model.head.hidden == (8, 4)
