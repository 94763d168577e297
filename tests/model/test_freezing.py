"""What trains, for every way to say so, against names of parameters; and what cannot be frozen or trained."""

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nlptl.config import TransferConfig
from nlptl.errors import ConfigError
from nlptl.model.classifier import Classifier
from nlptl.model.encoder import FAMILIES
from nlptl.model.freezing import trained_names
from tests.conftest import OTHER_FAMILIES, options

LABELS = ["negative", "positive", "mixed"]
ENCODERS = [*FAMILIES, *OTHER_FAMILIES]

# The lowest of embeddings (0), layers (1 to 3) and what stands above them (4) that trains.
LOWEST_BY_FREEZE = {"nothing": 0, "embeddings": 1, 1: 2, 2: 3, 3: 4, "encoder": math.inf}
LOWEST_BY_TOP = {None: 0, 0: math.inf, 1: 3, 2: 2, 3: 1, 4: 0, 9: 0}
PATTERNS = {None: r"", "norms": r"(?i)norm\.(weight|bias)$", "biases": r"bias$", "head": r"nothing"}

every_encoder = pytest.mark.parametrize("name", ENCODERS)


def height(parameter: str, prefix: str) -> float:
    """Return where a parameter stands, by its name: embeddings 0, layers from 1 on, final norm and pooler 4."""
    if not parameter.startswith(f"{prefix}."):
        return math.inf
    if "albert_layer" in parameter:
        return 3  # the top layer, and all others
    if layer := re.search(r"\.layers?\.(\d+)\.", parameter):
        return int(layer[1]) + 1
    if ".conv." in parameter:
        return 1
    return 4 if re.search(r"\.(final_norm|pooler)\.", parameter) else 0


def names_that_train(model: Classifier) -> set[str]:
    return {name for name, parameter in model.network.named_parameters() if parameter.requires_grad}


def ways_to_freeze(name: str) -> set[tuple[str | int, str | None]]:
    """Return what may be frozen together with each train_only: where something would be left to train."""
    ways = set(itertools.product(LOWEST_BY_FREEZE, PATTERNS)) - {("encoder", "norms"), ("encoder", "biases")}
    if name == "albert":
        return {(what, only) for what, only in ways if isinstance(what, str)}
    has_norm, has_bias = name == "modernbert", name == "bert"  # above the layers
    return ways - (set() if has_norm else {(3, "norms")}) - (set() if has_bias else {(3, "biases")})


@pytest.mark.parametrize(
    ("name", "train_only"),
    [
        *((name, None) for name in ENCODERS),
        *((name, "norms") for name in ("bert", "distilbert", "albert", "modernbert")),
        *((name, "biases") for name in ("bert", "albert", "deberta-v2")),  # ModernBERT has none
        ("bert", "head"),
    ],
)
def test_what_trains(name: str, train_only: str | None, deep_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(deep_folder(name), labels=LABELS)
    prefix, names = model.network.base_model_prefix, [name for name, _ in model.network.named_parameters()]
    counts = set()
    for what, from_freeze in LOWEST_BY_FREEZE.items():
        if (what, train_only) not in ways_to_freeze(name):
            continue
        for top, from_top in LOWEST_BY_TOP.items():
            if name == "albert" and top is not None:
                from_top = {0: math.inf, 1: 1}.get(top, 0)  # its layers are one
            lowest = max(from_freeze, from_top)
            expected = {
                name
                for name in names
                if height(name, prefix) == math.inf
                or (height(name, prefix) >= lowest and re.search(PATTERNS[train_only], name))
            }
            model.freeze(what, train_only=train_only, top=top)
            assert names_that_train(model) == expected, (what, top)
            assert (model.transfer.freeze, model.transfer.train_only) == (what, train_only)
            assert model.trains_head_only == (expected <= model.head_names)
            counts.add(len(expected))
    assert len(counts) == 1 if train_only == "head" else len(counts) > 2


@every_encoder
def test_frozen_parts_are_in_eval_mode_after_train(name: str, deep_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(deep_folder(name), labels=LABELS)
    for settings in (
        {"what": "nothing"},
        {"what": "embeddings"},
        {"what": "nothing" if name == "albert" else 2},
        {"what": "nothing", "top": 1},
        {"what": "nothing", "train_only": "norms" if name == "modernbert" else "biases"},
        {"what": "embeddings", "train_only": "norms"},
        {"what": "encoder"},
    ):
        model.freeze(**settings)
        for _ in range(2):
            model.train()
            for path, module in model.network.named_modules():
                own = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
                if any(own):
                    assert module.training, (path, settings)
                elif list(module.parameters()) and not any(p.requires_grad for p in module.parameters()):
                    assert not any(child.training for child in module.modules()), (path, settings)
            model.eval()
            assert not any(module.training for module in model.modules())


def test_a_frozen_part_has_no_dropout(deep_folder: Callable[[str], Path]):
    """In `train()` the output of the lowest layers stays the same from call to call; that of the others does not."""
    model = Classifier.from_pretrained(deep_folder("bert"), labels=LABELS, freeze=2, dropout=0.5).train()
    ids = torch.tensor([[2, 9, 31, 10, 6, 8, 25, 3]])
    one, two = (model.network.base_model(ids, output_hidden_states=True).hidden_states for _ in range(2))
    assert [torch.equal(a, b) for a, b in zip(one, two, strict=True)] == [True, True, True, False]


def test_low_rank_updates_train_in_place_of_weights(deep_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(deep_folder("bert"), labels=LABELS, freeze=1, lora_rank=2)
    assert names_that_train(model) == {
        name
        for name, _ in model.network.named_parameters()
        if name.startswith("classifier.") or (".lora_" in name and re.search(r"layer\.[12]\.", name))
    }
    model.freeze("nothing", top=1)
    assert {re.sub(r".*layer\.(\d).*", r"\1", name) for name in names_that_train(model) - model.head_names} == {"2"}
    model.freeze("nothing", top=0)
    assert names_that_train(model) == model.head_names
    model.train()
    assert not any(module.training for module in model.network.base_model.modules())


@pytest.mark.parametrize(
    ("settings", "num_layers"),
    [
        ({}, 0),
        ({"freeze": "embeddings"}, 0),
        ({"freeze": 1}, 1),
        ({"freeze": 3}, 3),
        ({"freeze": "encoder"}, 3),
        ({"train_only": "biases"}, 0),
        ({"train_only": "norms", "freeze": 2}, 2),
        ({"train_only": "head"}, 3),
        ({"lora_rank": 2}, 0),
        ({"lora_rank": 2, "freeze": 2}, 2),
        ({"lora_rank": 2, "lora_targets": ("layer.2.attention.self.query",)}, 2),
    ],
    ids=str,
)
def test_layers_that_never_change(settings: dict, num_layers: int, deep_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(deep_folder("bert"), labels=LABELS, **options(**settings))
    assert model.num_frozen_layers == num_layers
    model.freeze(model.transfer.freeze, train_only=model.transfer.train_only, top=1)
    assert model.num_frozen_layers == max(2, num_layers)


def test_shared_layers_have_no_boundary(deep_folder: Callable[[str], Path]):
    for freeze in ("nothing", "embeddings", "encoder"):
        assert Classifier.from_pretrained(deep_folder("albert"), labels=LABELS, freeze=freeze).num_frozen_layers == 0


@pytest.mark.parametrize(
    ("name", "settings", "trained", "frozen"),
    [
        ("bert", {}, "57 of 57: encoder and head", "nothing"),
        ("bert", {"freeze": 1}, "36 of 57: layers 2 to 3, pooler and head", "embeddings, layer 1"),
        ("bert", {"freeze": 3}, "4 of 57: pooler and head", "embeddings, layers 1 to 3"),
        ("bert", {"freeze": 1, "train_only": "biases"}, "19 of 57: biases of .* and head", "embeddings, layer 1"),
        ("bert", {"freeze": "embeddings", "lora_rank": 2}, "38 of 93: low-rank updates of layers 1 to 3 and head", ""),
        ("modernbert", {"freeze": 2}, "11 of 24: layer 3, final norm and head", "embeddings, layers 1 to 2"),
        ("albert", {"freeze": "embeddings"}, "20 of 27: layers 1 to 3, shared, pooler and head", "embeddings"),
        ("distilbert", {"freeze": "encoder"}, "2 of 54: head", "encoder"),
        ("deberta", {"train_only": "head"}, "2 of 55: head", "encoder"),
    ],
    ids=str,
)
def test_what_trains_in_words(name: str, settings: dict, trained: str, frozen: str, deep_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(deep_folder(name), labels=LABELS, **options(**settings))
    count = sum(p.numel() for p in model.network.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.network.parameters())
    tensors, words = trained.split(": ")
    line = rf"training {tensors} tensors: {count:,} of {total:,} parameters \({words}\); {frozen}"
    assert re.match(line, model.describe_training())


WAYS_OUT = r"Pass 'nothing', 'embeddings', 'encoder'"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"freeze": 0},
            "freeze must be 'nothing', 'embeddings', 'encoder', a whole number of at least 1 or None, found 0",
        ),
        ({"freeze": -1}, "a whole number of at least 1 or None, found -1"),
        ({"freeze": 4}, f"freeze the lowest 4 layers, found an encoder with 3 layers. {WAYS_OUT}, or 1 to 3."),
        ({"freeze": True}, "a whole number of at least 1 or None, found True"),
        ({"freeze": False}, "a whole number of at least 1 or None, found False"),
        ({"freeze": 1.0}, "a whole number of at least 1 or None, found 1.0"),
        ({"freeze": "all"}, "a whole number of at least 1 or None, found 'all'"),
        ({"train_only": "bias"}, "train_only must be 'norms', 'biases', 'head' or None, found 'bias'"),
        (
            {"train_only": "norms", "freeze": "encoder"},
            "an encoder that trains for --train-only norms, found it frozen. Pass --freeze nothing as well",
        ),
        ({"train_only": "biases", "freeze": "encoder"}, "an encoder that trains for --train-only biases, found it fro"),
        (
            {"lora_rank": 8, "freeze": "encoder"},
            "layers that low-rank updates can change, found the encoder frozen. Pass --freeze nothing as well",
        ),
        ({"lora_rank": 8, "freeze": 3}, "linear layers above the frozen ones for LoRA, found none. Pass --freeze noth"),
        ({"lora_alpha": 8.0}, "Expected --lora-alpha only with --lora-rank, found none. Pass --lora-rank 8 as well"),
        ({"lora_dropout": 0.1, "dora": True}, "Expected lora_dropout, dora only with --lora-rank, found none"),
        ({"lora_targets": ["query"]}, "Expected lora_targets only with --lora-rank"),
        ({"lora_rank": 8, "train_only": "biases"}, "Expected --lora-rank or --train-only, found both"),
        ({"lora_rank": 8, "reinit_layers": 1}, "Expected --lora-rank or reinit_layers, found both"),
        ({"reinit_layers": -1}, "reinit_layers must be a whole number of at least 0, found -1"),
        ({"reinit_layers": 4}, "reinit_layers from 1 to 3, the layers of the encoder, found 4"),
        (
            {"reinit_layers": 1, "freeze": "encoder"},
            "new weights for layers that train, found reinit_layers 1 with --freeze encoder. Leave one of the two",
        ),
        ({"reinit_layers": 1, "train_only": "norms"}, "found reinit_layers 1 with --train-only norms"),
        (
            {"reinit_layers": 2, "freeze": 2},
            "found reinit_layers=2 and 1 layers above the frozen ones. Lower reinit_layers or --freeze",
        ),
        ({"reinit_layers": 1, "freeze": 3}, "found reinit_layers=1 and 0 layers above the frozen ones"),
    ],
    ids=str,
)
def test_what_cannot_be_obeyed_is_refused(settings: dict, message: str, deep_folder: Callable[[str], Path]):
    with pytest.raises(ConfigError, match=message):
        Classifier.from_pretrained(deep_folder("bert"), labels=LABELS, **options(**settings))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("modernbert", {"train_only": "biases"}),
        ("distilbert", {"train_only": "biases", "freeze": 3}),
        ("roberta", {"train_only": "norms", "freeze": 3}),
        ("bert", {"train_only": "norms", "freeze": 3}),
    ],
    ids=str,
)
def test_nothing_left_to_train_is_refused(name: str, settings: dict, deep_folder: Callable[[str], Path]):
    only = settings["train_only"]
    with pytest.raises(
        ConfigError,
        match=f"Expected {only} in what is not frozen for --train-only {only}, found none. Freeze less, or leave",
    ):
        Classifier.from_pretrained(deep_folder(name), labels=LABELS, **options(**settings))


def test_shared_layers_are_refused_one_by_one(deep_folder: Callable[[str], Path]):
    for settings, message in (
        ({"freeze": 1}, f"freeze the lowest 1 layers, found an encoder with layers that share.* {WAYS_OUT}\\.$"),
        ({"reinit_layers": 1}, "found an encoder whose layers share their weights. Leave reinit_layers out"),
    ):
        with pytest.raises(ConfigError, match=message):
            Classifier.from_pretrained(deep_folder("albert"), labels=LABELS, **options(**settings))


def test_a_refused_change_changes_nothing(deep_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(deep_folder("bert"), labels=LABELS, freeze=1)
    before = names_that_train(model)
    for settings in ({"what": 4}, {"what": "encoder", "train_only": "norms"}, {"what": "none"}):
        with pytest.raises(ConfigError):
            model.freeze(**settings)
    assert (names_that_train(model), model.transfer) == (before, TransferConfig(freeze=1))


def test_the_head_trains_wherever_it_is(deep_folder: Callable[[str], Path]):
    """A pooler that the checkpoint lacks is new, and counts as a part of the head."""
    model = Classifier.from_pretrained(deep_folder("bert"), labels=LABELS)
    names = frozenset({"bert.pooler.dense.weight", "classifier.weight"})
    groups = model.parts.group_parameters(model.network, names)
    found = trained_names(model.network, model.parts, groups, TransferConfig(freeze="encoder"))
    assert found == names
