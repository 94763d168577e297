"""The evaluate modules: offline, and equal to scikit-learn."""

import os
import socket
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import sklearn.metrics

from nlptl.errors import DataError
from nlptl.evaluation import modules

MODULES = {
    modules.Accuracy: ("accuracy", sklearn.metrics.accuracy_score, {}),
    modules.MacroF1: ("macro_f1", sklearn.metrics.f1_score, {"average": "macro", "zero_division": 0}),
    modules.WeightedF1: ("weighted_f1", sklearn.metrics.f1_score, {"average": "weighted", "zero_division": 0}),
    modules.Precision: ("precision", sklearn.metrics.precision_score, {"average": "macro", "zero_division": 0}),
    modules.Recall: ("recall", sklearn.metrics.recall_score, {"average": "macro", "zero_division": 0}),
    modules.Matthews: ("matthews", sklearn.metrics.matthews_corrcoef, {}),
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("A metric module opened a socket.")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def predictions():
    return np.random.default_rng(0).integers(1, 5, size=200)


@pytest.fixture
def references():
    return np.random.default_rng(1).integers(-1, 4, size=200)  # -1 and 0 are never predicted, 4 never occurs


def expected_score(module, references, predictions):
    key, function, settings = MODULES[module]
    return {key: pytest.approx(function(references, predictions, **settings), abs=1e-12)}


def test_every_module_is_tested():
    defined = {value for value in vars(modules).values() if isinstance(value, type) and hasattr(value, "score")}
    assert defined - {modules._ClassMetric} == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_module_equals_scikit_learn(module, references, predictions):
    metric = module(keep_in_memory=True)
    assert metric.name == MODULES[module][0]
    scores = metric.compute(predictions=predictions.tolist(), references=references.tolist())
    assert scores == expected_score(module, references, predictions)
    assert isinstance(scores[metric.name], float)


@pytest.mark.parametrize("module", MODULES)
def test_uneven_batches_give_the_score_of_the_whole(module, references, predictions):
    metric = module(keep_in_memory=True)
    for batch in np.array_split(np.arange(200), 7):
        metric.add_batch(predictions=predictions[batch], references=references[batch])
    assert metric.compute() == expected_score(module, references, predictions)
    # After compute it starts anew.
    assert metric.compute(predictions=[0], references=[0]).keys() == {metric.name}


def test_modules_combine(references, predictions):
    combined = evaluate.combine([module(keep_in_memory=True) for module in MODULES])
    combined.add_batch(predictions=predictions[:150], references=references[:150])
    combined.add_batch(predictions=predictions[150:], references=references[150:])
    expected = {}
    for module in MODULES:
        expected |= expected_score(module, references, predictions)
    assert combined.compute() == expected


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="Expected one example or more to score, found none. Call add_batch"):
        modules.Accuracy(keep_in_memory=True).compute(predictions=[], references=[])


def test_cache_dir_is_used_and_emptied(tmp_path):
    assert modules.Accuracy(cache_dir=str(tmp_path)).compute(predictions=[0, 1], references=[0, 0]) == {"accuracy": 0.5}
    assert not list(tmp_path.rglob("*.arrow"))
    assert (tmp_path / "accuracy" / "default").is_dir()


@pytest.mark.nightly
def test_in_memory_writes_nothing_to_the_home(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "from nlptl.evaluation.modules import Accuracy; "
        "assert Accuracy(keep_in_memory=True).compute(predictions=[0, 1], references=[0, 0]) == {'accuracy': 0.5}"
    )
    unset = ("HF_HOME", "HF_METRICS_CACHE", "HF_EVALUATE_CACHE", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"HOME": str(home), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert not list(home.rglob("metrics"))
