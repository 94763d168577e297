"""Layers without padding: logits and gradients are those of the padded pass of stock transformers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification

from nlptl.config import TrainingConfig
from nlptl.data.sources import Examples
from nlptl.errors import ConfigError
from nlptl.model import packing, text_groups
from nlptl.model.classifier import Classifier
from nlptl.model.inference import evaluating
from nlptl.model.parts import find_parts
from nlptl.training.trainer import Trainer
from tests.conftest import cover, options

LENGTHS = torch.tensor([12, 5, 11, 1, 7, 7, 3])
LABELS = ["negative", "positive", "mixed"]
REVIEWS = Examples.from_lists(["good film .", "bad", "a story", "dull"], ["positive", "negative", "mixed", "negative"])

PACKED = [*packing.FAMILIES, packing.DEBERTA]
every_family = pytest.mark.parametrize("family", PACKED)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(12) < LENGTHS[:, None]).long()
    return {"input_ids": torch.randint(5, 40, mask.shape, generator=generator) * mask, "attention_mask": mask}


def run(
    model: Classifier, batch: dict[str, torch.Tensor], *, padding_free: bool
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the logits, and the gradients of their cross-entropy by name; labels go by the first token."""
    model.is_padding_free = padding_free
    model.zero_grad()
    logits = model(**batch)
    nn.functional.cross_entropy(logits, batch["input_ids"][:, 0] % 3).backward()
    return logits.detach(), {name: p.grad for name, p in model.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("family", "pooling", "most_tokens"),
    [
        *cover(PACKED, ["native"], [1, 24, 512]),
        *cover(["bert"], ["cls", "mean", "max", "attention"], [24, 512, 1]),
        *cover(packing.ALL_TOKENS, ["mean", "cls"], [1, 24]),
    ],
)
def test_logits_and_gradients_are_those_of_the_padded_pass(
    family: str, pooling: str, most_tokens: int, family_folder: Callable[[str], Path], batch, monkeypatch
):
    monkeypatch.setattr(text_groups, "ATTENTION_TOKENS", most_tokens)
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS, pooling=pooling, dropout=0.0).double()
    assert model.leaves_padding_out
    model.train()
    expected, gradients = run(model, batch, padding_free=False)
    found, packed_gradients = run(model, batch, padding_free=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert gradients.keys() == packed_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=0, atol=1e-12, msg=name)
    assert packing._packing.get() is None
    assert model.network.base_model.config._attn_implementation == ("eager" if family == packing.DEBERTA else "sdpa")


def attend_one_by_one(query, key, value, starts, key_starts, longest, *settings, scale, window_size_left, **_):
    """Stand in on a CPU for flash attention, by torch's own in one text after the other."""
    assert starts.dtype == torch.int32
    texts = []
    for start, end in pairwise(starts.tolist()):
        assert end - start <= longest
        distances = (torch.arange(end - start) - torch.arange(end - start)[:, None]).abs()
        mask = None if window_size_left is None else distances <= window_size_left
        parts = (each[start:end].transpose(0, 1)[None] for each in (query, key, value))
        texts.append(nn.functional.scaled_dot_product_attention(*parts, mask, scale=scale)[0].transpose(0, 1))
    return torch.cat(texts), None


@pytest.mark.parametrize(("family", "pooling"), [("bert", "mean"), ("modernbert", "native")])
def test_what_flash_attention_is_given(
    family: str, pooling: str, family_folder: Callable[[str], Path], batch, monkeypatch
):
    """The offsets and the window that the kernel gets, which itself is tested on a GPU; and one padded group."""
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS, pooling=pooling, dropout=0.0).double()
    expected, gradients = run(model, batch, padding_free=False)
    monkeypatch.setattr(packing, "cut_into_groups", lambda mask: [text_groups.whole_group(mask)])
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", attend_one_by_one)
    for takes_one_row in (False, True):
        monkeypatch.setattr(packing, "can_use_flash_attention", lambda params, found=takes_one_row: found)
        found, packed_gradients = run(model, batch, padding_free=True)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        for name, gradient in gradients.items():
            torch.testing.assert_close(packed_gradients[name], gradient, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize(("num_tokens", "expected"), [(5, [0, 3, 5]), (8, [0, 3, 5, 8])])
def test_offsets_are_those_of_the_texts_and_of_padding_behind_them(num_tokens: int, expected: list[int]):
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    assert text_groups.text_offsets(mask, num_tokens=num_tokens).tolist() == expected


@every_family
def test_logits_are_those_of_stock_transformers(family: str, family_folder: Callable[[str], Path], batch, tmp_path):
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS)
    model.save(tmp_path / "saved")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    more = {name: nn.functional.pad(tensor, (0, 5)) for name, tensor in batch.items()}  # than the longest needs
    with evaluating(model):
        expected = stock(**batch).logits
        torch.testing.assert_close(model(**batch), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(model(**more), expected, rtol=0, atol=1e-5)


@every_family
def test_layers_see_no_padding_and_the_last_one_first_tokens_alone(
    family: str, family_folder: Callable[[str], Path], batch
):
    encoder = AutoModel.from_pretrained(family_folder(family)).eval()
    parts = find_parts(encoder)
    seen: list[int] = []
    # The last linear layer of a layer: it comes after attention.
    linears = [[m for m in layer.modules() if isinstance(m, nn.Linear)][-1] for layer in parts.layers]
    for linear in linears:
        linear.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    num_tokens = 64  # 46, and padding up to a multiple of ROUND
    for first_only, above in (
        (False, num_tokens),
        (True, num_tokens if family in packing.ALL_TOKENS else len(LENGTHS)),
    ):
        with torch.no_grad(), packing.without_padding(encoder, parts, first_only=first_only):
            hidden = encoder(**batch).last_hidden_state
        assert seen == [num_tokens] * (parts.num_layers - 1) + [above]
        assert hidden.shape[1] == (1 if above < num_tokens else 12)
        seen.clear()


@every_family
def test_texts_of_one_length_have_no_padding(family: str, family_folder: Callable[[str], Path]):
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS, dropout=0.0).double()
    batch = {"input_ids": torch.randint(5, 40, (3, 9)), "attention_mask": torch.ones(3, 9, dtype=torch.long)}
    expected, _ = run(model, batch, padding_free=False)
    found, _ = run(model, batch, padding_free=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_an_error_leaves_the_encoder_as_it_was(tiny_bert: Path, batch):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS)
    with evaluating(model):
        expected = model(**batch)
        with pytest.raises(IndexError, match="out of range"):
            model(batch["input_ids"] + 10_000, batch["attention_mask"])
        encoder = model.network.base_model
        assert packing._packing.get() is None
        assert "forward" not in encoder.__dict__
        assert not any(module._forward_pre_hooks or module._forward_hooks for module in encoder.encoder.modules())
        assert torch.equal(model(**batch), expected)


@pytest.mark.parametrize(("wanted", "expected"), [(None, True), (True, True), (False, False)])
def test_padding_is_left_out_on_a_cpu_unless_it_is_wanted(wanted: bool | None, expected: bool, tiny_bert: Path):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS)
    assert model.leaves_padding_out
    Trainer(model, TrainingConfig(num_epochs=1, padding_free=wanted)).estimate(REVIEWS)
    assert model.leaves_padding_out is expected


def test_on_another_device_padding_is_left_out_where_that_is_asked_for(tiny_bert: Path):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS).to("meta")
    for wanted, expected in ((None, False), (False, False), (True, True)):
        model.leave_padding_out(wanted)
        assert model.leaves_padding_out is expected


@pytest.mark.parametrize(
    ("family", "settings", "found"),
    [("deberta", {}, "deberta"), ("bert", {"pooling": "mean", "layers": "mix"}, "a head over layers='mix'")],
)
def test_what_needs_padding_has_it_and_is_refused_where_it_shall_not(
    family: str, settings: dict[str, str], found: str, family_folder: Callable[[str], Path]
):
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS, **options(**settings))
    assert not model.leaves_padding_out
    trainer = Trainer(model, TrainingConfig(num_epochs=1, padding_free=True))
    with pytest.raises(ConfigError, match=f"do without padding for padding_free, found {found}. Leave it out"):
        trainer.fit(REVIEWS)


def test_what_is_padded_elsewhere_is_padded_throughout(tiny_bert: Path, batch):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS, dropout=0.0).double()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    holed = mask.clone()
    holed[0, 3] = 0
    left = {"input_ids": ids.flip(1), "attention_mask": mask.flip(1)}
    for given in (left, {"input_ids": ids}, {"input_ids": ids, "attention_mask": holed}):
        expected, _ = run(model, given, padding_free=False)
        found, _ = run(model, given, padding_free=True)
        assert torch.equal(found, expected)


def test_decoders_and_groups_of_several_layers_are_padded(family_folder: Callable[[str], Path]):
    for family, setting in (("bert", {"is_decoder": True}), ("albert", {"inner_group_num": 2})):
        model = Classifier.from_pretrained(family_folder(family), labels=LABELS)
        assert model.leaves_padding_out
        model.network.base_model.config.update(setting)
        assert not model.leaves_padding_out


def test_threads_take_turns(family_folder: Callable[[str], Path], batch):
    models = [Classifier.from_pretrained(family_folder(name), labels=LABELS).eval() for name in ("bert", "roberta")]
    short = {name: tensor[3:, :7] for name, tensor in batch.items()}
    jobs = [(model, given) for model in [*models, models[0]] for given in (batch, short)] * 20

    def predict(job: tuple[Classifier, dict[str, torch.Tensor]]) -> torch.Tensor:
        with torch.no_grad():
            return job[0](**job[1])

    expected = [predict(job) for job in jobs]
    with ThreadPoolExecutor(6) as pool:
        for found, alone in zip(pool.map(predict, jobs), expected, strict=True):
            torch.testing.assert_close(found, alone, rtol=0, atol=1e-6)


def test_a_forward_of_the_users_own_is_put_back(tiny_bert: Path, batch):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS)
    encoder, calls = model.network.base_model, []
    forward = encoder.forward
    encoder.forward = own = lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs)
    model(**batch)
    assert calls == [1]
    assert encoder.forward is own
