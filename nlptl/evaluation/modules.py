"""The scores as `evaluate.Metric` modules: for code that speaks the interface of evaluate, without its download.

`evaluate.load("accuracy")` fetches a script from the Hub and runs it; these classes give the same numbers offline,
alone or in `evaluate.combine`. Importing evaluate takes seconds, so import this file only where it is used.
"""

import datasets
import evaluate
import numpy as np

from nlptl.errors import DataError
from nlptl.evaluation.metrics import count_classes, from_counts


class _ClassMetric(evaluate.Metric):
    """One score of `from_counts`; its name is the name of the module and the key of the output."""

    score: str
    summary: str

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=self.summary,
            citation="",
            inputs_description="\nPredictions and references are class ids; any integers, each value being a class.\n",
            features=datasets.Features({"predictions": ids, "references": ids}),
            format="numpy",
        )

    def _build_data_dir(self) -> str:
        # evaluate 0.4.6 creates its cache folder even where it will keep everything in memory.
        return "" if self.keep_in_memory else str(super()._build_data_dir())

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        if len(references) == 0:
            raise DataError("Expected one example or more to score, found none. Call add_batch with rows first.")
        classes, ids = np.unique(np.concatenate([references, predictions]), return_inverse=True)
        labels, predicted = np.split(ids, 2)
        counts = count_classes(labels, predicted, num_classes=len(classes))
        return {self.score: float(from_counts(*counts)[self.score])}


class Accuracy(_ClassMetric):
    """Share of the predictions that are right."""

    score = "accuracy"
    summary = "Share of the predictions that are right."


class MacroF1(_ClassMetric):
    """F1, averaged over the classes."""

    score = "macro_f1"
    summary = "F1 of each class, averaged over the classes that occur in predictions or references."


class WeightedF1(_ClassMetric):
    """F1, averaged over the examples."""

    score = "weighted_f1"
    summary = "F1 of each class, averaged with the number of its references as weight."


class Precision(_ClassMetric):
    """Precision, averaged over the classes."""

    score = "precision"
    summary = "Precision of each class, averaged over the classes that occur in predictions or references."


class Recall(_ClassMetric):
    """Recall, averaged over the classes."""

    score = "recall"
    summary = "Recall of each class, averaged over the classes that occur in predictions or references."


class Matthews(_ClassMetric):
    """Matthews correlation coefficient for any number of classes."""

    score = "matthews"
    summary = "Matthews correlation coefficient for any number of classes; 0 where it is undefined."
