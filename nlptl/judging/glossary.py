"""The words of a report for kinds of tasks, scores and costs."""

TASKS = {
    "single_label": "one label for each text",
    "ordinal": "one label for each text, out of labels in an order",
    "multi_label": "any number of labels for each text",
    "regression": "a number, or several, for each text",
    "tokens": "a tag for each word",
}

METRICS = {
    "accuracy": "share of the texts whose label is predicted",
    "macro_f1": "F1, the harmonic mean of precision and recall, averaged over the classes: rare ones count as much",
    "weighted_f1": "F1 averaged over the classes in proportion to their texts",
    "micro_precision": "share of the given labels that are right",
    "micro_recall": "share of the true labels that are given",
    "micro_f1": "F1 over all pairs of a text and a label: frequent labels count more",
    "samples_f1": "F1 of the labels of each text, averaged over the texts",
    "precision": "share of the texts predicted as a class that are of it, averaged over the classes",
    "recall": "share of the texts of a class that are predicted as it, averaged over the classes",
    "matthews": "correlation of labels and predictions: 0 for guessing, 1 for no mistake",
    "log_loss": "mean of minus the logarithm of the probability given to the label; lower is better",
    "quadratic_kappa": "agreement beyond chance, a mistake counting as the square of its distance: 1 for no mistake",
    "mae": "mean distance between prediction and truth; lower is better",
    "rmse": "root of the mean squared distance between prediction and truth; lower is better",
    "r2": "share of the variance of the scores that is predicted: 0 for always saying their mean",
    "pearson": "linear correlation of prediction and truth",
    "spearman": "correlation of the ranks of prediction and truth",
    "average_precision": "area under the curve of precision over recall, averaged over the labels",
    "subset_accuracy": "share of the texts of which every label is right",
    "hamming_loss": "share of wrong decisions over all pairs of a text and a label; lower is better",
    "span_f1": "F1 of whole spans: borders and type must both be right",
    "span_precision": "share of the predicted spans that are right",
    "span_recall": "share of the true spans that are found",
    "token_accuracy": "share of the words whose tag is right",
    "ece": "expected calibration error: mean distance between the probability given and the share that is right",
    "brier": "mean squared distance between the probabilities and what is true; lower is better",
}

COSTS = {
    "train_seconds": "training",
    "test_seconds": "scoring test",
    "test_texts_per_second": "texts per second on test",
    "peak_memory_bytes": "peak memory",
    "parameters": "parameters",
    "trainable_parameters": "parameters that trained",
}


WRITTEN = {
    "ece": "ECE",
    "f1": "F1",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R\u00b2",
    "brier": "Brier score",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "matthews": "Matthews correlation",
}
"""Names of scores that are not written as in settings and files."""


def words(metric: str) -> str:
    """Return the name of a score as it is written in a sentence."""
    return WRITTEN.get(metric, metric.replace("_", " ").replace(" f1", " F1"))
