"""Pooling and heads against what one would write by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, pipeline

from nlptl.config import HeadConfig
from nlptl.model.classifier import Classifier
from nlptl.model.encoder import FAMILIES
from nlptl.model.heads import pool
from nlptl.model.inference import evaluating
from nlptl.tasks.single_label import example_losses
from tests.conftest import cover

TEXTS = ["good film .", "", "a very dull story and the acting was awful , but the end made me feel good", "bad"]


def reference_pool(rows: list[torch.Tensor], pooling: str) -> torch.Tensor:
    by_name = {"cls": lambda x: x[0], "mean": lambda x: x.mean(dim=0), "max": lambda x: x.max(dim=0).values}
    return torch.stack([by_name[pooling](row) for row in rows])


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_pooling_sees_no_padding(pooling: str):
    rows = [torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) - 3 for n in (4, 1, 7)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=9.0)
    mask = torch.tensor([[1] * len(row) + [0] * (7 - len(row)) for row in rows])
    pooled = pool(padded, mask, pooling)
    assert pooled.shape == (3, 6)
    torch.testing.assert_close(pooled, reference_pool(rows, pooling))


def test_an_unknown_pooling_is_an_error():
    with pytest.raises(ValueError, match="Expected pooling 'cls', 'mean' or 'max', found 'sum'"):
        pool(torch.zeros(1, 1, 1), torch.ones(1, 1), "sum")


@pytest.mark.parametrize("hidden", [7, (7, 5), [4, 6, 5]])
@pytest.mark.parametrize(
    ("activation", "function"), [(None, F.relu), ("relu", F.relu), ("gelu", F.gelu), ("tanh", torch.tanh)]
)
def test_dense_head(
    activation: str | None, function: Callable[..., torch.Tensor], hidden: int | tuple[int, ...], tiny_bert: Path
):
    model = Classifier.from_pretrained(
        tiny_bert, labels=["a", "b", "c"], pooling="mean", hidden=hidden, head=HeadConfig(activation=activation)
    )
    widths = [hidden] if isinstance(hidden, int) else list(hidden)
    assert model.head.hidden == tuple(widths)
    head = dict(model.network.head.named_parameters())
    shapes = {f"dense.{i}": pair for i, pair in enumerate(zip(widths, [32, *widths[:-1]], strict=True))}
    shapes["output"] = (3, widths[-1])
    assert {name: tuple(parameter.shape) for name, parameter in head.items()} == {
        **{f"{name}.weight": shape for name, shape in shapes.items()},
        **{f"{name}.bias": shape[:1] for name, shape in shapes.items()},
    }
    assert model.network.head.dropout.p == 0.1
    values = features = torch.randn(5, 32)
    with evaluating(model):
        logits = model(features=features)
    for i in range(len(widths)):
        values = function(values @ head[f"dense.{i}.weight"].T + head[f"dense.{i}.bias"])
    torch.testing.assert_close(logits, values @ head["output.weight"].T + head["output.bias"])


def test_a_linear_head_has_dropout_before_it_as_in_the_checkpoint(tiny_bert: Path):
    model = Classifier.from_pretrained(tiny_bert, labels=["a", "b"], pooling="cls")
    assert [name for name, _ in model.network.head.named_parameters()] == ["output.weight", "output.bias"]
    assert model.network.head.dropout.p == 0.1
    features = torch.ones(1, 32)
    model.train()
    assert not torch.equal(model(features=features), model(features=features))


@pytest.mark.parametrize(("family", "pooling"), [*cover(FAMILIES, ["native", "mean"]), ("bert", "mean")])
def test_sigmoid_form_has_one_logit(family: str, pooling: str, family_folder: Callable[[str], Path], tmp_path: Path):
    folder = family_folder(family)
    model = Classifier.from_pretrained(
        folder, labels=["bad", "good"], pooling=pooling, head=HeadConfig(binary_loss="sigmoid")
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    ids = torch.tensor([[2, 9, 22, 3], [2, 30, 31, 3]])
    model.train()
    for _ in range(3):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        optimizer.zero_grad()
        example_losses(logits, torch.tensor([0, 1]), binary_loss="sigmoid").sum().backward()
        optimizer.step()
    with evaluating(model):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert logits.shape == (2, 2)
    assert torch.equal(logits[:, 0], torch.zeros(2))
    assert logits[:, 1].abs().min() > 0
    last = [parameter for name, parameter in model.network.named_parameters() if name in model.head_names][-2:]
    if pooling == "mean":
        assert [tuple(parameter.shape) for parameter in last] == [(1, 32), (1,)]
    else:
        assert all(torch.equal(parameter[0], torch.zeros_like(parameter[0])) for parameter in last)

    model.save(tmp_path / "saved")
    found = Classifier.from_pretrained(tmp_path / "saved").predict_probabilities(TEXTS)
    tokens = model.tokenize(TEXTS)
    with evaluating(model):
        z = torch.cat([model(torch.from_numpy(t[None]).long(), torch.ones(1, len(t)).long())[:, 1] for t in tokens])
    torch.testing.assert_close(found[:, 1], z.double().sigmoid(), atol=1e-6, rtol=0)
    if pooling == "native":
        classify = pipeline("text-classification", str(tmp_path / "saved"), top_k=None)
        stock = [{row["label"]: row["score"] for row in rows} for rows in classify(TEXTS)]
        torch.testing.assert_close(
            torch.tensor([[row["bad"], row["good"]] for row in stock]).double(), found, atol=1e-5, rtol=0
        )


@pytest.mark.parametrize(
    ("family", "pooling"),
    [*cover(FAMILIES, ["native", "cls", "mean", "max"]), ("bert", "cls"), ("bert", "mean"), ("bert", "max")],
)
def test_padding_changes_nothing(family: str, pooling: str, family_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(family_folder(family), labels=["a", "b"], pooling=pooling)
    tokenizer = AutoTokenizer.from_pretrained(family_folder(family))
    padded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with evaluating(model):
        together = model(padded["input_ids"], padded["attention_mask"])
        alone = [tokenizer(text, return_tensors="pt") for text in TEXTS]
        one_by_one = torch.cat([model(text["input_ids"], text["attention_mask"]) for text in alone])
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=0)
