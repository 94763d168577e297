"""Seconds of one processor for the bootstrap intervals of each kind of task, and for the tests of `nlptl compare`.

python tests/benchmarks/intervals.py                # 2,000 resamples of 10,000 rows, half a minute
python tests/benchmarks/intervals.py --rows 1000
"""

import argparse
import time

import numpy as np

from nlptl.evaluation import metrics, multi_label, ordinal, regression, spans
from nlptl.evaluation.comparison import paired_bootstrap, randomization_test

RESAMPLES = 2000


def show(name, function):
    start = time.process_time()
    function()
    print(f"{name:<40}{time.process_time() - start:6.2f} s", flush=True)


def main(rows: int) -> None:
    rng = np.random.default_rng(0)
    for classes in (2, 20, 150):
        labels, shares = rng.integers(classes, size=rows), rng.dirichlet(np.ones(classes), size=rows)
        names = [str(i) for i in range(classes)]
        show(
            f"single label, {classes} classes",
            lambda labels=labels, shares=shares, names=names: metrics.scorer(labels, shares, names=names).score(),
        )
    labels, shares = rng.integers(5, size=rows), rng.dirichlet(np.ones(5), size=rows)
    show("ordinal, 5 classes", lambda: ordinal.scorer(labels, shares, names=list("abcde")).score())
    for count in (6, 28):
        targets = rng.random((rows, count)) < 0.1
        outputs = np.clip(targets * 0.7 + rng.random((rows, count)) * 0.4, 0, 1)
        settings = {"predicted": outputs >= 0.5, "names": [str(i) for i in range(count)]}
        show(
            f"several labels, {count} labels",
            lambda targets=targets, outputs=outputs, settings=settings: multi_label.scorer(
                targets, outputs, **settings
            ).score(),
        )
    scores = rng.normal(size=(2, rows, 1))
    show("regression", lambda: regression.scorer(*scores, names=["score"]).score())
    true, found = (
        [["B-x" if tag < 0.1 else "O" for tag in sentence] for sentence in rng.random((rows, 15))] for _ in range(2)
    )
    show("spans, sentences of 15 words", lambda: spans.scorer(true, found).score())

    systems = [np.where(rng.random(rows) < 0.8, labels, rng.integers(5, size=rows)) for _ in range(2)]
    settings = {"names": list("abcde")}
    scorers = [metrics.scorer(labels, shares, predictions=system, **settings).weighted for system in systems]
    show("paired bootstrap, 5 classes", lambda: paired_bootstrap(*scorers, rows, resamples=RESAMPLES))
    doubled = (np.tile(labels, 2), np.tile(shares, (2, 1)))
    both = metrics.scorer(*doubled, predictions=np.concatenate(systems), **settings).weighted
    show("approximate randomization, 5 classes", lambda: randomization_test(both, rows, resamples=RESAMPLES))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    main(parser.parse_args().rows)
