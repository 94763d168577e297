"""Scores as `evaluate.Metric` modules, without downloads.

`evaluate.load("accuracy")` downloads and runs a script from the Hub; these classes return the same numbers offline,
alone or in `evaluate.combine`. Importing evaluate takes seconds, so import this file only where it is used.
"""

import datasets
import evaluate
import numpy as np

from nlptl.errors import DataError
from nlptl.evaluation.metrics import count_classes, from_counts


class _ClassMetric(evaluate.Metric):
    """Returns one score of `from_counts` under its name, which is also the name of the module."""

    score: str

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="",
            inputs_description="\nPredictions and references are class ids: any integers.\n",
            features=datasets.Features({"predictions": ids, "references": ids}),
            format="numpy",
        )

    def _build_data_dir(self) -> str:
        # evaluate 0.4.6 creates its cache folder even if it keeps everything in memory.
        return "" if self.keep_in_memory else str(super()._build_data_dir())

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        if len(references) == 0:
            raise DataError("Expected one example or more to score, found none. Call add_batch with rows first.")
        classes, ids = np.unique(np.concatenate([references, predictions]), return_inverse=True)
        labels, predicted = np.split(ids, 2)
        counts = count_classes(labels, predicted, num_classes=len(classes))
        return {self.score: float(from_counts(*counts)[self.score])}


class Accuracy(_ClassMetric):
    """Share of correct predictions."""

    score = "accuracy"


class MacroF1(_ClassMetric):
    """Unweighted mean of the F1 of each class that occurs in predictions or references."""

    score = "macro_f1"


class WeightedF1(_ClassMetric):
    """Mean of the F1 of each class, weighted by the number of its references."""

    score = "weighted_f1"


class Precision(_ClassMetric):
    """Unweighted mean of the precision of each class that occurs in predictions or references."""

    score = "precision"


class Recall(_ClassMetric):
    """Unweighted mean of the recall of each class that occurs in predictions or references."""

    score = "recall"


class Matthews(_ClassMetric):
    """Matthews correlation coefficient for any number of classes; 0 where it is undefined."""

    score = "matthews"
