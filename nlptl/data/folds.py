"""Cross-validation: every text is in the test split of one of several folds, class by class and group by group."""

import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from nlptl.config import TaskKind
from nlptl.data.sources import Examples, join
from nlptl.data.targets import label_sets, strata
from nlptl.errors import DataError

logger = logging.getLogger(__name__)


def take_fold(
    parts: Mapping[str, Examples], *, fold: int, folds: int, seed: int, task: TaskKind
) -> dict[str, Examples]:
    """Return train and test of one fold of all texts but those of a given test split, which are left out.

    Each fold has its share of each class (of several labels the rarest counts, of scores the tenth that they are in),
    and all texts of a group or none. A text without which train would lack a label is in train in every fold.

    `parts` are "train", and "validation" and "test" where the data has them. Folds are counted from 1.

    Raises:
        DataError: If there are fewer texts or groups than folds.
    """
    given = [parts[name] for name in ("train", "validation") if name in parts]
    pool = replace(join(given), source=given[0].source)
    if "test" in parts:
        count = f"{len(parts['test']):,}"
        logger.info("%s: its test split of %s texts is not part of the cross-validation", pool.source, count)
    num_units, unit = (len(set(pool.groups)), "groups") if pool.groups else (len(pool), "texts")
    if num_units < folds:
        expected = f"Expected {folds} or more {unit} in {pool.source} for {folds} folds"
        raise DataError(f"{expected}, found {num_units}. Pass fewer --folds.")
    tested = _fold_of_each(pool, folds, seed, task) == fold - 1
    if not pool.groups:
        tested &= ~_is_last(pool, tested, task)
    logger.info("fold %d of %d: %s of %s texts are tested", fold, folds, f"{tested.sum():,}", f"{len(pool):,}")
    return {
        "train": pool.select(np.flatnonzero(~tested)),
        "test": replace(pool.select(np.flatnonzero(tested)), split="test"),
    }


def _fold_of_each(pool: Examples, folds: int, seed: int, task: TaskKind) -> np.ndarray:
    """Return the number of the fold in which each text is tested, int64 [texts]."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    kinds = _frequent(strata(pool.labels, task), folds)
    splitter = StratifiedGroupKFold if pool.groups else StratifiedKFold
    numbers = np.empty(len(pool), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # for data of a single kind with fewer texts than folds
        folded = splitter(folds, shuffle=True, random_state=seed % 2**32).split(kinds, kinds, pool.groups or None)
        for number, (_, chosen) in enumerate(folded):
            numbers[chosen] = number
    return numbers


def _frequent(kinds: list[str], folds: int) -> list[str]:
    """Return kinds of texts with at least one text for every fold each: rarer kinds count as one."""
    counts = Counter(kinds)
    num_rare = sum(count for count in counts.values() if count < folds)
    together = "rare" if num_rare >= folds else f"={counts.most_common(1)[0][0]}"
    return [f"={kind}" if counts[kind] >= folds else together for kind in kinds]


def _is_last(pool: Examples, tested: np.ndarray, task: TaskKind) -> np.ndarray:
    """Return which of the tested texts have a label that no text in train would have, bool [texts]."""
    sets = label_sets(pool.labels, task)
    in_train = {label for labels, is_tested in zip(sets, tested, strict=True) if not is_tested for label in labels}
    moved = np.zeros(len(sets), dtype=bool)
    for i in np.flatnonzero(tested):
        if not in_train.issuperset(sets[i]):
            moved[i] = True
            in_train.update(sets[i])
    return moved
