"""Split conformal prediction: sets of labels that hold the true one with a stated probability, whatever the model."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from nlptl.errors import ConfigError, DataError

ConformalScore = Literal["lac", "aps"]


@dataclass(frozen=True)
class PredictionSets:
    """Which labels are in the set of a text: those whose score is at most `quantile`.

    Raises:
        ConfigError: If a number is out of range.
    """

    score: ConformalScore
    coverage: float
    """With which probability the label of a new text is in its set."""
    quantile: float
    n: int
    """Texts that the quantile was taken of."""

    def __post_init__(self) -> None:
        if not (0 < self.coverage < 1 and 0 <= self.quantile <= 1 and self.n > 0):
            raise ConfigError(f"Expected coverage and quantile between 0 and 1, found {self}. Calibrate once more.")

    def of(self, probabilities: np.ndarray) -> np.ndarray:
        """Return which labels are in the set of each row, bool [rows, labels]."""
        return label_scores(probabilities, self.score) <= self.quantile


def label_scores(probabilities: np.ndarray, score: ConformalScore) -> np.ndarray:
    """Return how little each label conforms to the probabilities of its row, [rows, labels].

    "lac" is 1 - p of the label: sets are the smallest on average (Sadinle, Lei and Wasserman 2019, arXiv:1609.00451).
    "aps" is the sum of the probabilities down to the label's, from the largest on: sets grow where a text is difficult
    (Romano, Sesia and Candes 2020, arXiv:2006.02544, equation 5, without the random number, so that a text always gets
    the same set; the sets are then larger than they need be).
    """
    if score == "lac":
        return np.asarray(1 - probabilities)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    sums = np.take_along_axis(probabilities, order, axis=1).cumsum(axis=1).clip(max=1)
    sums[:, -1] = 1  # whatever rounding has made of it
    scores = np.empty_like(sums)
    np.put_along_axis(scores, order, sums, axis=1)
    return scores


def fit_prediction_sets(
    targets: np.ndarray, probabilities: np.ndarray, *, coverage: float, score: ConformalScore = "lac"
) -> PredictionSets:
    """Return the sets that hold the label of a new text with probability `coverage` or more.

    The quantile is the ceil((rows + 1) coverage)-th smallest score of the labels. With fewer rows than that, no number
    of them suffices, and the sets hold all labels. The statement is about rows and new texts that come from one source
    in a random order, and about a model on which these rows had no influence.

    Args:
        targets: Label ids, integers [rows].
        probabilities: [rows, labels].
        coverage: Between 0 and 1.
        score: "lac" or "aps".

    Raises:
        DataError: If targets and probabilities do not fit each other.
        ConfigError: If `coverage` is not between 0 and 1.

    Source:
        Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World; Angelopoulos and Bates 2021,
        arXiv:2107.07511, section 1.
    """
    num_rows = len(targets)
    if targets.ndim != 1 or probabilities.ndim != 2 or len(probabilities) != num_rows or num_rows == 0:
        raise DataError(
            f"Expected label ids [rows] and probabilities [rows, labels], found shapes {list(targets.shape)} and "
            f"{list(probabilities.shape)}. Pass one row of probabilities for each label."
        )
    scores = np.sort(label_scores(probabilities, score)[np.arange(num_rows), targets])
    rank = max(1, int(np.ceil((num_rows + 1) * coverage - 1e-9)))  # 0.9 * 10 is 9, not 10, whatever floats make of it
    quantile = float(scores[rank - 1]) if rank <= num_rows else 1.0
    return PredictionSets(score, coverage, quantile, num_rows)
