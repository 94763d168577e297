"""Every family of encoders with every pooling: trained, saved, loaded again, frozen in part."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, FunnelConfig

from nlptl.errors import ConfigError
from nlptl.model.boundary import hidden_states_after
from nlptl.model.classifier import Classifier
from nlptl.model.encoder import FAMILIES
from nlptl.model.inference import evaluating
from nlptl.tasks.tokens import TokenLabels
from tests import conftest
from tests.conftest import cover

POOLINGS = ("native", "mean", "max", "cls")
LABELS = ["negative", "positive", "mixed"]
# Three texts of 5, 3 and 8 tokens, padded with 0.
INPUT_IDS = torch.tensor([[2, 5, 22, 7, 3, 0, 0, 0], [2, 30, 3, 0, 0, 0, 0, 0], [2, 9, 31, 10, 6, 8, 25, 3]])
BATCH = {"input_ids": INPUT_IDS, "attention_mask": (INPUT_IDS != 0).long()}

every_family = pytest.mark.parametrize("family", FAMILIES)
every_pooling = pytest.mark.parametrize(
    ("family", "pooling"), [*cover(FAMILIES, POOLINGS), *(("bert", pooling) for pooling in POOLINGS[1:])]
)
either_head = pytest.mark.parametrize(
    ("family", "pooling"), [*cover(FAMILIES, ["native", "mean"]), ("bert", "mean"), ("distilbert", "native")]
)


def train_one_step(model: Classifier) -> set[str]:
    """Take one step of SGD and return the names of the parameters that got a gradient."""
    model.train()
    trained = [parameter for parameter in model.network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    nn.functional.cross_entropy(model(**BATCH), torch.tensor([0, 1, 2])).backward()
    optimizer.step()
    return {name for name, parameter in model.network.named_parameters() if parameter.grad is not None}


def trained_names(model: Classifier) -> set[str]:
    return {name for name, parameter in model.network.named_parameters() if parameter.requires_grad}


def logits_of(model: Classifier) -> torch.Tensor:
    with evaluating(model):
        return model(**BATCH)


def test_every_family_has_a_tiny_model():
    assert tuple(conftest.FAMILIES) == FAMILIES
    assert len(FAMILIES) == 11


@every_pooling
def test_train_save_and_load(family: str, pooling: str, family_folder: Callable[[str], Path], tmp_path: Path):
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS, pooling=pooling, max_length=12)
    before = logits_of(model)
    assert train_one_step(model) == trained_names(model)
    assert trained_names(model) == {name for name, _ in model.network.named_parameters()} - model.unused_names
    logits = logits_of(model)
    assert not torch.equal(logits, before)

    model.save(tmp_path / "saved")
    loaded = Classifier.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits_of(loaded), logits)
    assert (loaded.labels, loaded.head, loaded.max_length) == (model.labels, model.head, 12)

    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        torch.testing.assert_close(stock(**BATCH).logits, logits, rtol=0, atol=1e-5)
        loaded.is_padding_free = False
        assert torch.equal(stock(**BATCH).logits, logits_of(loaded))
    assert stock.config.id2label == dict(enumerate(LABELS))
    assert type(stock).__module__.startswith("transformers." if pooling == "native" else "nlptl.")


@every_pooling
def test_the_head_over_features_is_the_whole_network(family: str, pooling: str, family_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS, pooling=pooling)
    with evaluating(model):
        features = model.features(**BATCH)
        assert features.shape == (3, 32)
        assert torch.equal(model(features=features), model(**BATCH))
    loss = model(features=features).square().sum()
    loss.backward()
    with_gradient = {name for name, parameter in model.network.named_parameters() if parameter.grad is not None}
    assert with_gradient == model.head_names
    assert with_gradient


@either_head
def test_a_frozen_encoder_stays_as_it_is(family: str, pooling: str, family_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS, pooling=pooling, freeze="encoder")
    assert model.trains_head_only
    assert model.encoder_is_frozen
    encoder = model.network.base_model
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    assert train_one_step(model) == model.head_names
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())

    model.train()
    assert not any(module.training for module in encoder.modules())
    assert any(module.training for module in model.network.modules())
    features = model.features(**BATCH)
    model.eval()
    assert torch.equal(model.features(**BATCH), features)


# Parameters outside the head that still train. What the lowest layer reads besides (projections, the embeddings of
# relative positions) belongs to the embeddings.
ABOVE_EMBEDDINGS = {
    "albert": r"encoder\.albert_layer_groups\.|pooler\.",
    "modernbert": r"layers\.|final_norm\.",
    "distilbert": r"transformer\.layer\.",
}
ABOVE_LAYER_1 = {
    "modernbert": r"layers\.1\.|final_norm\.",
    "distilbert": r"transformer\.layer\.1\.",
}


@every_family
def test_frozen_embeddings(family: str, family_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS, freeze="embeddings")
    check_trained(model, ABOVE_EMBEDDINGS.get(family, r"encoder\.layer\.|pooler\."))
    model.train()
    assert not any(module.training for module in model.network.base_model.embeddings.modules())


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "albert"])
def test_frozen_lowest_layer(family: str, family_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS, freeze=1)
    check_trained(model, ABOVE_LAYER_1.get(family, r"encoder\.layer\.1\.|pooler\."))
    model.freeze(2)
    check_trained(model, r"pooler\.|final_norm\.")
    model.freeze("nothing")
    check_trained(model, "")
    with pytest.raises(ConfigError, match=r"lowest 3 layers, found an encoder with 2 layers\. .*or 1 to 2\."):
        model.freeze(3)


def check_trained(model: Classifier, pattern: str) -> None:
    prefix = model.network.base_model_prefix + "."
    names = [name for name, _ in model.network.named_parameters()]
    above = {name for name in names if name.startswith(prefix) and re.match(pattern, name.removeprefix(prefix))}
    assert trained_names(model) == above | model.head_names
    assert model.head_names == {name for name in names if not name.startswith(prefix)}
    # Frozen parts are in eval mode, and nothing else is.
    model.train()
    for module in model.network.modules():
        if own := list(module.parameters(recurse=False)):
            assert module.training == any(parameter.requires_grad for parameter in own)


def test_layers_that_share_weights_cannot_be_told_apart(family_folder: Callable[[str], Path]):
    with pytest.raises(ConfigError, match=r"found an encoder with layers that share their weights\. .*'encoder'\.$"):
        Classifier.from_pretrained(family_folder("albert"), labels=LABELS, freeze=1)


@pytest.mark.parametrize("what", [0, -1, True, "all", "1"])
def test_what_freeze_takes(what: object, tiny_bert: Path):
    with pytest.raises(
        ConfigError,
        match="freeze must be 'nothing', 'embeddings', 'encoder', a whole number of at least 1 or None, found",
    ):
        Classifier.from_pretrained(tiny_bert, labels=LABELS, freeze=what)


@either_head
def test_every_dropout_is_set(family: str, pooling: str, family_folder: Callable[[str], Path], tmp_path: Path):
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS, pooling=pooling, dropout=0.3)
    check_dropout(model, 0.3)
    model.save(tmp_path / "saved")
    check_dropout(Classifier.from_pretrained(tmp_path / "saved"), 0.3)
    unset = Classifier.from_pretrained(tmp_path / "saved", labels=["a", "b"], pooling=pooling)
    check_dropout(unset, 0.3)
    check_dropout(Classifier.from_pretrained(tmp_path / "saved", labels=["a", "b"], pooling=pooling, dropout=0.2), 0.2)


def check_dropout(model: Classifier, expected: float) -> None:
    layers = [module.p for module in model.network.modules() if isinstance(module, nn.Dropout)]
    assert len(layers) > 2
    assert set(layers) == {expected}
    # Attention keeps its dropout as a number.
    numbers = {
        (type(module).__name__, name): value
        for module in model.network.modules()
        for name, value in vars(module).items()
        if "dropout" in name and isinstance(value, float)
    }
    assert set(numbers.values()) <= {expected}
    settings = model.network.base_model.config.to_dict()
    named = [value for name, value in settings.items() if "dropout" in name]
    assert len(named) > 1
    assert set(named) == {expected}


WITHOUT_A_KNOWN_HEAD = ("eurobert", "longformer", "splinter")
"""Families whose own head reads more than one vector of each text, or that have none."""
WITHOUT_CUTS = ("flaubert", "longformer", "squeezebert", "xlm")
"""Families whose layers cannot be run one by one."""
AT_NIGHT = ("longformer", "mobilebert", "rembert", "roberta-prelayernorm", "splinter", "xmod")
every_unlisted_family = pytest.mark.parametrize(
    "family", [pytest.param(f, marks=[pytest.mark.nightly] * (f in AT_NIGHT)) for f in conftest.UNLISTED]
)


@every_unlisted_family
def test_families_that_are_not_listed(family: str, tmp_path: Path):
    folder = conftest.build_model(family, tmp_path / "encoder")
    model = Classifier.from_pretrained(folder, labels=LABELS)
    assert model.head.pooling == ("mean" if family in WITHOUT_A_KNOWN_HEAD else "native")
    with torch.no_grad():
        torch.testing.assert_close(model(features=model.features(**BATCH)), model(**BATCH))
        if model.head.pooling == "mean":
            hidden = AutoModel.from_pretrained(folder).eval()(**BATCH).last_hidden_state
            means = [row[: len(ids[ids != 0])].mean(dim=0) for row, ids in zip(hidden, INPUT_IDS, strict=True)]
            torch.testing.assert_close(model.features(**BATCH), torch.stack(means))

    before = logits_of(model)
    assert train_one_step(model) == trained_names(model)
    logits = logits_of(model)
    assert not torch.equal(logits, before)
    model.save(tmp_path / "saved")
    loaded = Classifier.from_pretrained(tmp_path / "saved")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        torch.testing.assert_close(logits_of(loaded), logits, rtol=0, atol=1e-6)
        torch.testing.assert_close(stock(**BATCH).logits, logits, rtol=0, atol=1e-6)
    texts = ["good film", "the story is rather dull and boring , not great"]
    alone = torch.cat([loaded.predict_logits([text]) for text in texts])
    torch.testing.assert_close(loaded.predict_logits(texts), alone)


@every_unlisted_family
def test_freezing_of_families_that_are_not_listed(family: str, tmp_path: Path):
    model = Classifier.from_pretrained(conftest.build_model(family, tmp_path), labels=LABELS, freeze="encoder")
    assert train_one_step(model) == model.head_names
    model = Classifier.from_pretrained(tmp_path, labels=LABELS, freeze=1, pooling="mean")
    groups = {group for name, group in model.groups.items() if name in trained_names(model)}
    assert "layer 2" in groups
    assert groups <= {"layer 2", "final norm", "head"}
    assert model.num_frozen_layers == (0 if family in WITHOUT_CUTS else 1)
    if family not in WITHOUT_CUTS:
        with torch.no_grad():
            hidden = hidden_states_after(model.network.base_model, model.parts, 1, **BATCH)
            torch.testing.assert_close(model(**BATCH, hidden=hidden, depth=1), model(**BATCH))


def test_a_short_text_does_not_change_how_big_bird_reads_long_ones(tmp_path: Path):
    model = Classifier.from_pretrained(conftest.build_model("big_bird", tmp_path), labels=LABELS)
    long = " ".join(["the film was good but not great ,"] * 7)
    assert model.tokenize([long]).lengths[0] > 28  # up to which transformers would change to full attention
    before = model.predict_logits([long])
    model.predict_logits(["short"])
    assert torch.equal(model.predict_logits([long]), before)
    assert model.network.config.attention_type == "original_full"
    stock = AutoModel.from_pretrained(tmp_path, attention_type="original_full").eval()
    with torch.no_grad():
        ids = torch.from_numpy(model.tokenize([long]).ids[None]).long()
        hidden = stock(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    torch.testing.assert_close(model.features(ids, torch.ones_like(ids)), hidden[:, 0])


@pytest.mark.parametrize(
    ("family", "settings", "found"),
    [
        ("convbert", {}, "leaves padding out, found ConvBertModel, whose hidden states change with it"),
        ("fnet", {}, "leaves padding out, found FNetModel, whose hidden states change with it"),
        ("mra", {}, "sees all others, found MraModel, whose tokens do not see the next ones, as in a decoder"),
        ("xmod", {"default_language": None}, "gives hidden states, found xmod, with: Input language unknown"),
        ("dpr", {}, "found dpr, with: .* has no attribute 'last_hidden_state'"),
        ("bart", {}, "Expected a text encoder, found 'bart' in .*, which has a decoder after its encoder. Pass an enc"),
        ("funnel", {}, "found 'funnel' in .*, whose settings have no max_position_embeddings"),
    ],
)
def test_what_is_refused_says_which_check_has_failed(
    family: str, settings: dict[str, object], found: str, tmp_path: Path
):
    if family == "funnel":
        conftest.build_model("bert", tmp_path)
        FunnelConfig(vocab_size=80).save_pretrained(tmp_path)
    else:
        conftest.build_model(family, tmp_path, **settings)
    with pytest.raises(ConfigError, match=found):
        Classifier.from_pretrained(tmp_path, labels=LABELS)


def test_the_own_head_of_a_family_is_refused_where_it_is_asked_for(tmp_path: Path):
    conftest.build_model("eurobert", tmp_path / "eurobert")
    with pytest.raises(ConfigError, match="for pooling 'native', found another in eurobert. Pass --pooling mean"):
        Classifier.from_pretrained(tmp_path / "eurobert", labels=LABELS, pooling="native")
    conftest.build_model("splinter", tmp_path / "splinter")
    with pytest.raises(ConfigError, match="found splinter, for which transformers has none. Pass --pooling mean"):
        Classifier.from_pretrained(tmp_path / "splinter", labels=LABELS, pooling="native")
    with pytest.raises(ConfigError, match="has a head for tags of words, found splinter. Pass another"):
        Classifier.from_pretrained(tmp_path / "splinter", task=TokenLabels(("O", "B-X")))
