"""Features are computed once for a split and an encoder, and found again by runs that differ in the head alone."""

import json
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from nlptl import Classifier, Examples, Trainer, TrainingConfig, cli
from nlptl.model import inference
from nlptl.training import encoding
from nlptl.training.cache import FeatureCache, cache_folder, describe_size, entries
from nlptl.training.devices import open_accelerator
from nlptl.training.encoding import FrozenEncoder
from nlptl.training.inputs import encoder_sha256, logits_of, prepare_inputs

PARTS = 5


@pytest.fixture
def small_parts(monkeypatch):
    """Cut a split of 96 texts into `PARTS` parts of several micro-batches each."""
    monkeypatch.setattr(inference, "CPU_TOKENS", 128)
    monkeypatch.setattr(encoding, "MICRO_BATCHES_PER_PART", 3)


@pytest.fixture
def build(build_model):
    """Return a classifier over a frozen tiny BERT, which counts the calls of its encoder."""

    def count(model):
        model.calls = []
        model.network.base_model.register_forward_hook(lambda *_: model.calls.append(1))
        return model

    return lambda **settings: count(build_model(**{"freeze": "encoder", **settings}))


def encoder_of(model, cache=None):
    return FrozenEncoder(model, open_accelerator("no"), cache, encoder_sha256(model))


def encode(model, examples, cache):
    return encoder_of(model, cache).encode(prepare_inputs(model, examples, None))


def key(model, examples):
    return encoder_of(model).key(prepare_inputs(model, examples, None))


def part_files(folder):
    return sorted((folder / "features").glob("*/*.float32"))


@pytest.mark.parametrize("pooling", ["native", "cls", "mean", "max"])
def test_features_are_those_of_stock_transformers(pooling, build, splits, tiny_bert, small_parts, feature_cache):
    encoder, tokenizer = AutoModel.from_pretrained(tiny_bert).eval(), AutoTokenizer.from_pretrained(tiny_bert)
    model, examples = build(pooling=pooling), splits["train"]
    first, second = (encode(model, examples, FeatureCache(gigabytes=1)).features for _ in range(2))
    assert len(part_files(feature_cache)) == PARTS
    assert torch.equal(first, second)
    with torch.no_grad():
        for text, features in zip(examples.texts, second, strict=True):
            outputs = encoder(**tokenizer(text, return_tensors="pt"))
            hidden = outputs.last_hidden_state[0]
            expected = {
                "native": outputs.pooler_output[0],
                "cls": hidden[0],
                "mean": hidden.mean(dim=0),
                "max": hidden.amax(dim=0),
            }
            torch.testing.assert_close(features, expected[pooling], rtol=1e-5, atol=1e-5)


def test_second_encoding_calls_the_encoder_never(build, splits, small_parts, caplog, feature_cache):
    caplog.set_level(logging.INFO)
    first, second = build(), build(seed=7, labels=("a", "b", "c"), hidden=16, dropout=0.4, binary_loss="softmax")
    examples = splits["train"]
    renamed = Examples.from_lists(examples.texts, ["c", "a"] * 48)
    one, two = encode(first, examples, FeatureCache(gigabytes=1)), encode(second, renamed, FeatureCache(gigabytes=1))
    assert len(first.calls) > PARTS
    assert second.calls == []
    assert torch.equal(one.features, two.features)
    assert "train: running the frozen encoder once over 96 texts" in caplog.messages
    assert f"train: features of 96 texts from the cache in {feature_cache}" in caplog.messages


def test_features_in_memory_and_from_disk_have_the_same_bits(build, splits, small_parts, feature_cache):
    plain = encode(build(), splits["train"], None).features
    assert not feature_cache.exists()
    cached = [encode(build(), splits["train"], FeatureCache(gigabytes=1)).features for _ in range(2)]
    assert all(torch.equal(plain, features) for features in cached)


def test_many_features_are_in_a_file_without_a_name(build, splits, small_parts, monkeypatch, feature_cache):
    expected = encode(build(), splits["train"], FeatureCache(gigabytes=1)).features
    monkeypatch.setattr(encoding, "LARGE_BYTES", expected.nbytes - 1)
    for cache in (FeatureCache(gigabytes=1), None):
        found = encode(build(), splits["train"], cache).features
        assert torch.equal(found, expected)
        assert f"{feature_cache}/.nlptl-mapped-" in Path("/proc/self/maps").read_text()  # of this process, on Linux
        del found
    assert [path.name for path in feature_cache.iterdir()] == ["features"]


def test_many_features_without_room_for_a_file_stay_in_memory(build, splits, monkeypatch, caplog, feature_cache):
    expected = encode(build(), splits["train"], None).features
    monkeypatch.setattr(encoding, "LARGE_BYTES", 100)
    feature_cache.write_text("in the way")
    assert torch.equal(encode(build(), splits["train"], None).features, expected)
    assert caplog.messages == [f"keeping 0 MB of features in memory: there is no space in {feature_cache}"]


def test_logits_from_features_are_those_from_texts(build, splits):
    model, accelerator = build(), open_accelerator("no")
    inputs = prepare_inputs(model, splits["test"], None)
    expected = logits_of(model, inputs, accelerator)
    for _ in range(2):
        cached = encode(model, splits["test"], FeatureCache(gigabytes=1))
        torch.testing.assert_close(logits_of(model, cached, accelerator), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"freeze": "nothing"},
        {"freeze": 2},
        {"pooling": "attention"},
        {"long_text": "chunks", "chunk_pooling": "attention"},
    ],
    ids=str,
)
def test_what_changes_in_training_is_not_cached(settings, build, splits, feature_cache):
    assert encode(build(**settings), splits["test"], FeatureCache(gigabytes=1)).features is None
    assert not feature_cache.exists()


def test_float64_stays_float64(build, splits):
    for model in (build().double(), build().double()):
        found = encode(model, splits["test"], FeatureCache(gigabytes=1)).features
        assert found.dtype == torch.float64
    assert model.calls == []
    assert key(build(), splits["test"]) != key(model, splits["test"])


def edit(examples, i, change):
    texts = list(examples.texts)
    texts[i] = change(texts[i])
    return Examples.from_lists(texts, examples.labels)


@pytest.mark.parametrize(
    "change",
    [
        lambda e: edit(e, 5, lambda text: text.replace("the", "a", 1) if "the" in text else f"{text} a"),
        lambda e: edit(e, 5, str.upper),
        lambda e: e.select([1, 0, *range(2, len(e))]),
        lambda e: e.select(range(len(e) - 1)),
    ],
    ids=["word", "case, which the tokenizer does not see", "order", "one fewer"],
)
def test_other_texts_miss(change, build, splits):
    examples = splits["train"]
    model = build()
    assert key(model, change(examples)) != key(model, examples) == key(build(), examples)


@pytest.mark.parametrize(
    "settings", [{"max_length": 24}, {"max_length": 63}, {"pooling": "max"}, {"pooling": "cls"}, {"layers": 2}], ids=str
)
def test_other_settings_of_the_encoder_miss(settings, build, splits):
    assert key(build(**settings), splits["train"]) != key(build(max_length=64), splits["train"])


def test_other_settings_of_chunks_miss(build, splits):
    """Also if no text has more than one."""
    chunks = ({}, {"chunk_pooling": "max"}, {"max_length": 10}, {"max_length": 10, "chunk_overlap": 1})
    models = [build(long_text="chunks", **settings) for settings in chunks]
    assert len({key(model, splits["train"]) for model in [*models, build(), build(max_length=10)]}) == 6
    assert key(build(long_text="chunks", seed=3, hidden=4), splits["train"]) == key(models[0], splits["train"])


@pytest.mark.parametrize("chunk_pooling", ["mean", "max"])
def test_features_of_chunks_are_cached(chunk_pooling, build, splits, small_parts, feature_cache):
    settings = {"long_text": "chunks", "max_length": 8, "chunk_pooling": chunk_pooling}
    first, second = build(**settings), build(**settings)
    found = [encode(model, splits["train"], FeatureCache(gigabytes=1)).features for model in (first, second)]
    assert torch.equal(*found)
    assert first.calls
    assert second.calls == []
    for text, features in zip(splits["train"].texts, found[0], strict=True):
        ids = torch.from_numpy(first.tokenize([text])[0]).long()[None]
        with inference.evaluating(first):
            expected = first.features(ids, torch.ones_like(ids))[0]
        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


def test_other_weights_miss_by_a_single_bit(build, splits):
    model = build()
    before = key(model, splits["train"])
    weight = model.network.base_model.encoder.layer[1].output.dense.bias
    with torch.no_grad():
        weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))
    assert key(model, splits["train"]) != before


def test_weights_that_no_feature_depends_on_hit(build, splits):
    """A pooler that the checkpoint lacks is drawn by the seed, also where nothing reads it."""
    model = build()
    before = key(model, splits["train"])
    with torch.no_grad():
        model.network.base_model.pooler.dense.weight.add_(1)
    assert key(model, splits["train"]) == before


@pytest.mark.parametrize("what", ["vocabulary", "added word"])
def test_another_tokenizer_with_the_same_name_misses(what, build, splits, tiny_bert, tmp_path):
    """Also if it gives the same ids to these texts."""
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    labels = ("negative", "positive")
    before = key(Classifier.from_pretrained(folder, labels=labels, freeze="encoder"), splits["train"])
    values = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = values["model"]["vocab"]
    if what == "vocabulary":
        vocabulary["film"], vocabulary["plot"] = vocabulary["plot"], vocabulary["film"]
    else:
        vocabulary["unheard"] = max(vocabulary.values()) + 1
    (folder / "tokenizer.json").write_text(json.dumps(values))
    assert key(Classifier.from_pretrained(folder, labels=labels, freeze="encoder"), splits["train"]) != before


def test_use_of_the_tokenizer_for_something_else_hits(build, splits):
    """A tokenizer holds how it was used last."""
    model = build()
    before = key(model, splits["train"])
    inputs = prepare_inputs(model, splits["train"], None)
    model.tokenizer("a text", truncation=True, padding="max_length", max_length=7)
    assert encoder_of(model).key(inputs) == before


def test_a_training_encodes_each_split_once(build, splits, tmp_path, feature_cache):
    """Saving the model, between training and scoring, uses the tokenizer."""
    trainer = Trainer(build(), TrainingConfig(num_epochs=1), output_dir=tmp_path / "run")
    trainer.fit(splits["train"], validation=splits["validation"])
    trainer.evaluate(splits["test"])
    assert sorted(entry.about["split"] for entry in entries(feature_cache)) == ["test", "train", "validation"]


@pytest.mark.parametrize("change", ["time", "path"])
def test_other_times_and_places_of_the_same_files_hit(change, splits, tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    labels = ("negative", "positive")
    before = key(Classifier.from_pretrained(folder, labels=labels, freeze="encoder"), splits["train"])
    if change == "time":
        for path in folder.iterdir():
            os.utime(path, (1, 1))
    else:
        folder = folder.rename(tmp_path / "elsewhere")
    assert key(Classifier.from_pretrained(folder, labels=labels, freeze="encoder"), splits["train"]) == before


def test_times_of_cached_files_do_not_matter(build, splits, small_parts, feature_cache):
    encode(build(), splits["train"], FeatureCache(gigabytes=1))
    for path in part_files(feature_cache):
        os.utime(path, (1, 1))
    model = build()
    encode(model, splits["train"], FeatureCache(gigabytes=1))
    assert model.calls == []


@pytest.mark.parametrize(
    ("owner", "name"), [(encoding, "FORMAT"), (torch, "__version__"), (encoding.transformers, "__version__")], ids=str
)
def test_other_versions_miss(owner, name, build, splits, monkeypatch):
    model = build()
    before = key(model, splits["train"])
    monkeypatch.setattr(owner, name, "99")
    assert key(model, splits["train"]) != before


def test_precision_of_matrix_products_misses(build, splits):
    model = build()
    before, was = key(model, splits["train"]), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert key(model, splits["train"]) != before
    finally:
        torch.set_float32_matmul_precision(was)


def test_second_training_calls_the_encoder_never(build, splits, tmp_path):
    calls = []
    for seed in (0, 1):
        model = build(seed=seed)
        trainer = Trainer(
            model, TrainingConfig(num_epochs=2, learning_rate=0.01 + seed), output_dir=tmp_path / str(seed)
        )
        trainer.fit(splits["train"], validation=splits["validation"])
        calls.append(len(model.calls))
    assert calls[0] > 0 == calls[1]


def test_a_repeated_training_has_the_same_bytes_with_and_without_the_cache(build, splits, tmp_path):
    found = []
    for name, cache in (("cold", True), ("warm", True), ("none", False)):
        model = build(seed=3)
        trainer = Trainer(model, TrainingConfig(num_epochs=2, cache=cache), output_dir=tmp_path / name)
        trainer.fit(splits["train"])
        found.append(model.network.head.output.weight.detach())
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[2], found[0], rtol=0, atol=1e-6)


def fill(folder, name, size, *, age):
    """Put an entry of `size` kilobytes into the cache, last used `age` seconds ago."""
    cache = FeatureCache(folder, gigabytes=1)
    about = {"encoder": name, "split": "train", "texts": size}
    cache.write(name * 64, {0: [np.zeros((size, 250), np.float32)]}, about=about)
    then = (folder / "features").stat().st_mtime - age
    os.utime(folder / "features" / (name * 64), (then, then))
    return name * 64


def test_least_recently_used_goes_first(feature_cache, caplog):
    caplog.set_level(logging.INFO)
    keys = {name: fill(feature_cache, name, 100, age=age) for name, age in (("a", 10), ("b", 40), ("c", 30), ("d", 20))}
    assert [entry.about["encoder"] for entry in entries(feature_cache)] == ["b", "c", "d", "a"]
    reader = FeatureCache(feature_cache, gigabytes=1)
    assert reader.read(keys["b"], 0, shape=(100, None), dtype="float32") is not None
    reader.finish(keys["b"])
    cache = FeatureCache(feature_cache, gigabytes=320e-6)
    cache.write("e" * 64, {0: [np.ones((100, 250), np.float32)]}, about={"encoder": "e", "split": "x", "texts": 100})
    cache.finish("e" * 64)
    assert [entry.about["encoder"] for entry in entries(feature_cache)] == ["a", "b", "e"]
    assert caplog.messages == [f"removed from the full cache: 100 texts of {name}, 100.1 kB" for name in "cd"]


def test_what_is_in_use_stays_whatever_its_size(feature_cache, caplog):
    caplog.set_level(logging.INFO)
    fill(feature_cache, "a", 100, age=10)
    cache = FeatureCache(feature_cache, gigabytes=1e-6)
    for name in "bc":
        about = {"encoder": name, "split": "x", "texts": 100}
        cache.write(name * 64, {0: [np.ones((100, 250), np.float32)]}, about=about)
        cache.finish(name * 64)
    assert [entry.about["encoder"] for entry in entries(feature_cache)] == ["b", "c"]
    assert re.fullmatch(r"the cache holds 20\d\.\d kB, more than --cache-size, for this run", caplog.messages[-1])


def test_size_is_kept_by_a_run_that_finds_all_it_needs(build, splits, feature_cache):
    fill(feature_cache, "a", 100, age=10)
    for gigabytes, count in ((1, 2), (50e-6, 1)):
        encode(build(), splits["train"], FeatureCache(gigabytes=gigabytes))
        assert len(entries(feature_cache)) == count


def test_location(monkeypatch, feature_cache):
    assert cache_folder() == feature_cache
    monkeypatch.setenv("NLPTL_CACHE", "~/x")
    assert cache_folder() == Path.home() / "x"
    monkeypatch.setenv("NLPTL_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder().name == "nlptl"


def test_others_may_not_look_into_it(build, splits, feature_cache):
    encode(build(), splits["test"], FeatureCache(gigabytes=1))
    (entry,) = entries(feature_cache)
    for folder in (feature_cache, feature_cache / "features", entry.path):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in entry.path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_list(build, splits, tiny_bert, feature_cache, capsys):
    cli.main(["cache", "list"])
    assert capsys.readouterr().out == f"0 entries, 0.0 kB in {feature_cache}\n"
    for split in ("validation", "train"):
        encode(build(), splits[split], FeatureCache(gigabytes=1))
    cli.main(["cache", "list"])
    header, _, *rows, total = capsys.readouterr().out.splitlines()
    assert header.split() == ["encoder", "split", "texts", "pooling", "width", "size", "last", "used"]
    about = [[str(tiny_bert), split, texts, "mean", "32"] for split, texts in (("train", "96"), ("validation", "12"))]
    assert [row.split()[:5] for row in rows] == about
    size = sum(file.stat().st_size for file in feature_cache.rglob("*") if file.is_file())
    assert total == f"2 entries, {describe_size(size)} in {feature_cache}"


def test_list_of_entries_that_say_nothing_of_themselves(build, splits, feature_cache, capsys):
    for content in ("{", "[]", '{"encoder": "a\\u001b[31mb", "texts": {}}', None):
        encode(build(), splits["test"], FeatureCache(gigabytes=1))
        (entry,) = entries(feature_cache)
        about = entry.path / "entry.json"
        about.unlink() if content is None else about.write_text(content)
        cli.main(["cache", "list"])
        assert capsys.readouterr().out.splitlines()[2].startswith("?")


def test_clear_removes_what_nlptl_wrote_and_nothing_else(build, splits, feature_cache, capsys):
    encode(build(), splits["train"], FeatureCache(gigabytes=1))
    encode(build(), splits["test"], FeatureCache(gigabytes=1))
    first, _ = entries(feature_cache)
    total = sum(entry.size for entry in entries(feature_cache))
    old = first.path / f"000000-{'0' * 64}.safetensors"
    old.write_bytes(b"written by nlptl 0.1.0")
    total += old.stat().st_size
    others = [
        first.path / "notes.txt",
        feature_cache / "features" / ("0" * 63) / "000000.float32",
        feature_cache / "features" / "mine",
        feature_cache / "model.safetensors",
    ]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    elsewhere = feature_cache.with_name(f"{feature_cache.name}-elsewhere")
    elsewhere.mkdir()
    (elsewhere / "entry.json").write_text("mine")
    (feature_cache / "features" / ("f" * 64)).symlink_to(elsewhere)
    cli.main(["cache", "clear"])
    assert capsys.readouterr().out == f"removed 2 entries, {describe_size(total)} from {feature_cache}\n"
    left = {path for path in feature_cache.rglob("*") if path.is_file() and not path.is_symlink()}
    assert left == set(others)
    assert (elsewhere / "entry.json").read_text() == "mine"


def test_clear_leaves_an_empty_folder(build, splits, feature_cache, capsys):
    encode(build(), splits["test"], FeatureCache(gigabytes=1))
    cli.main(["cache", "clear"])
    assert capsys.readouterr().out.startswith("removed 1 entry, ")
    assert list(feature_cache.iterdir()) == []


@pytest.mark.parametrize("words", [["cache"], ["cache", "lst"]])
def test_other_words_are_refused(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    assert "{list,clear}" in capsys.readouterr().err or "lst" in words


def test_command_is_quick_since_it_leaves_torch_out():
    code = "import sys, nlptl.cli, nlptl.training.cache_command; print({'torch', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
