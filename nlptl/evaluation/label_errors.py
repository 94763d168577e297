"""Find labels that are likely wrong, by confident learning on out-of-sample probabilities."""

import numpy as np


def rank_label_errors(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the examples whose label is likely wrong, the most likely first.

    An example confidently belongs to a class if its probability is at least the mean probability of all examples with
    that label. Its label is likely wrong if the most probable such class is not its label (Northcutt, Jiang and Chuang
    2021, Confident Learning, doi:10.1613/jair.1.12125).

    Args:
        labels: Label ids as given [examples]; each class has an example.
        probabilities: Predicted by models that were fitted without the example [examples, classes].

    Returns:
        The indices of these examples; the likely class of each; and for all examples the probability of the label minus
        that of the best other class, from -1 (likely an error) to 1.
    """
    index = np.arange(len(labels))
    own = probabilities[index, labels]
    others = probabilities.copy()
    others[index, labels] = -1.0
    margins = own - others.max(axis=1)
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    thresholds = np.bincount(labels, weights=own, minlength=probabilities.shape[1]) / counts
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    likely = confident.argmax(axis=1)
    is_wrong = (confident.max(axis=1) >= 0) & (likely != labels)
    wrong = np.flatnonzero(is_wrong)
    wrong = wrong[np.argsort(margins[wrong], kind="stable")]
    return wrong, likely[wrong], margins
