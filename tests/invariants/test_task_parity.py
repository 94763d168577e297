"""Each kind of task: loss and gradient of a batch are those of stock transformers, in one piece and in any split."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from nlptl import (
    Classifier,
    Examples,
    MultiLabel,
    Ordinal,
    Regression,
    SingleLabel,
    TokenLabels,
    Trainer,
    TrainingConfig,
)
from tests.conftest import build_tokenizer, cover, options

WORDS = ["good", "bad", "film", "story", "great", "dull", "plot", "was", "not", "very"]
LENGTHS = (12, 5, 9, 16, 7, 11, 3, 14)
TEXTS = [" ".join(WORDS[(i * 3 + k) % 10] for k in range(length)) for i, length in enumerate(LENGTHS)]
PAIRS = [" ".join(WORDS[(i + 2 * k) % 10] for k in range(17 - length)) for i, length in enumerate(LENGTHS)]
TAGS = [" ".join(["O", "B-work", "I-work", "B-mood"][(i + k) % 4] for k in range(n)) for i, n in enumerate(LENGTHS)]
SETS = ['["joy"]', "[]", '["joy", "rage"]', '["love"]', '["joy", "love", "rage"]', "[]", '["rage"]', '["love"]']
SCORES = ["3.5", "-1.0", "7.25", "0.0", "12.0", "3.0", "4.5", "-6.0"]
TWO_SCORES = [json.dumps({"a": float(score), "b": 100 - float(score) ** 2}) for score in SCORES]
NAMES = ["no", "yes", "no", "no", "yes", "no", "yes", "no"]
STARS = ["1", "3", "2", "5", "4", "1", "5", "2"]

KINDS = {
    "several labels": (MultiLabel, SETS, False),
    "a score": (Regression, SCORES, False),
    "two scores": (Regression, TWO_SCORES, False),
    "a label of pairs": (SingleLabel, NAMES, True),
    "a score of pairs": (Regression, SCORES, True),
    "tags": (TokenLabels, TAGS, False),
}
CONFIG = {"num_epochs": 1, "batch_size": 8, "learning_rate": 0.01, "optimizer": "sgd", "warmup_ratio": 0}


def build(folder, kind, family_folder, *, family="bert", **settings):
    """Return a model without dropout in float64, what it is trained on, and the stock model with the same weights."""
    cls, targets, reads_pairs = KINDS[kind]
    examples = Examples(TEXTS, targets, list(range(1, 9)), pairs=PAIRS if reads_pairs else ())
    task = cls.from_examples(examples)
    settings = {"dropout": 0.0, **settings}
    model = Classifier.from_pretrained(family_folder(family), task=task, pairs=reads_pairs, **options(**settings))
    model.save(folder)
    auto = AutoModelForTokenClassification if cls is TokenLabels else AutoModelForSequenceClassification
    stock = auto.from_pretrained(folder)
    stock.load_state_dict(model.network.state_dict())  # that of a regression has its scale in the folder
    return model.double(), examples, stock.double().eval()


@pytest.fixture(scope="session")
def typed_folder(tmp_path_factory, family_folder):
    """Return a function that gives the folder of a tiny encoder whose tokenizer tells the two texts of a pair apart."""

    def get(family):
        folder = tmp_path_factory.mktemp("typed") / family
        shutil.copytree(family_folder(family), folder)
        tokenizer = build_tokenizer()
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        tokenizer.save_pretrained(folder)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return folder

    return get


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        *cover(["bert", "electra", "distilbert"], [{}, {"freeze": 1}, {"freeze": "encoder", "pooling": "mean"}]),
        ("bert", {"freeze": 1}),
        ("bert", {"freeze": "encoder", "pooling": "mean"}),
        ("roberta", {}),
    ],
    ids=str,
)
def test_types_of_tokens_are_those_of_the_tokenizer(family, settings, typed_folder, watch_steps, tmp_path):
    """In training, from caches and predicted; an encoder without them gets none."""
    model, examples, stock = build(tmp_path / "model", "a label of pairs", typed_folder, family=family, **settings)
    config = TrainingConfig(**CONFIG | {"num_epochs": 2}, max_grad_norm=0, micro_batch_tokens=60)
    tokens = model.tokenize(examples.texts, examples.pairs)
    has_types = family in ("bert", "electra")
    assert (tokens.types is not None) == has_types
    with torch.no_grad():
        names = ["input_ids", "attention_mask", *["token_type_ids"] * has_types]
        batch = model.tokenizer(TEXTS, PAIRS, padding=True, return_tensors="pt")
        assert batch["token_type_ids"].max() == 1
        logits = stock(**{name: batch[name] for name in names}).logits
    expected = logits.softmax(dim=-1).numpy()
    np.testing.assert_allclose(model.predict_outputs(TEXTS, PAIRS), expected, rtol=1e-9)
    if "pooling" not in settings:
        with watch_steps(model) as steps:
            Trainer(model, config).fit(examples, validation=replace(examples, split="validation"))
        batch = {name: batch[name] for name in names}
        loss = stock(**batch, labels=torch.tensor([int(name == "yes") for name in NAMES])).loss
        loss.backward()
        gradients = dict(stock.named_parameters())
        largest = max(gradients[name].grad.abs().max() for name in steps[0])
        for name, (_, gradient) in steps[0].items():
            assert (gradient - gradients[name].grad).abs().max() <= 1e-8 * largest, name


def stock_batch(folder, stock, examples, task, rows):
    """Return what a user of transformers would pass: the tokenizer's own batch, and labels."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [examples.texts[i] for i in rows]
    if isinstance(task, TokenLabels):
        words = [text.split(" ") for text in texts]
        batch = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
        labels = torch.full_like(batch["input_ids"], -100)
        for row, i in enumerate(rows):
            previous, tags = None, examples.labels[i].split(" ")
            for place, word in enumerate(batch.word_ids(row)):
                if word is not None and word != previous:
                    labels[row, place] = stock.config.label2id[tags[word]]
                previous = word
        return batch, labels
    pairs = [[examples.pairs[i] for i in rows]] if len(examples.pairs) else []
    batch = tokenizer(texts, *pairs, padding=True, return_tensors="pt")
    targets = torch.from_numpy(task.targets(examples)[rows])
    if isinstance(task, Regression):
        mean, scale = task.scaling()
        targets = (targets - torch.from_numpy(mean)) / torch.from_numpy(scale)
        targets = targets[:, 0] if len(task.names) == 1 else targets
    return batch, targets.double() if isinstance(task, MultiLabel) else targets


def stock_gradient(folder, stock, examples, task, parts):
    """Return the mean of the losses of the parts of a batch, as gradient accumulation has it, and its gradient."""
    stock.zero_grad()
    total = 0.0
    for rows in parts:
        batch, labels = stock_batch(folder, stock, examples, task, rows)
        loss = stock(**batch, labels=labels).loss / len(parts)
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in stock.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("kind", "max_tokens"), [*cover(KINDS, [30, 60]), *cover(KINDS, [None])])
def test_loss_and_gradient_are_those_of_stock_transformers(kind, max_tokens, family_folder, watch_steps, tmp_path):
    model, examples, stock = build(tmp_path / "model", kind, family_folder)
    task = model.task
    with watch_steps(model) as steps:
        config = TrainingConfig(**CONFIG, max_grad_norm=0, micro_batch_tokens=max_tokens, logging_steps=1)
        Trainer(model, config, output_dir=tmp_path / "run").fit(examples)
    loss, gradients = stock_gradient(tmp_path / "model", stock, examples, task, [list(range(8))])
    record = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    assert record["loss"] == pytest.approx(loss, rel=1e-8)
    largest = max(gradient.abs().max() for gradient in gradients.values())
    assert largest > 1e-3
    assert steps[0].keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (steps[0][name][1] - gradient).abs().max() <= 1e-8 * largest, name


def test_stock_accumulation_over_tags_is_another_gradient(family_folder, tmp_path):
    """What transformers users get who add up the means of micro-batches: each word of a short one counts more."""
    model, examples, stock = build(tmp_path / "model", "tags", family_folder)
    _, whole = stock_gradient(tmp_path / "model", stock, examples, model.task, [list(range(8))])
    _, split = stock_gradient(tmp_path / "model", stock, examples, model.task, [[0, 3, 7, 5], [1, 2, 4, 6]])
    name = max(whole, key=lambda name: whole[name].abs().max())
    assert (whole[name] - split[name]).abs().max() > 1e-2 * whole[name].abs().max()


@pytest.mark.parametrize("max_tokens", [None, 30])
def test_ordinal_loss_is_that_of_the_paper(max_tokens, family_folder, watch_steps, tmp_path):
    """CORN: a binary cross-entropy for each step between labels, over the examples that have come so far."""
    examples = Examples(TEXTS, STARS, list(range(1, 9)))
    model = Classifier.from_pretrained(family_folder("bert"), task=Ordinal.from_examples(examples), dropout=0.0)
    model.double().eval()
    tokens = model.tokenize(TEXTS)
    features = torch.cat(
        [
            model.features(
                torch.from_numpy(tokens[i].astype(np.int64))[None], torch.ones(1, len(tokens[i]), dtype=torch.long)
            )
            for i in range(8)
        ]
    )
    units, ranks = model.network.head.output(features), torch.tensor([int(star) - 1 for star in STARS])
    total, count = 0.0, 0
    for step in range(4):
        takes_part = ranks >= step
        bce = torch.nn.functional.binary_cross_entropy_with_logits
        total = total + bce(units[takes_part, step], (ranks[takes_part] > step).double(), reduction="sum")
        count += int(takes_part.sum())
    expected = torch.autograd.grad(total / count, model.network.head.output.weight)[0]
    with watch_steps(model) as steps:
        config = TrainingConfig(**CONFIG, max_grad_norm=0, micro_batch_tokens=max_tokens, logging_steps=1)
        Trainer(model, config, output_dir=tmp_path / "run").fit(examples)
    record = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    assert record["loss"] == pytest.approx((total / count).item(), rel=1e-10)
    found = steps[0]["head.output.weight"][1]
    assert (found - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("a label of pairs", {"loss": "focal", "class_weights": "balanced"}),
        ("a label of pairs", {"logit_adjustment": 1.0, "label_smoothing": 0.1}),
        ("several labels", {"loss": "asymmetric"}),
        ("several labels", {"loss": "focal", "class_weights": (0.5, 1.0, 2.0)}),
        ("tags", {"class_weights": "balanced", "label_smoothing": 0.1}),
    ],
)
def test_losses_for_imbalance_do_not_depend_on_the_split(kind, settings, family_folder, watch_steps, tmp_path):
    found = []
    for max_tokens in (None, 30):
        model, examples, _ = build(tmp_path / "model", kind, family_folder)
        with watch_steps(model) as steps:
            Trainer(model, TrainingConfig(**CONFIG, max_grad_norm=0, micro_batch_tokens=max_tokens, **settings)).fit(
                examples
            )
        found.append(steps[0])
    plain, _, stock = build(tmp_path / "model", kind, family_folder)
    _, without = stock_gradient(tmp_path / "model", stock, examples, plain.task, [list(range(8))])
    largest = max(gradient.abs().max() for _, gradient in found[0].values())
    for name, (_, gradient) in found[0].items():
        assert (found[1][name][1] - gradient).abs().max() <= 1e-10 * largest, name
    assert max((found[0][name][1] - without[name]).abs().max() for name in without) > 1e-3 * largest
