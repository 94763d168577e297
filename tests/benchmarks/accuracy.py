"""Accuracy with and without what makes full fine-tuning quick, over several seeds, and whether they differ.

A pair has the seed of the new weights, of the order of examples and of dropout in common; the noise of dropout itself
is drawn another way. Tested by Student's t over the pairs. Needs the extra `samples` and no network.

Usage:
    python tests/benchmarks/accuracy.py                   # five seeds, two data sets: 11 to 18 minutes
    python tests/benchmarks/accuracy.py --num-seeds 10
"""

import argparse
import random

import numpy as np
from scipy import stats
from transformers import logging

import nlptl
from nlptl import Classifier, Trainer, TrainingConfig

# name: texts to train on, texts to test on, tokens of a text, epochs
DATA = {"sample:rotten_tomatoes": (1000, 1000, 128, 2), "sample:bbc_news": (400, 1000, 64, 2)}

WAYS = {"quick": {}, "plain": {"padding_free": False, "quick_layers": False}}


def accuracies(name: str, seed: int) -> dict[str, float]:
    """Return the accuracy on test texts of a model trained each way."""
    num_train, num_test, max_length, num_epochs = DATA[name]
    splits = nlptl.load_splits(name)
    parts = {
        split: part.select(random.Random(0).sample(range(len(part)), min(count, len(part))))
        for split, part, count in (("train", splits["train"], num_train), ("test", splits["test"], num_test))
    }
    found = {}
    for way, settings in WAYS.items():
        model = Classifier.from_pretrained("sample:minilm", labels=splits.labels, max_length=max_length, seed=seed)
        config = TrainingConfig(num_epochs=num_epochs, batch_size=16, learning_rate=1e-4, **settings)
        Trainer(model, config, seed=seed).fit(parts["train"])
        predicted = [each.label for each in model.predict(parts["test"].texts)]
        found[way] = float(np.mean(np.array(predicted) == np.array(parts["test"].labels)))
    return found


def main() -> None:
    """Print a line for each seed and one for each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-seeds", type=int, default=5)
    flags = parser.parse_args()
    logging.set_verbosity_error()
    for name in DATA:
        rows = []
        for seed in range(flags.num_seeds):
            found = accuracies(name, seed)
            rows.append(list(found.values()))
            print(name, "seed", seed, ", ".join(f"{way} {value:.4f}" for way, value in found.items()), flush=True)
        quick, plain = np.array(rows).T
        difference = quick - plain
        test = stats.ttest_rel(quick, plain)
        low, high = test.confidence_interval(0.95)
        print(
            f"{name}: quick {quick.mean():.4f}, plain {plain.mean():.4f}, difference {difference.mean():+.4f} "
            f"(95 % interval {low:+.4f} to {high:+.4f}, p = {test.pvalue:.2f})"
        )


if __name__ == "__main__":
    main()
