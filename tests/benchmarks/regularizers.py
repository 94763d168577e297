"""Accuracy of full fine-tuning with and without r_drop, on few labels.

Every seed draws its own training texts; the settings of one seed share these, the new weights and the order of
examples.
A setting is compared with plain fine-tuning by the accuracy on the same test texts: a sign-flip permutation test over
test texts, each with its mean over the seeds, corrected by Holm over all comparisons. The difference per seed is
printed beside it, since the test knows nothing of the chance in training.

Usage:
    python tests/benchmarks/regularizers.py                                   # Rotten Tomatoes, about 45 minutes
    python tests/benchmarks/regularizers.py sample:rotten_tomatoes data/trec6
"""

import argparse
import json
import random

import numpy as np
from transformers import logging

import nlptl
from nlptl import Classifier, Trainer, TrainingConfig
from nlptl.evaluation.comparison import holm

SETTINGS: dict[str, dict[str, float]] = {
    "plain": {},
    "r_drop 1": {"r_drop": 1.0},
}
EPOCHS = {300: 4, 1000: 2}
NUM_VALIDATION, NUM_TEST, NUM_FLIPS = 300, 1000, 9999


def correct(name: str, num_train: int, seed: int) -> dict[str, np.ndarray]:
    """Return which test texts [texts] each setting labels correctly after training on `num_train` texts."""
    splits = nlptl.load_splits(name)
    test = splits["test"]
    test = test.select(random.Random(0).sample(range(len(test)), min(NUM_TEST, len(test))))
    drawn = random.Random(seed).sample(range(len(splits["train"])), num_train + NUM_VALIDATION)
    train, validation = splits["train"].select(drawn[:num_train]), splits["train"].select(drawn[num_train:])
    found = {}
    for setting, values in SETTINGS.items():
        model = Classifier.from_pretrained("sample:minilm", labels=splits.labels, max_length=64, seed=seed)
        config = TrainingConfig(num_epochs=EPOCHS[num_train], batch_size=16, learning_rate=1e-4, **values)
        Trainer(model, config, seed=seed).fit(train, validation=validation)
        predicted = [each.label for each in model.predict(list(test.texts))]
        found[setting] = np.array(predicted) == np.array(test.labels)
        print(json.dumps([name, num_train, seed, setting, round(float(found[setting].mean()), 4)]), flush=True)
    return found


def flip_test(differences: np.ndarray) -> float:
    """Return the two-sided p-value of a mean of `differences` [texts] against zero, by flipping signs."""
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(NUM_FLIPS, len(differences)))
    as_extreme = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9
    return float((1 + as_extreme.sum()) / (1 + NUM_FLIPS))


def main() -> None:
    """Print a line for each training, then one for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", default=["sample:rotten_tomatoes"])
    parser.add_argument("--num-seeds", type=int, default=5)
    flags = parser.parse_args()
    logging.set_verbosity_error()
    rows = []
    for name in flags.datasets:
        for num_train in EPOCHS:
            runs = [correct(name, num_train, seed) for seed in range(flags.num_seeds)]
            by_setting = {s: np.array([run[s] for run in runs], dtype=float) for s in SETTINGS}
            for setting in list(SETTINGS)[1:]:
                difference = by_setting[setting] - by_setting["plain"]  # [seeds, texts]
                rows.append((name, num_train, setting, by_setting["plain"].mean(), difference))
    adjusted = holm([flip_test(difference.mean(axis=0)) for *_, difference in rows])
    for (name, num_train, setting, plain, difference), p in zip(rows, adjusted, strict=True):
        seeds = " ".join(f"{value:+.4f}" for value in difference.mean(axis=1))
        print(f"{name} {num_train} {setting}: plain {plain:.4f}, {difference.mean():+.4f} ({seeds}), Holm p {p:.4f}")


if __name__ == "__main__":
    main()
