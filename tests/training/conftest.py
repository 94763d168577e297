"""Splits of the toy data, models on a tiny encoder, and quick garbage collection."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nlptl import Classifier, Splits, load_splits
from tests.conftest import options


@pytest.fixture(scope="module", autouse=True)
def _quick_garbage_collection() -> Iterator[None]:
    """Leave what is imported out of the garbage collection that ends every training: 0.3 s of it each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def splits(toy_csv: Path) -> Splits:
    """Return 96 examples to train on, 12 for validation, 12 for test."""
    return load_splits(toy_csv, seed=0)


@pytest.fixture
def build_model(tiny_bert: Path) -> Callable[..., Classifier]:
    """Return a classifier over a tiny BERT."""

    def build(**settings: object) -> Classifier:
        return Classifier.from_pretrained(tiny_bert, **options(**{"labels": ("negative", "positive"), **settings}))

    return build
