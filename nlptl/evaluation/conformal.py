"""Split conformal prediction: sets of labels that contain the true one with a stated probability, for any model."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from nlptl.errors import ConfigError, DataError


@dataclass(frozen=True)
class PredictionSets:
    """Sets of the labels whose score, 1 - probability, is at most `quantile`.

    Raises:
        ConfigError: If a number is out of range.

    Source:
        Sadinle, Lei and Wasserman 2019, arXiv:1609.00451: the smallest sets on average.
    """

    score: Literal["lac"]
    """The name of the score in the literature."""
    coverage: float
    """Probability that the set of a new text contains its label."""
    quantile: float
    n: int
    """Number of texts from which the quantile was taken."""

    def __post_init__(self) -> None:
        if not (0 < self.coverage < 1 and 0 <= self.quantile <= 1 and self.n > 0):
            raise ConfigError(f"Expected coverage and quantile between 0 and 1, found {self}. Calibrate again.")

    def of(self, probabilities: np.ndarray) -> np.ndarray:
        """Return which labels are in the set of each row, bool [rows, labels]."""
        return np.asarray(1 - probabilities <= self.quantile)


def fit_prediction_sets(targets: np.ndarray, probabilities: np.ndarray, *, coverage: float) -> PredictionSets:
    """Return the sets that contain the label of a new text with probability `coverage` or more.

    The quantile is the ceil((rows + 1) coverage)-th smallest score of the labels; with fewer rows the sets contain all
    labels. The guarantee requires that rows and new texts are exchangeable, and that the rows had no influence on the
    model.

    `targets` are label ids [rows], `probabilities` [rows, labels]; `coverage` is between 0 and 1.

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
    scores = np.sort(1 - probabilities[np.arange(num_rows), targets])
    rank = max(1, int(np.ceil((num_rows + 1) * coverage - 1e-9)))  # 0.9 * 10 counts as 9, even if it rounds up
    quantile = float(scores[rank - 1]) if rank <= num_rows else 1.0
    return PredictionSets("lac", coverage, quantile, num_rows)
