"""New weights for top layers, on every family, beside those of a model that transformers makes new."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from nlptl.data.order import stream_key
from nlptl.errors import ConfigError
from nlptl.model.adaptation import reinit_layers, start_anew
from nlptl.model.encoder import FAMILIES, quiet_transformers

SEPARATE_LAYERS = [family for family in FAMILIES if family != "albert"]


def load(folder: Path, auto: type = AutoModel) -> PreTrainedModel:
    """Return a pretrained model with weights that no initialization gives: everything shifted by one."""
    with quiet_transformers():
        model = auto.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    return model


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    stacks = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == 2]
    assert len(stacks) == 1
    return stacks[0]


def pooler_of(model: PreTrainedModel) -> nn.Module | None:
    return getattr(model.base_model, "pooler", None)


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def reinitialized(folder: Path, *, count: int = 1, seed: int = 0) -> PreTrainedModel:
    model = load(folder)
    reinit_layers(model, layers_of(model), pooler_of(model), count=count, seed=seed)
    return model


def assert_new(module: nn.Module, stock: nn.Module) -> None:
    """Assert that the weights are distributed as those of a new stock module."""
    expected = values(stock)
    assert expected
    for name, tensor in values(module).items():
        if expected[name].unique().numel() == 1:  # biases and norms
            assert torch.equal(tensor, expected[name]), name
        else:
            assert tensor.std().item() == pytest.approx(expected[name].std().item(), rel=0.15), name
            assert tensor.mean().abs().item() < 4 * tensor.std().item() / tensor.numel() ** 0.5, name


def test_there_are_families_with_separate_layers():
    assert len(SEPARATE_LAYERS) == 10


@pytest.mark.parametrize("family", SEPARATE_LAYERS)
def test_top_layers_are_as_new_and_the_rest_stays(family: str, family_folder: Callable[[str], Path]):
    folder = family_folder(family)
    before, model = load(folder), reinitialized(folder)
    stock = AutoModel.from_config(AutoConfig.from_pretrained(folder))
    assert_new(layers_of(model)[1], layers_of(stock)[1])
    new = {id(parameter) for parameter in layers_of(model)[1].parameters()}
    if (pooler := pooler_of(model)) is not None:
        assert_new(pooler, pooler_of(stock))
        new |= {id(parameter) for parameter in pooler.parameters()}

    old = values(before)
    kept = {name: p.detach() for name, p in model.named_parameters() if id(p) not in new}
    assert 0 < len(kept) == len(old) - len(new)
    assert all(torch.equal(tensor, old[name]) for name, tensor in kept.items())
    buffers = dict(before.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def test_bert_weights_follow_the_initializer_range(tiny_bert: Path):
    model = reinitialized(tiny_bert)
    tensors = values(layers_of(model)[1])
    assert tensors["attention.self.query.weight"].std().item() == pytest.approx(0.2, rel=0.1)
    assert tensors["output.dense.weight"].std().item() == pytest.approx(0.2, rel=0.1)
    assert not tensors["output.dense.bias"].any()
    assert (tensors["output.LayerNorm.weight"] == 1).all()
    assert not tensors["output.LayerNorm.bias"].any()


@pytest.mark.parametrize("family", SEPARATE_LAYERS)
def test_the_seed_decides_the_new_weights(family: str, family_folder: Callable[[str], Path]):
    folder = family_folder(family)
    state = torch.get_rng_state()
    first, again, other = (values(reinitialized(folder, count=2, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_every_layer_can_be_new(tiny_bert: Path):
    before, model = load(tiny_bert), reinitialized(tiny_bert, count=2)
    for new, old in zip(layers_of(model).parameters(), layers_of(before).parameters(), strict=True):
        assert not torch.equal(new, old)
    first, second = (layer.output.dense.weight for layer in layers_of(model))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_classifier_keeps_its_head(family: str, family_folder: Callable[[str], Path]):
    with torch.random.fork_rng(devices=[]):
        model = load(family_folder(family), AutoModelForSequenceClassification)
    before = values(model)
    reinit_layers(model, layers_of(model), None, count=1, seed=0)
    prefix = next(name for name, module in model.named_modules() if module is layers_of(model)[1])
    changed = {name for name, tensor in values(model).items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.startswith(f"{prefix}.")}


@pytest.mark.parametrize("count", [-1, 0, 3])
def test_a_count_beyond_the_encoder_is_refused(tiny_bert: Path, count: int):
    model = load(tiny_bert)
    before = values(model)
    with pytest.raises(ConfigError, match=f"reinit_layers from 1 to 2, the layers of the encoder, found {count}"):
        reinit_layers(model, layers_of(model), pooler_of(model), count=count, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in values(model).items())


def test_shared_layers_are_refused(family_folder: Callable[[str], Path]):
    model = load(family_folder("albert"))
    with pytest.raises(ConfigError, match="layers share their weights. Leave reinit_layers out"):
        reinit_layers(model, None, pooler_of(model), count=1, seed=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("auto", [AutoModel, AutoModelForSequenceClassification])
def test_a_whole_encoder_starts_as_transformers_starts_one(
    family: str, auto: type, family_folder: Callable[[str], Path]
):
    model = load(family_folder(family), auto)
    before, random_state = values(model), torch.get_rng_state()
    start_anew(model, seed=3)
    assert torch.equal(random_state, torch.get_rng_state())
    after = values(model)
    prefix = "" if auto is AutoModel else f"{model.base_model_prefix}."
    of_encoder = {name for name in before if name.startswith(prefix)}
    torch.manual_seed(stream_key("start anew", 3))
    fresh = values(AutoModel.from_config(model.base_model.config))
    for name in before:
        if name in of_encoder:
            assert torch.equal(after[name], fresh[name.removeprefix(prefix)]), name
            assert not torch.equal(after[name], before[name]), name
        else:
            assert torch.equal(after[name], before[name]), name
    start_anew(model, seed=4)
    changed = [name for name in of_encoder if not torch.equal(values(model)[name], after[name])]
    assert any("embeddings" in name for name in changed)
