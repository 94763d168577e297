"""Bootstrap: how far a score would move on another test set of the same size.

Percentile intervals follow Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13. In simulations with
100 rows or more, 93 to 97 % of the 95 % intervals of accuracy, macro F1 and Matthews contain the true score; with five
mistakes in 100 rows, 91 % of those of Matthews do.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy import sparse

from nlptl.errors import ConfigError

# Random numbers drawn at once; with temporaries, about 20 bytes each, they fit into the cache of a processor.
_DRAWS_AT_ONCE = 200_000

# One binomial draw of a multinomial takes about as long as this many draws of a row.
_ROWS_PER_BINOMIAL = 16

WeightedScores = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Function from weights, float64 counts of each row [resamples, rows], to scores by name, each [resamples]."""
Counts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""True positives, support (count in the labels) and predictions of each class, each [..., classes]."""


def resample_counts(
    labels: np.ndarray, predictions: np.ndarray, *, num_classes: int, resamples: int, seed: int
) -> Counts:
    """Return the counts of each class in bootstrap resamples of the rows of a test set: int64 [resamples, classes].

    `labels` and `predictions` are ids in range(num_classes), each [rows].
    """
    # A row enters these counts only through its cell (label, prediction). A drawn row is in a cell of c rows with
    # probability c / n, so the counts of the cells are multinomial(n, c / n) and can be drawn at once.
    codes, cell_of_row, sizes = np.unique(labels * num_classes + predictions, return_inverse=True, return_counts=True)
    classes_of_cell = class_indicator(codes // num_classes, codes % num_classes, num_classes)
    cell_of_row = cell_of_row.astype(np.int32)
    rng = np.random.default_rng(seed % 2**64)
    num_rows, num_cells = len(labels), len(sizes)
    draw_cells = num_cells * _ROWS_PER_BINOMIAL < num_rows

    counts = np.empty((resamples, 3 * num_classes), dtype=np.int64)
    for chunk in row_chunks(resamples, draws_each=num_cells if draw_cells else num_rows):
        num_draws = chunk.stop - chunk.start
        if draw_cells:
            drawn = rng.multinomial(num_rows, sizes / num_rows, size=num_draws)  # [draws, cells]
        else:  # nearly as many cells as rows: drawing rows is faster
            cells = cell_of_row[rng.integers(num_rows, size=(num_draws, num_rows), dtype=np.int32)].astype(np.int64)
            cells += num_cells * np.arange(num_draws)[:, None]
            drawn = np.bincount(cells.ravel(), minlength=num_draws * num_cells).reshape(num_draws, num_cells)
        counts[chunk] = drawn @ classes_of_cell
    return split_counts(counts)


def split_counts(counts: np.ndarray) -> Counts:
    """Split counts [..., 3 * classes] into true positives, support and predictions, each [..., classes]."""
    true_positives, support, predicted = np.split(counts, 3, axis=-1)
    return true_positives, support, predicted


def resample_scores(scores: WeightedScores, num_rows: int, *, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Return the scores of bootstrap resamples of the rows, by name, each [resamples]."""
    chunks = [scores(weights) for weights in resample_weights(num_rows, resamples=resamples, seed=seed)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def resample_means(values: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """Return the means of bootstrap resamples of `values` [rows], float64 [resamples]."""
    chunks = resample_rows(len(values), resamples=resamples, seed=seed)
    return np.concatenate([values[rows].mean(axis=1) for rows in chunks])


def resample_rows(num_rows: int, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield bootstrap resamples as row numbers, int32, in chunks [some resamples, rows]."""
    rng = np.random.default_rng(seed % 2**64)
    for chunk in row_chunks(resamples, draws_each=num_rows):
        yield rng.integers(num_rows, size=(chunk.stop - chunk.start, num_rows), dtype=np.int32)


def resample_weights(num_rows: int, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the resamples of `resample_rows` as counts of each row, float64, in chunks [some resamples, rows]."""
    for rows in resample_rows(num_rows, resamples=resamples, seed=seed):
        offsets = num_rows * np.arange(len(rows))[:, None]
        yield np.bincount((rows + offsets).ravel(), minlength=rows.size).reshape(rows.shape).astype(np.float64)


def row_chunks(resamples: int, *, draws_each: int) -> list[slice]:
    """Cut range(resamples) into chunks whose draws fit into a cache; the draws do not depend on the chunks."""
    size = max(1, _DRAWS_AT_ONCE // draws_each)
    return [slice(start, min(start + size, resamples)) for start in range(0, resamples, size)]


def class_indicator(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> sparse.csr_array:
    """Return true positives, support and predictions of each class in each row: sparse [rows, 3 * classes]."""
    examples = np.arange(len(labels))
    correct = labels == predictions
    rows = np.concatenate([examples[correct], examples, examples])
    columns = np.concatenate([labels[correct], num_classes + labels, 2 * num_classes + predictions])
    ones = np.ones(len(rows), dtype=np.int64)
    return sparse.csr_array((ones, (rows, columns)), shape=(len(examples), 3 * num_classes))


def check_resamples(resamples: int, *, at_least: int = 1) -> None:
    """Refuse too few resamples."""
    if resamples < at_least:
        raise ConfigError(
            f"Expected {at_least} or more resamples, found {resamples}. Pass resamples=2000, the default."
        )


def percentile_interval(scores: np.ndarray, *, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the low and the high end of the percentile interval of scores [resamples, ...], each [...].

    Quantiles are interpolated linearly, as in numpy. Undefined scores (NaN) are left out; if all are undefined, both
    ends are NaN. `confidence` is the fraction of scores inside the interval.

    Raises:
        ConfigError: If `confidence` is not between 0 and 1.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    if not 0 < confidence < 1:
        raise ConfigError(
            f"Expected a confidence between 0 and 1, found {confidence}. Pass confidence=0.95 for 95 % intervals."
        )
    ascending = np.sort(scores, axis=0)  # NaN last
    last = np.maximum(np.count_nonzero(~np.isnan(scores), axis=0) - 1, 0)
    low, high = (_quantile(ascending, last, q) for q in ((1 - confidence) / 2, (1 + confidence) / 2))
    return low, high


def _quantile(ascending: np.ndarray, last: np.ndarray, q: float) -> np.ndarray:
    position = np.asarray(q * last)
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, last)
    lower = np.take_along_axis(ascending, below[None], axis=0)[0]
    upper = np.take_along_axis(ascending, above[None], axis=0)[0]
    return np.asarray(lower + (upper - lower) * (position - below))
