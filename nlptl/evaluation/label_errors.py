"""Which labels are likely wrong: confident learning on probabilities of models that have not seen the example."""

import numpy as np


def rank_label_errors(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which examples likely have a wrong label, the most likely first.

    An example is confidently of a class if its probability there is at least the mean of that of all examples with this
    label; its label is likely wrong if another class than the label is the most probable of those (Northcutt, Jiang and
    Chuang 2021, Confident Learning, doi:10.1613/jair.1.12125).

    Args:
        labels: Label ids as given [examples]; each class has an example.
        probabilities: Those of models that were fitted without the example [examples, classes].

    Returns:
        The indices of these examples, the class that each likely is of, and for all examples by how much the given
        label is more probable than the best other class, from -1 to 1: the lower, the likelier is an error.
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
