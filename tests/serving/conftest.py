"""A model folder to serve."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model_dir(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a saved classifier whose head is random: what it says is fixed, not sensible."""
    from nlptl import Classifier

    folder = tmp_path_factory.mktemp("serving") / "model"
    Classifier.from_pretrained(tiny_bert, labels=["negative", "positive"], seed=4).save(folder)
    return folder
