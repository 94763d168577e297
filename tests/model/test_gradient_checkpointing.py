"""Layers that keep their input alone: the same gradients, from less memory."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from nlptl.config import TrainingConfig
from nlptl.data.sources import Examples
from nlptl.errors import ConfigError
from nlptl.model.classifier import Classifier
from nlptl.model.encoder import FAMILIES
from nlptl.training.trainer import Trainer

WITHOUT = ("albert", "mpnet")
"""Families whose layers transformers cannot compute anew."""

LABELS = ["negative", "positive"]
TEXTS = ["good film .", "bad", "a very dull story and the acting was awful", "a lovely story"]


def run(model: Classifier) -> tuple[dict[str, torch.Tensor], int]:
    """Return the gradients by name, and the bytes that the forward pass keeps for them, weights and all."""
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.train()
    model.zero_grad()
    ids = torch.randint(5, 40, (4, 12), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)  # the noise of dropout is the same in the layers that are computed once more
    with saved_tensors_hooks(count, lambda tensor: tensor):
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logsumexp(dim=1).sum()
    loss.backward()
    return {name: p.grad for name, p in model.network.named_parameters() if p.grad is not None}, sum(kept.values())


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in WITHOUT])
def test_gradients_are_the_same_and_less_is_kept(family: str, family_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS, dropout=0.1).double()
    model.is_padding_free = False
    model.is_quick = False  # Only torch's own layers draw the same noise when they are computed once more.
    expected, num_bytes = run(model)
    model.checkpoint_gradients(True)
    found, fewer_bytes = run(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-12, msg=name)
    assert fewer_bytes < 0.7 * num_bytes
    model.checkpoint_gradients(False)
    assert run(model)[1] == num_bytes


def test_a_training_takes_the_same_path(tiny_bert: Path):
    weights = []
    for settings in ({"gradient_checkpointing": True}, {"padding_free": False}):
        model = Classifier.from_pretrained(tiny_bert, labels=LABELS, freeze=1)
        config = TrainingConfig(num_epochs=2, batch_size=2, micro_batch_tokens=512, cache=False, **settings)
        Trainer(model, config).fit(Examples.from_lists(TEXTS, ["positive", "negative", "negative", "positive"]))
        weights.append(model.network.state_dict())
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("family", WITHOUT)
def test_an_encoder_without_such_layers(family: str, family_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS)
    with pytest.raises(ConfigError, match=rf"can be computed anew, found {family}.*--micro-batch-tokens"):
        model.checkpoint_gradients(True)
    model.checkpoint_gradients(False)
