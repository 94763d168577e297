"""Token ids are made once for a split, and are those of the tokenizer wherever they come from."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nlptl import Classifier, Examples, Trainer, TrainingConfig, cli
from nlptl.data.tokens import Tokens
from nlptl.training import token_cache
from nlptl.training.cache import FeatureCache, entries
from nlptl.training.inputs import prepare_inputs
from nlptl.training.token_cache import token_key, tokenize_once

WORDS = ["good", "bad", "film", "story", "great", "dull", "plot", "was", "not", "very", "[SEP]", "\u00e9"]
TEXTS = [" ".join(WORDS[(i * 7 + 3 * k) % 12] for k in range((i * 5) % 14)) for i in range(103)]
EXAMPLES = Examples.from_lists(TEXTS, ["negative", "positive", *["negative"] * 101])
FEW = 2
"""Texts that are tokenized in any case: the first one, to compare, and an empty one, for the key."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache few texts too, and tokenize them in several parts."""
    monkeypatch.setattr(token_cache, "MIN_CHARACTERS", 1)
    monkeypatch.setattr(token_cache, "TEXTS_PER_CALL", 10)


@pytest.fixture
def build(build_model: Callable[..., Classifier]) -> Callable[..., Classifier]:
    """Return a classifier whose `calls` counts the texts that its tokenizer has tokenized."""

    def counting(**settings: object) -> Classifier:
        model = build_model(**{"max_length": 9, **settings})
        model.calls = 0
        real = model.tokenizer._encode_plus

        def count(text: list[str], **kwargs: object) -> object:
            model.calls += len(text)
            return real(text, **kwargs)

        model.tokenizer._encode_plus = count
        return model

    return counting


def same(one: Tokens, two: Tokens) -> bool:
    arrays = all(np.array_equal(getattr(one, name), getattr(two, name)) for name in ("ids", "offsets", "lengths"))
    return arrays and one.truncation() == two.truncation() and len(one) == len(two)


def files(folder: Path) -> list[Path]:
    return sorted((folder / "features").glob("*/*.int*"))


def test_ids_are_tokenized_once(build, feature_cache, caplog):
    caplog.set_level(logging.INFO)
    expected = build().tokenize(TEXTS)
    first, second = build(), build(freeze="encoder", labels=("a", "b", "c"))
    assert same(tokenize_once(first, EXAMPLES, FeatureCache(gigabytes=1)), expected)
    assert caplog.messages == []
    assert same(tokenize_once(second, EXAMPLES, FeatureCache(gigabytes=1)), expected)
    assert (first.calls, second.calls) == (len(TEXTS) + FEW, FEW)
    assert caplog.messages == [f"train: token ids of 103 texts from the cache in {feature_cache}"]
    assert [path.name[:7] for path in files(feature_cache)] == ["000000-", "000001-"]


def test_ids_of_chunks_are_cached(build):
    settings = {"long_text": "chunks", "chunk_overlap": 2, "max_chunks": 2}
    first, second = build(**settings), build(**settings)
    expected = build(**settings).tokenize(TEXTS)
    for model in (first, second):
        assert same(tokenize_once(model, EXAMPLES, FeatureCache(gigabytes=1)), expected)
    assert (first.calls, second.calls) == (len(TEXTS) + FEW, FEW)
    assert expected.lengths.max() > 9


def test_ids_are_mapped_from_the_file(build, feature_cache):
    tokens = tokenize_once(build(), EXAMPLES, FeatureCache(gigabytes=1))
    assert not tokens.ids.flags.owndata
    maps = Path("/proc/self/maps").read_text()  # of this process, on Linux
    assert all(str(path) in maps for path in files(feature_cache))


def test_few_texts_are_not_cached(build, monkeypatch, feature_cache):
    monkeypatch.setattr(token_cache, "MIN_CHARACTERS", sum(map(len, TEXTS)) + 1)
    model = build()
    assert same(tokenize_once(model, EXAMPLES, FeatureCache(gigabytes=1)), build().tokenize(TEXTS))
    assert model.calls == len(TEXTS)
    assert not feature_cache.exists()
    monkeypatch.setattr(token_cache, "MIN_CHARACTERS", sum(map(len, TEXTS)))
    tokenize_once(model, EXAMPLES, FeatureCache(gigabytes=1))
    assert feature_cache.exists()


def test_without_a_cache_nothing_is_written(build, feature_cache):
    assert same(tokenize_once(build(), EXAMPLES, None), build().tokenize(TEXTS))
    assert not feature_cache.exists()


@pytest.mark.parametrize(
    "change",
    ["texts", "order", "max_length", "long_text", "overlap", "chunks", "vocabulary", "tokenizers", "transformers"],
)
def test_what_would_give_other_ids_misses(change, build, monkeypatch):
    before = token_key(build(), EXAMPLES)
    assert token_key(build(seed=3, hidden=16, pooling="mean"), EXAMPLES) == before
    if change == "texts":
        after = token_key(build(), Examples.from_lists([*TEXTS[:-1], TEXTS[-1].upper() + " x"], EXAMPLES.labels))
    elif change == "order":
        after = token_key(build(), EXAMPLES.select([1, 0, *range(2, 103)]))
    elif change == "max_length":
        after = token_key(build(max_length=10), EXAMPLES)
    elif change == "long_text":
        after = token_key(build(long_text="head-tail"), EXAMPLES)
    elif change in ("overlap", "chunks"):
        before = token_key(build(long_text="chunks"), EXAMPLES)
        other = {"chunk_overlap": 3} if change == "overlap" else {"max_chunks": 2}
        after = token_key(build(long_text="chunks", **other), EXAMPLES)
        assert before != token_key(build(), EXAMPLES) != after
    elif change == "vocabulary":
        model = build()
        model.tokenizer.add_tokens(["unheard"])
        after = token_key(model, EXAMPLES)
    else:
        monkeypatch.setattr(getattr(token_cache, change), "__version__", "99")
        after = token_key(build(), EXAMPLES)
    assert after != before


def test_a_repeated_training_has_the_same_bytes(build, splits, tmp_path):
    """The tokenizer is saved as it was used last: with its truncation, also if all ids came from the cache."""
    found = []
    for name, cache in (("cold", True), ("warm", True), ("none", False)):
        model, config = build(seed=1), TrainingConfig(num_epochs=1, cache=cache)
        trainer = Trainer(model, config, output_dir=tmp_path / name, seed=1)
        trainer.fit(splits["train"], validation=splits["validation"])
        trainer.evaluate(splits["test"])
        names = ("model/model.safetensors", "model/tokenizer.json", "predictions.csv", "scores.json")
        found.append([(tmp_path / name / file).read_bytes() for file in names])
    assert found[0] == found[1] == found[2]


def test_truncation_is_recorded_from_the_cache_too(build, splits):
    shares = [
        prepare_inputs(build(), splits["train"], None, cache=cache).tokens.truncation()
        for cache in (None, FeatureCache(gigabytes=1), FeatureCache(gigabytes=1))
    ]
    assert shares[0] == shares[1] == shares[2]
    assert shares[0]["cut_texts"] > 0


def test_list_and_clear(build, tiny_bert, feature_cache, capsys):
    tokenize_once(build(), EXAMPLES, FeatureCache(gigabytes=1))
    cli.main(["cache", "list"])
    _, _, row, _ = capsys.readouterr().out.splitlines()
    assert row.startswith(str(tiny_bert))
    assert row.split()[1:7] == ["train", "103", "none,", "token", "ids", "-"]
    cli.main(["cache", "clear"])
    assert capsys.readouterr().out.startswith("removed 1 entry, ")
    assert list(feature_cache.iterdir()) == []


def test_size_is_bounded(build, feature_cache):
    tokenize_once(build(), EXAMPLES, FeatureCache(gigabytes=1))
    tokenize_once(build(max_length=12), EXAMPLES, FeatureCache(gigabytes=1e-6))
    (entry,) = entries(feature_cache)
    assert json.loads((entry.path / "entry.json").read_text())["texts"] == 103
    model = build(max_length=12)
    tokenize_once(model, EXAMPLES, FeatureCache(gigabytes=1))
    assert model.calls == FEW
