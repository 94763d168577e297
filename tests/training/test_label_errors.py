"""Labels that are likely wrong, found with a frozen encoder."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from nlptl import Classifier
from nlptl.data.samples import sample_dataset
from nlptl.training.label_errors import find_label_errors


@pytest.mark.nightly
def test_planted_errors_in_real_data():
    draw = np.random.default_rng(0)
    examples = sample_dataset("sample:bbc_news")
    examples = examples.select(np.sort(draw.permutation(len(examples))[:600]))
    names, labels = sorted(set(examples.labels)), list(examples.labels)
    flipped = draw.permutation(600)[:30]
    for i in flipped:
        labels[i] = draw.choice([name for name in names if name != labels[i]])
    model = Classifier.from_pretrained("sample:minilm", labels=names, max_length=64, freeze="encoder")
    suspects, margins = find_label_errors(model, examples.texts, labels)
    is_flipped = np.isin(np.arange(600), flipped)
    assert roc_auc_score(is_flipped, -margins) >= 0.85
    assert np.mean([is_flipped[each.place] for each in suspects]) >= 0.5
    right = [each.likely == examples.labels[each.place] for each in suspects if is_flipped[each.place]]
    assert np.mean(right) >= 0.9


def test_rare_classes_are_not_judged(tiny_bert, caplog):
    model = Classifier.from_pretrained(tiny_bert, labels=["a", "b", "c"], freeze="encoder")
    texts = [f"the film was {'good' if i % 2 else 'bad'}" for i in range(24)]
    labels = ["ab"[i % 2] for i in range(20)] + ["c"] * 4
    suspects, margins = find_label_errors(model, texts, labels)
    assert suspects == []
    assert np.isnan(margins[20:]).all()
    assert (margins[:20] > 0).all()
    suspects, margins = find_label_errors(model, texts[:12], ["a"] * 8 + ["b"] * 4)
    assert suspects == []
    assert np.isnan(margins).all()
    assert "fewer than two classes have 5 examples" in caplog.text


def test_the_same_seed_gives_the_same(tiny_bert, splits):
    model = Classifier.from_pretrained(tiny_bert, labels=splits.labels, freeze="encoder")
    labels = list(splits["train"].labels)
    labels[3] = "negative" if labels[3] == "positive" else "positive"
    first, second = (find_label_errors(model, splits["train"].texts, labels, seed=1) for _ in range(2))
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1], second[1])
