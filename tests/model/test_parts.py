"""Names for depth on every family, against names of parameters; and encoders that are cut between two layers."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    FunnelConfig,
    FunnelModel,
    PreTrainedModel,
)

from nlptl.errors import ConfigError
from nlptl.model.boundary import hidden_states_after, starting_from
from nlptl.model.classifier import Classifier
from nlptl.model.encoder import FAMILIES
from nlptl.model.inference import evaluating
from nlptl.model.parts import EncoderParts, find_parts
from tests.conftest import OTHER_FAMILIES

LABELS = ["negative", "positive", "mixed"]
# Three texts of 5, 3 and 8 tokens, padded with 0.
INPUT_IDS = torch.tensor([[2, 5, 22, 7, 3, 0, 0, 0], [2, 30, 3, 0, 0, 0, 0, 0], [2, 9, 31, 10, 6, 8, 25, 3]])
BATCH = {"input_ids": INPUT_IDS, "attention_mask": (INPUT_IDS != 0).long()}
SHARED = "layers 1 to 3, shared"
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 80}

every_encoder = pytest.mark.parametrize("name", [*FAMILIES, *OTHER_FAMILIES])
with_layers_of_their_own = pytest.mark.parametrize("name", [n for n in (*FAMILIES, *OTHER_FAMILIES) if n != "albert"])


def group_by_name(parameter: str, prefix: str) -> str:
    """Return the group that a parameter belongs to, by the name that its authors gave it."""
    if not parameter.startswith(f"{prefix}."):
        return "head"
    if "albert_layer" in parameter:
        return SHARED
    if ".conv." in parameter:
        return "layer 1"  # deberta-v2 runs it after its lowest layer
    if layer := re.search(r"\blayers?\.(\d+)\.", parameter):
        return f"layer {int(layer[1]) + 1}"
    by_word = {"final_norm": "final norm", "pooler": "pooler"}
    return next((group for word, group in by_word.items() if f".{word}." in parameter), "embeddings")


def test_there_are_encoders_of_every_kind():
    assert len(FAMILIES) == 11
    assert len(OTHER_FAMILIES) == 3


@pytest.mark.parametrize("pooling", ["native", "attention"])
@every_encoder
def test_every_parameter_is_in_exactly_one_group(name: str, pooling: str, deep_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(deep_folder(name), labels=LABELS, pooling=pooling)
    prefix = model.network.base_model_prefix
    names = [parameter for parameter, _ in model.network.named_parameters()]
    assert model.groups == {parameter: group_by_name(parameter, prefix) for parameter in names}
    layers = (SHARED,) if name == "albert" else ("layer 1", "layer 2", "layer 3")
    assert model.parts.group_names == ("embeddings", *layers, "final norm", "pooler", "head")
    found = set(model.groups.values())
    assert found >= {"embeddings", *layers, "head"}
    assert ("final norm" in found) == (name == "modernbert")
    assert (model.parts.num_layers, model.parts.shares_layers) == (3, name == "albert")


@every_encoder
def test_what_the_lowest_layer_reads(name: str, deep_folder: Callable[[str], Path]):
    """Where nothing but a module inside the encoder's own stack comes before it, no module can be replaced."""
    encoder = AutoModel.from_pretrained(deep_folder(name))
    parts, modules = find_parts(encoder), {id(module): path for path, module in encoder.named_modules()}
    found = None if parts.embeddings is None else modules[id(parts.embeddings)]
    assert found == {"albert": None, "electra": "embeddings_project"}.get(name, "embeddings")
    between = {depth: [modules[id(module)] for module in found] for depth, found in parts.between.items()}
    assert all(path.startswith("encoder.conv.") for path in between.get(0, []))
    assert list(between) == ([0] if name == "deberta-v2 with a convolution" else [])


@pytest.mark.parametrize(
    ("family", "final_norm"),
    [
        ("ernie", None),
        ("data2vec-text", None),
        ("megatron-bert", r"^encoder\.ln\."),
        ("roberta-prelayernorm", r"^LayerNorm\."),
    ],
)
def test_other_encoders_that_are_built_alike(family: str, final_norm: str | None):
    encoder = AutoModel.from_config(AutoConfig.for_model(family, **SIZES))
    groups = find_parts(encoder).group_parameters(encoder, frozenset())
    for parameter, group in groups.items():
        is_final = final_norm is not None and re.search(final_norm, parameter)
        assert group == ("final norm" if is_final else group_by_name(f"x.{parameter}", "x")), parameter
    assert set(groups.values()) == {"embeddings", "layer 1", "layer 2", "layer 3", "pooler"} | (
        set() if final_norm is None else {"final norm"}
    )


@pytest.mark.parametrize(("num_groups", "names"), [(2, ("layers 1 to 4, shared",)), (4, ("layer 1", "layer 2"))])
def test_albert_may_share_its_layers_less(num_groups: int, names: tuple[str, ...]):
    config = AutoConfig.for_model("albert", **SIZES | {"num_hidden_layers": 4}, num_hidden_groups=num_groups)
    encoder = AutoModel.from_config(config)
    parts = find_parts(encoder)
    assert (len(parts.layers), parts.num_layers, parts.shares_layers) == (num_groups, 4, num_groups == 2)
    assert parts.layer_names[:2] == names
    for parameter, group in parts.group_parameters(encoder, frozenset()).items():
        if layer := re.search(r"albert_layer_groups\.(\d)\.", parameter):
            assert group == (names[0] if num_groups == 2 else f"layer {int(layer[1]) + 1}"), parameter


class TwicePerForward(BertModel):
    """An encoder that runs its layers twice."""

    def forward(self, **inputs: torch.Tensor) -> object:
        super().forward(**inputs)
        return super().forward(**inputs)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: FunnelModel(FunnelConfig(vocab_size=80, d_model=32, n_head=2, d_head=16, block_sizes=[2, 2])),
            "one stack of 4 layers that run in turn, found no list of 4 modules in FunnelModel",
        ),
        (
            lambda: AutoModel.from_config(
                AutoConfig.for_model("bart", d_model=32, encoder_layers=2, decoder_layers=2, vocab_size=80)
            ),
            "one stack of 2 layers that run in turn, found 2 lists of 2 modules in BartModel",
        ),
        (
            lambda: TwicePerForward(BertConfig(**SIZES)),
            "one stack of 3 layers that run in turn, found layers that were called 6 times in TwicePerForward",
        ),
    ],
    ids=["blocks of layers", "two stacks", "layers that run twice"],
)
def test_an_encoder_that_is_built_otherwise_is_refused(build: Callable[[], PreTrainedModel], message: str):
    with pytest.raises(ConfigError, match=f"{message}. Pass a model of another family, such as bert"):
        find_parts(build())


def test_looking_for_parts_leaves_eval_mode_and_no_hooks(deep_folder: Callable[[str], Path]):
    encoder = AutoModel.from_pretrained(deep_folder("bert")).train()
    assert isinstance(find_parts(encoder), EncoderParts)
    assert not any(module.training for module in encoder.modules())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in encoder.modules()]
    assert sum(hooks) == 0


@with_layers_of_their_own
def test_going_on_from_a_depth_is_the_stock_forward(name: str, deep_folder: Callable[[str], Path]):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AutoModelForSequenceClassification.from_pretrained(deep_folder(name), num_labels=3).eval()
    parts = find_parts(network.base_model)
    with torch.no_grad():
        expected = network(**BATCH).logits
        for depth in (1, 2, 3):
            hidden = hidden_states_after(network.base_model, parts, depth, **BATCH)
            with starting_from(parts, depth, hidden):
                assert torch.equal(network(**BATCH).logits, expected), depth
            with starting_from(parts, depth, hidden.flip(0)):
                assert not torch.equal(network(**BATCH).logits, expected), depth
        assert torch.equal(network(**BATCH).logits, expected)
    assert expected.std() > 0
    assert not any("forward" in vars(module) for module in network.modules())


@with_layers_of_their_own
def test_hidden_states_are_those_of_the_stock_encoder(name: str, deep_folder: Callable[[str], Path]):
    encoder = AutoModel.from_pretrained(deep_folder(name)).eval()
    parts = find_parts(encoder)
    with torch.no_grad():
        stock = encoder(**BATCH, output_hidden_states=True)
        for depth in (1, 2, 3):
            hidden = hidden_states_after(encoder, parts, depth, **BATCH)
            if depth - 1 not in parts.between:  # transformers lists what the convolution gives
                is_final = depth == 3 and name == "modernbert"
                expected = encoder.final_norm(hidden) if is_final else hidden
                assert torch.equal(stock.last_hidden_state if depth == 3 else stock.hidden_states[depth], expected)
            with starting_from(parts, depth, hidden):
                found = encoder(**BATCH, output_hidden_states=True)
            assert torch.equal(found.last_hidden_state, stock.last_hidden_state)
            above = slice(depth + (depth - 1 in parts.between), None)
            assert len(found.hidden_states) == 4
            assert all(map(torch.equal, found.hidden_states[above], stock.hidden_states[above])), depth


def test_an_error_in_a_layer_leaves_the_encoder_as_it_was(deep_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(deep_folder("bert"), labels=LABELS)
    with evaluating(model):
        expected = model(**BATCH)
        with pytest.raises(IndexError):
            hidden_states_after(model.network.base_model, model.parts, 2, **BATCH | {"input_ids": INPUT_IDS + 80})
        with pytest.raises(IndexError, match="out of range"):
            model(**BATCH, hidden=torch.zeros(2, 3, 32), depth=1)
        assert torch.equal(model(**BATCH), expected)
