"""A seed is a whole number of at least 0; anything else is refused before anything is computed."""

import numpy as np
import pytest

from nlptl import Classifier, ConfigError, Examples, TextClassifier, Trainer, TrainingConfig, load_splits
from nlptl.config import ClassificationConfig, RepeatsConfig

TEXTS, LABELS = ["good", "bad", "a good film", "a bad film"], ["positive", "negative"] * 2
NO_SEEDS = (None, 1.5, True, -1, "no number", np.random.RandomState(0), np.random.default_rng(0), np.float64(1), [0])

no_seed = pytest.mark.parametrize("seed", NO_SEEDS, ids=lambda seed: type(seed).__name__)


@pytest.fixture
def model(tiny_bert):
    return Classifier.from_pretrained(tiny_bert, labels=("negative", "positive"))


@no_seed
def test_other_values_are_refused(seed, tiny_bert, toy_csv, model, tmp_path):
    output, config = tmp_path / "run", TrainingConfig(num_epochs=1)
    calls = {
        "from_pretrained": lambda: Classifier.from_pretrained(tiny_bert, labels=LABELS[:2], seed=seed),
        "load_splits": lambda: load_splits(toy_csv, seed=seed),
        "Trainer": lambda: Trainer(model, config, output_dir=output, seed=seed),
        "TextClassifier": lambda: TextClassifier(str(tiny_bert), seed=seed).fit(TEXTS, LABELS),
        "seed": lambda: ClassificationConfig(seed=seed),
        "split_seed": lambda: ClassificationConfig(split_seed=seed),
    }
    for name, call in calls.items():
        word = "split_seed" if name == "split_seed" else "seed"
        with pytest.raises(ConfigError, match=f"{word} must be a whole number of at least 0, found ") as refused:
            call()
        assert type(seed).__name__ in str(refused.value) or repr(seed) in str(refused.value)
    assert not output.exists()


def test_the_seeds_of_several_runs_are_seeds():
    with pytest.raises(ConfigError, match=r"seeds must be a list of whole numbers of at least 0, found \(0, -1\)"):
        RepeatsConfig(seeds=(0, -1))


@pytest.mark.parametrize("seed", [3, np.int64(3), np.uint8(3), 2**70])
def test_whole_numbers_of_any_kind_are_seeds(seed, tiny_bert, tmp_path):
    examples = Examples.from_lists(TEXTS, LABELS)
    weights = []
    for given in (seed, int(seed)):
        model = Classifier.from_pretrained(tiny_bert, labels=("negative", "positive"), seed=given)
        trainer = Trainer(model, TrainingConfig(num_epochs=1), output_dir=tmp_path / str(len(weights)), seed=given)
        trainer.fit(examples, validation=examples)
        weights.append(model.network.classifier.weight.tolist())
    assert weights[0] == weights[1]
