import numpy as np

from nlptl.evaluation.label_errors import rank_label_errors


def test_confident_of_another_class():
    probabilities = np.array(
        [[0.9, 0.1], [0.8, 0.2], [0.05, 0.95], [0.1, 0.9], [0.2, 0.8], [0.97, 0.03], [0.55, 0.45], [0.5, 0.5]]
    )
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    wrong, likely, margins = rank_label_errors(labels, probabilities)
    # Mean probability of the label: 0.5625 for class 0, 0.545 for class 1. That of example 6 is below it in both.
    assert wrong.tolist() == [5, 2]
    assert likely.tolist() == [0, 1]
    np.testing.assert_allclose(margins, [0.8, 0.6, -0.9, 0.8, 0.6, -0.94, -0.1, 0.0])


def test_planted_errors_in_three_classes_are_first():
    draw = np.random.default_rng(0)
    truth = draw.integers(3, size=600)
    probabilities = draw.dirichlet(np.ones(3), size=600) * 0.4
    probabilities[np.arange(600), truth] += 0.6
    labels = truth.copy()
    labels[:30] = (truth[:30] + 1) % 3
    wrong, likely, margins = rank_label_errors(labels, probabilities)
    # Of these, some half are as probable in their true class as the others are on average.
    assert set(wrong.tolist()) <= set(range(30))
    assert len(wrong) >= 12
    assert (likely == truth[wrong]).all()
    assert margins[:30].max() < margins[30:].min()
    assert (np.diff(margins[wrong]) >= 0).all()


def test_the_labels_are_right():
    wrong, likely, _ = rank_label_errors(np.array([0, 1]), np.array([[0.6, 0.4], [0.3, 0.7]]))
    assert wrong.tolist() == likely.tolist() == []
