"""What is refused: settings that cannot be obeyed, and model folders that are damaged or could run code."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2Model

from nlptl.errors import ConfigError, DataError, UntrustedFileError
from nlptl.model.classifier import Classifier
from tests.conftest import options

LABELS = ["negative", "positive"]
NOWHERE = "no-such-owner/no-such-model"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"pooling": "sum"},
            "pooling must be 'auto', 'native', 'cls', 'mean', 'max', 'attention' or None, found 'sum'",
        ),
        ({"hidden": 8}, "no hidden layer with the architecture's own head, found hidden=8 .* Pass --pooling mean"),
        (
            {"pooling": "mean", "hidden": 0},
            r"hidden must be a whole number of at least 1, a list of whole numbers or None, found 0",
        ),
        ({"pooling": "mean", "activation": "relu"}, "an activation only with a hidden layer, found activation='relu'"),
        (
            {"pooling": "mean", "hidden": 8, "activation": "elu"},
            "activation must be 'relu', .* found 'elu'",
        ),
        ({"dropout": 1.0}, r"dropout must be a number of at least 0 and below 1 or None, found 1\.0"),
        ({"dropout": float("nan")}, "dropout must be a number or None, found nan"),
        ({"dropout": "0.1"}, "dropout must be a number or None, found '0.1'"),
        ({"max_length": "12"}, "max_length must be a whole number or None, found '12'"),
        ({"pairs": "yes"}, "pairs must be True or False, found 'yes'"),
        ({"binary_loss": "hinge"}, "binary_loss must be 'softmax' or 'sigmoid', found 'hinge'"),
        ({"binary_loss": "sigmoid", "labels": ["a", "b", "c"]}, "Expected two labels for .* 'sigmoid', found 3"),
        ({"labels": "ab"}, "labels must be Labels, a list of strings or None, found 'ab'"),
        ({"labels": [0, 1]}, r"labels must be Labels, a list of strings or None, found \[0, 1\]"),
        ({"labels": 2}, "labels must be Labels, a list of strings or None, found 2"),
        ({"labels": {"a": 0, "b": 1}}, "labels must be .* found a dict with 'a', 'b'"),
        ({"labels": {"a", "b"}}, "labels must be Labels, a list of strings or None, found {"),
        ({"labels": np.array([0, 1])}, r"Expected labels as a list of names, found array\(\[0, 1\]\)"),
        ({"labels": None, "pooling": "mean"}, "Expected no settings of the head for a saved .*, found pooling"),
        ({"labels": None, "dropout": 0.1, "hidden": 8}, "which brings its own, found hidden, dropout"),
    ],
)
def test_settings_are_checked_before_anything_is_looked_up(settings: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        Classifier.from_pretrained(NOWHERE, **options(**{"labels": LABELS, **settings}))


def test_one_label_is_refused():
    with pytest.raises(DataError, match="Expected two or more different label names"):
        Classifier.from_pretrained(NOWHERE, labels=["a"])


@pytest.mark.parametrize(
    ("max_length", "message"),
    [
        (0, "max_length must be a whole number of at least 1 or None, found 0"),
        (2, "Expected max_length from 3 to 64, .* found 2"),
        (65, "Expected max_length from 3 to 64, .* found 65"),
    ],
)
def test_max_length_is_what_tokenizer_and_encoder_take(max_length: int, message: str, tiny_bert: Path):
    with pytest.raises(ConfigError, match=message):
        Classifier.from_pretrained(tiny_bert, labels=LABELS, max_length=max_length)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "Expected the folder of a pretrained model, found nothing at ./nowhere"),
        ("/nowhere", "found nothing at /nowhere. Pass a folder with config.json and model.safetensors, a Hub id"),
        ("a/b/c", "found nothing at a/b/c"),
        (__file__, "found a file at"),
        ("not an id", "Expected a folder or a Hub id, found 'not an id'"),
        ("sample:maxilm", "minilm"),
    ],
)
def test_names_that_resolve_to_nothing(name: str, message: str):
    with pytest.raises(ConfigError, match=message):
        Classifier.from_pretrained(name, labels=LABELS)


def load(folder: Path) -> Classifier:
    return Classifier.from_pretrained(folder, labels=LABELS)


def test_no_config(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"Expected a model folder with config\.json, found none in"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5"])
def test_pickles_are_refused(suffix: str, altered: Callable[..., Path]):
    folder = altered()
    (folder / "model.safetensors").rename(folder / f"pytorch_model{suffix}")
    with pytest.raises(UntrustedFileError, match=rf"as safetensors in .*, found pytorch_model\{suffix}, which can run"):
        load(folder)


def test_no_weights(altered: Callable[..., Path]):
    folder = altered()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"Expected model\.safetensors in .*, found no weights"):
        load(folder)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("model.fp16.safetensors",), r"a variant of the weights \(fp16\).* Rename it to model\.safetensors"),
        (("model.non_ema.safetensors",), r", a variant of the weights \(non_ema\)"),
        (
            ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
            "parts of a model without their ind",
        ),
        (("pytorch_model.safetensors",), r"another name\. Rename the file with the weights to model\.safetensors"),
    ],
)
def test_weights_of_another_name(names: tuple[str, ...], message: str, altered: Callable[..., Path]):
    folder = altered()
    for name in names:
        shutil.copy(folder / "model.safetensors", folder / name)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=f"Expected model.safetensors, .*found {names[0]}.*{message}"):
        load(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_map", {"AutoModel": "evil.Model", "AutoTokenizer": ["evil.T", None], "AutoConfig": "evil.Config"}),
        ("trust_remote_code", True),
        ("quantization_config", {"quant_method": "evil"}),
        ("attn_implementation", "evil/kernel"),
        ("_attn_implementation", "evil/kernel"),
        ("_attn_implementation_internal", "evil/kernel"),
    ],
)
def test_keys_that_run_code_are_refused(file: str, key: str, value: object, altered: Callable[..., Path]):
    with pytest.raises(UntrustedFileError, match=rf"Expected plain settings in .*{file}, found '{key}', which can"):
        load(altered(file=file, **{key: value}))
    with pytest.raises(UntrustedFileError, match=f"found '{key}'"):
        load(altered(file=file, nested={"deeper": {key: value}}))


@pytest.mark.parametrize("settings", [{}, {"labels": LABELS}])
def test_code_beside_a_model_is_not_run(settings: dict[str, object], altered: Callable[..., Path], tmp_path: Path):
    folder = altered(auto_map={"AutoConfig": "evil.C", "AutoModel": "evil.M"}, model_type="evil")
    (folder / "nlptl.json").write_text("{}")
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    with pytest.raises(UntrustedFileError, match="found 'auto_map'"):
        Classifier.from_pretrained(folder, **options(**settings))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("model_type", "found"),
    [
        ("gpt2", "'gpt2' in .*, a decoder, whose tokens do not see the next ones"),
        ("t5", "'t5' in .*, which has a decoder after its encoder"),
        ("vit", "'vit' in .*, which reads pixel_values, not token ids"),
        (None, "None in .*, which AutoModel of transformers does not know"),
        (["bert"], r"\['bert'\] in .*, which AutoModel of transformers does not know"),
        ("nlptl", "None in .*, which AutoModel of transformers does not know"),
    ],
)
def test_other_models_are_refused(model_type: object, found: str, altered: Callable[..., Path]):
    message = f"Expected a text encoder, found {found}. Pass an encoder, such as one of the families bert, .*, modernb"
    with pytest.raises(ConfigError, match=message):
        load(altered(model_type=model_type))


def test_an_encoder_and_a_decoder_in_one_are_refused(altered: Callable[..., Path]):
    with pytest.raises(ConfigError, match="found 'ernie' in .*, which has a decoder after its encoder"):
        load(altered(model_type="ernie", is_encoder_decoder=True))


def test_a_real_decoder_is_refused(tmp_path: Path):
    GPT2Model(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="found 'gpt2' in"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expected JSON in"),
        ("[]", "Expected an object in .*list"),
        ('{"a": ' * 10_000, "Expected JSON in .*recursion"),
        ('{"layer_norm_eps": NaN}', "Expected JSON in .*: NaN is not JSON"),
    ],
)
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_settings_that_are_no_object(file: str, content: str, message: str, altered: Callable[..., Path]):
    folder = altered()
    (folder / file).write_text(content)
    with pytest.raises(UntrustedFileError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": "32"}, "Expected the settings of a bert encoder in .*Field 'hidden_size' expected int"),
        ({"id2label": 3}, "Expected the settings of a bert encoder in .*config.json, cannot use them"),
        ({"hidden_act": "evil"}, "Expected intact safetensors weights in .* that fit its config.json.*'evil'"),
        ({"num_attention_heads": 5}, r"hidden size \(32\) is not a multiple of the number of attention heads \(5\)"),
        ({"num_attention_heads": 0}, "Expected intact safetensors weights in .*modulo by zero"),
        ({"vocab_size": 0}, "Expected intact safetensors weights in .*out of bounds"),
        ({"hidden_size": 64}, r"cannot load them: the shapes differ\. Download or save"),
        ({"vocab_size": 10**9}, r"cannot load them: the shapes differ"),
        ({"num_hidden_layers": 3}, r"all weights of a bert model in .*, found 16 missing: encoder\.layer\.2\."),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], message: str, altered: Callable[..., Path]):
    with pytest.raises(UntrustedFileError, match=message):
        load(altered(**settings))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_are_finite(value: float, altered: Callable[..., Path], change_weights: Callable[..., None]):
    folder, name = altered(), "encoder.layer.1.output.dense.bias"
    change_weights(folder, lambda key, tensor: torch.full_like(tensor, value) if key == name else tensor)
    with pytest.raises(UntrustedFileError, match=f"Expected finite weights in .*, found NaN or infinity in {name}"):
        load(folder)


def test_weights_are_complete(altered: Callable[..., Path], change_weights: Callable[..., None]):
    folder = altered()
    change_weights(folder, lambda key, tensor: None if key.startswith("encoder.layer.0.attention") else tensor)
    with pytest.raises(UntrustedFileError, match=r"found 10 missing: encoder\.layer\.0\.attention\.output"):
        load(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -7])
def test_truncated_weights(keep: int, altered: Callable[..., Path]):
    path = (folder := altered()) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UntrustedFileError, match="Expected intact safetensors weights in .*Download or save the model"):
        load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Expected tokenizer files in .*, found none"),
        ("{}", "Expected tokenizer files in .*cannot load them: .*tokenizer.json"),
    ],
)
def test_no_tokenizer(content: str | None, message: str, altered: Callable[..., Path]):
    folder = altered()
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        load(folder)


def test_a_tokenizer_without_padding(altered: Callable[..., Path]):
    with pytest.raises(ConfigError, match=r"Expected a fast tokenizer \(tokenizer\.json\) with a padding token in"):
        load(altered(file="tokenizer_config.json", pad_token=None))


def test_a_tokenizer_with_more_ids_than_the_encoder(altered: Callable[..., Path]):
    folder = altered()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"new{i}" for i in range(81 - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ConfigError, match="a tokenizer with at most 80 token ids, .* found 81"):
        load(folder)
