"""How fast the checks of the data are, and how well near duplicates and wrong labels that are planted are found.

    python tests/benchmarks/data_checks.py speed          # one process, one thread, half a minute
    python tests/benchmarks/data_checks.py label_errors   # some minutes

Speed is that of all checks but near duplicates, and of near duplicates alone, on data that is in memory.
"""

import random
import sys
import time

import numpy as np
from sklearn.metrics import roc_auc_score

from nlptl import Classifier
from nlptl.data.checks import find_problems
from nlptl.data.near_duplicates import find_near_duplicates
from nlptl.data.samples import sample_dataset
from nlptl.data.sources import Examples
from nlptl.training.label_errors import find_label_errors


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_speed() -> None:
    for name in ("rotten_tomatoes", "imdb"):
        examples = sample_dataset(name)
        words = np.mean([len(text.split()) for text in examples.texts])
        every = {"train": np.ones(len(examples), dtype=bool)}
        exact = seconds(lambda splits={"train": examples}: find_problems(splits, near_duplicates=False))
        near = seconds(lambda splits={"train": examples}, every=every: find_near_duplicates(splits, every))
        print(f"{name}: {len(examples):,} texts of {words:.0f} words", end="; ")
        print(f"exact {len(examples) / exact:,.0f} texts/s, near duplicates {len(examples) / near:,.0f} texts/s")
        plant_near_duplicates(examples)


def plant_near_duplicates(examples: Examples) -> None:
    """Change one word in each of 1,000 texts of 10 to 30 words, and look for them in the others."""
    draw = random.Random(0)
    base = [text.split() for text in dict.fromkeys(examples.texts) if 10 <= len(text.split()) <= 30]
    planted = [list(words) for words in base[:1000]]
    for words in planted:
        words[draw.randrange(len(words))] = "changed"
    splits = {
        name: Examples([" ".join(words) for words in texts], ["x"] * len(texts), range(1, len(texts) + 1))
        for name, texts in (("train", base), ("test", planted))
    }
    found = find_near_duplicates(splits, {name: np.ones(len(part), dtype=bool) for name, part in splits.items()})
    count = sum(finding.count for finding in found if finding.kind == "near_leak")
    if planted:
        print(f"  one word of 10 to 30 changed: {count / len(planted):.1%} of {len(planted):,} found")


def measure_label_errors() -> None:
    for name, count, max_length in (("bbc_news", 1000, 128), ("rotten_tomatoes", 2000, 64)):
        draw, examples = np.random.default_rng(0), sample_dataset(name)
        examples = examples.select(np.sort(draw.permutation(len(examples))[:count]))
        names, labels = sorted(set(examples.labels)), list(examples.labels)
        flipped = draw.permutation(count)[: count // 20]
        for i in flipped:
            labels[i] = draw.choice([other for other in names if other != labels[i]])
        model = Classifier.from_pretrained("sample:minilm", labels=names, max_length=max_length, freeze="encoder")
        suspects, margins = find_label_errors(model, examples.texts, labels)
        right = len({suspect.place for suspect in suspects} & set(flipped.tolist()))
        score = roc_auc_score(np.isin(np.arange(count), flipped), -margins)
        print(f"{name}: {right} of {len(flipped)} planted errors among {len(suspects)} suspects, AUROC {score:.3f}")


if __name__ == "__main__":
    measures = {"speed": measure_speed, "label_errors": measure_label_errors}
    if sys.argv[1:2] and sys.argv[1] in measures:
        measures[sys.argv[1]]()
    else:
        sys.exit(__doc__)
