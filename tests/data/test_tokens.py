"""Tokenization, and its account of what was cut off."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nlptl.config import ReadingConfig
from nlptl.data.tokens import TEXTS_PER_CALL, describe_truncation, tokenize, tokenize_pairs, tokenize_words
from tests.conftest import SENTENCES, build_tokenizer

TEXTS = ["a good film .", "", "the story and the plot and the acting", "unknown words", "  ", "[SEP] bad [PAD]"]


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_bert)


def test_ids_are_those_of_the_tokenizer(tokenizer: PreTrainedTokenizerBase):
    tokens = tokenize(TEXTS, tokenizer, ReadingConfig(max_length=64))
    assert len(tokens) == len(TEXTS)
    assert [tokens[i].tolist() for i in range(len(TEXTS))] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert tokens.lengths.tolist() == [6, 2, 10, 4, 2, 5]
    assert tokens[1].tolist() == [tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert tokens.ids.dtype == np.int32
    assert (tokens.num_cut_texts, tokens.num_cut_tokens) == (0, 0)
    assert tokens.truncation() == {"cut_texts": 0, "cut_tokens": 0}


@pytest.mark.parametrize("max_length", [3, 4, 5, 9, 10])
def test_what_is_cut_is_counted(max_length: int, tokenizer: PreTrainedTokenizerBase):
    tokens = tokenize(TEXTS, tokenizer, ReadingConfig(max_length=max_length))
    whole = [len(tokenizer(text)["input_ids"]) for text in TEXTS]
    assert tokens.lengths.tolist() == [min(length, max_length) for length in whole]
    expected = [tokenizer(text, truncation=True, max_length=max_length)["input_ids"] for text in TEXTS]
    assert [tokens[i].tolist() for i in range(len(TEXTS))] == expected
    num_cut_texts = sum(length > max_length for length in whole)
    num_cut_tokens = sum(max(0, length - max_length) for length in whole)
    assert (tokens.num_cut_texts, tokens.num_cut_tokens) == (num_cut_texts, num_cut_tokens)
    assert tokens.truncation() == {
        "cut_texts": num_cut_texts / len(TEXTS),
        "cut_tokens": num_cut_tokens / sum(whole),
    }


@pytest.mark.parametrize("max_length", [3, 4, 5, 9, 10])
def test_the_end_of_a_text_is_what_the_tokenizer_keeps_of_it(max_length: int, tokenizer: PreTrainedTokenizerBase):
    tokens = tokenize(TEXTS, tokenizer, ReadingConfig(max_length=max_length, long_text="tail"))
    whole = [tokenizer(text)["input_ids"] for text in TEXTS]
    cut = [len(ids) > max_length for ids in whole]
    expected = [[*ids[:1], *ids[1 - max_length :]] if is_cut else ids for ids, is_cut in zip(whole, cut, strict=True)]
    assert [tokens[i].tolist() for i in range(len(TEXTS))] == expected
    assert (tokens.num_cut_texts, tokens.num_cut_tokens) == (sum(cut), sum(max(0, len(x) - max_length) for x in whole))
    # What comes after it does not depend on it.
    assert tokenize(TEXTS, tokenizer, ReadingConfig(max_length=max_length))[2].tolist() == [
        *whole[2][: max_length - 1],
        whole[2][-1],
    ]


@pytest.mark.parametrize("max_length", [3, 4, 6, 7, 10, 20, 64])
def test_both_ends_of_a_text(max_length: int, tokenizer: PreTrainedTokenizerBase):
    texts = [*TEXTS, " ".join(["good", "bad", "film", "story", "great"] * 7), "good [SEP] bad [CLS] " * 9]
    tokens = tokenize(texts, tokenizer, ReadingConfig(max_length=max_length, long_text="head-tail"))
    for i, text in enumerate(texts):
        whole, room = tokenizer(text)["input_ids"], max_length - 2
        first = room // 4
        both = whole[: 1 + first] + whole[len(whole) - 1 - (room - first) :]
        assert tokens[i].tolist() == (both if len(whole) > max_length else whole)
    head = tokenize(texts, tokenizer, ReadingConfig(max_length=max_length))
    assert tokens.truncation() == head.truncation()


def chunks_by_hand(ids: list[int], max_length: int, overlap: int, max_chunks: int) -> tuple[list[list[int]], int]:
    """Return the chunks of a text with [CLS] and [SEP], and how many of its tokens are in none."""
    words, room = ids[1:-1], max_length - 2
    chunks, end = [[ids[0], *words[:room], ids[-1]]], room
    while end < len(words) and len(chunks) < max_chunks:
        start, end = end - overlap, end - overlap + room
        chunks.append([ids[0], *words[start:end], ids[-1]])
    return chunks, max(0, len(words) - end)


@pytest.mark.parametrize("max_chunks", [None, 1, 2, 3, 300])
@pytest.mark.parametrize(
    ("max_length", "chunk_overlap"),
    [(3, None), (3, 0), (4, None), (5, 2), (8, None), (8, 0), (8, 1), (8, 5), (20, None), (64, None)],
)
def test_chunks_of_a_text(
    max_length: int, chunk_overlap: int | None, max_chunks: int | None, tokenizer: PreTrainedTokenizerBase
):
    texts = [*TEXTS, *(" ".join(f"{SENTENCES} " for _ in range(n)) for n in (1, 2, 5)), "good [SEP] bad [CLS] " * 9]
    settings = {"chunk_overlap": chunk_overlap, "max_chunks": max_chunks}
    tokens = tokenize(texts, tokenizer, ReadingConfig(max_length=max_length, long_text="chunks", **settings))
    overlap = min(max_length // 4, max_length - 3) if chunk_overlap is None else chunk_overlap
    lost, most = [], 0
    for i, text in enumerate(texts):
        chunks, num_lost = chunks_by_hand(tokenizer(text)["input_ids"], max_length, overlap, max_chunks or 16)
        assert tokens[i].tolist() == [token for chunk in chunks for token in chunk]
        # The borders are the multiples of max_length.
        assert [tokens[i][k : k + max_length].tolist() for k in range(0, len(tokens[i]), max_length)] == chunks
        lost.append(num_lost)
        most = max(most, len(chunks))
    assert (tokens.num_cut_texts, tokens.num_cut_tokens) == (sum(map(bool, lost)), sum(lost))
    assert (most == 1) == (max_chunks == 1)
    if max_chunks == 300:
        assert lost == [0] * len(texts)
    # What comes after it does not depend on it.
    assert tokenize(texts, tokenizer, ReadingConfig(max_length=8))[2].tolist() == [
        *tokenizer(texts[2])["input_ids"][:7],
        3,
    ]


def test_every_token_is_in_a_chunk(tokenizer: PreTrainedTokenizerBase):
    text = " ".join(SENTENCES.split()[i % 37] for i in range(99))
    (tokens,) = tokenize([text], tokenizer, ReadingConfig(max_length=16, long_text="chunks", chunk_overlap=3))
    chunks = [tokens[i + 1 : i + 15].tolist() for i in range(0, len(tokens), 16)]
    read = chunks[0] + [token for chunk in chunks[1:] for token in chunk[3:]]
    assert [*read[:-1], 3] == tokenizer(text)["input_ids"][1:]


def test_truncation_in_words(tokenizer: PreTrainedTokenizerBase):
    tokens = tokenize(TEXTS[:4], tokenizer, ReadingConfig(max_length=5))
    line = "train: 4 texts, 16 tokens; max_length 5 cuts 50.0% of the texts and 27.3% of the tokens"
    assert describe_truncation(tokens, ReadingConfig(max_length=5), name="train") == line
    reading = ReadingConfig(max_length=5, long_text="chunks", chunk_overlap=0, max_chunks=2)
    tokens = tokenize(TEXTS[:4], tokenizer, reading)
    line = "train: 4 texts, 24 tokens; max_length 5 in 2 chunks cuts 25.0% of the texts and 7.7% of the tokens"
    assert describe_truncation(tokens, reading, name="train") == line


def test_no_texts(tokenizer: PreTrainedTokenizerBase):
    tokens = tokenize([], tokenizer, ReadingConfig(max_length=8))
    assert len(tokens) == len(tokens.ids) == len(tokens.lengths) == 0
    assert tokens.truncation() == {"cut_texts": 0, "cut_tokens": 0}


def test_many_texts_are_tokenized_in_parts(tokenizer: PreTrainedTokenizerBase):
    texts = [" ".join(["good", "bad", "film"][: 1 + i % 3] * (1 + i % 7)) for i in range(2 * TEXTS_PER_CALL + 3)]
    tokens = tokenize(texts, tokenizer, ReadingConfig(max_length=10))
    assert len(tokens) == len(texts)
    for i in (0, 1, TEXTS_PER_CALL - 1, TEXTS_PER_CALL, 2 * TEXTS_PER_CALL, len(texts) - 1):
        assert tokens[i].tolist() == tokenizer(texts[i], truncation=True, max_length=10)["input_ids"]
    assert tokens.num_cut_texts == sum(len(text.split()) > 8 for text in texts)
    assert tokens.num_cut_tokens == sum(max(0, len(text.split()) - 8) for text in texts)


def test_settings_inside_the_tokenizer_file_change_nothing(tokenizer: PreTrainedTokenizerBase, tiny_bert: Path):
    other = AutoTokenizer.from_pretrained(tiny_bert)
    other.backend_tokenizer.enable_truncation(4)
    other.backend_tokenizer.enable_padding(length=20)
    expected, found = (tokenize(TEXTS, each, ReadingConfig(max_length=8)) for each in (tokenizer, other))
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.offsets, expected.offsets)
    assert found.num_cut_tokens == expected.num_cut_tokens == 2


def byte_level() -> PreTrainedTokenizerFast:
    """Return a tokenizer as roberta's: byte-level BPE, the blank a part of the token after it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "<pad>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", cls_token="<s>", sep_token="</s>")


def sentence_piece() -> PreTrainedTokenizerFast:
    """Return a tokenizer as xlm-roberta's and deberta-v3's: unigrams, a mark before each word."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", cls_token="<s>", sep_token="</s>", unk_token="<unk>"
    )


CORPUS = ["In Rome and in New York City , nobody knew Zürich 's 東京 tower .", "unbelievable naïve cafés in Rome"] * 20
WORD_TEXTS = [
    "In New York City , nobody knew Zürich 's tower .",
    "unbelievable",
    "東京 and 東京 tower",
    "In \u200b Rome",
    "In  Rome ",
    "New\u00a0York is a word",
    "x" * 5 + " " + "é ü",
]


@pytest.mark.parametrize("build", [build_tokenizer, byte_level, sentence_piece])
def test_the_first_token_of_each_word(build):
    """What is told by the characters that tokens stand for is what the tokenizer says of words it is given apart."""
    tokenizer = build()
    tokens = tokenize_words(WORD_TEXTS, tokenizer, max_length=64)
    for i, text in enumerate(WORD_TEXTS):
        words, found = text.split(" "), tokens.words_of(i)
        first = {int(word): place for place, word in enumerate(found) if word >= 0}
        assert list(first) == sorted(first)
        encoding = tokenizer(text).encodings[0]
        assert tokens[i].tolist() == encoding.ids
        for word, place in first.items():
            start, end = encoding.offsets[place]
            covered = text[start:end].strip(" ")
            assert covered == "" or words[word].startswith(covered), (text, word)
        blank = {word for word, characters in enumerate(words) if not characters.strip("\u200b")}
        assert set(range(len(words))) - blank <= set(first)


def test_words_that_are_cut_off_have_no_token():
    tokens = tokenize_words(["good film and a bad story", "good"], build_tokenizer(), max_length=5)
    assert tokens.words_of(0).tolist() == [-1, 0, 1, 2, -1]
    assert (tokens.num_cut_texts, tokens.num_cut_tokens) == (1, 3)
    assert tokens.words_of(1).tolist() == [-1, 0, -1]


@pytest.mark.parametrize("long_text", ["head", "tail"])
@pytest.mark.parametrize("build", [build_tokenizer, byte_level, sentence_piece])
def test_pairs_are_as_the_tokenizer_joins_them(build, long_text):
    tokenizer, texts = build(), ["the film was good", "a bad story", ""]
    pairs = ["not a good plot but a very good story", "", "and"]
    tokens = tokenize_pairs(texts, pairs, tokenizer, max_length=12, long_text=long_text)
    num_cut = num_lost = 0
    tokenizer.truncation_side = "left" if long_text == "tail" else "right"
    for i, (text, pair) in enumerate(zip(texts, pairs, strict=True)):
        # In lists, since an empty second text that stands alone is taken for none.
        expected = tokenizer([text], [pair], truncation="longest_first", max_length=12)
        assert tokens[i].tolist() == expected["input_ids"][0]
        if tokens.types is not None:
            types = tokens.types[tokens.offsets[i] : tokens.offsets[i + 1]]
            assert types.tolist() == expected["token_type_ids"][0]
        lost = len(tokenizer([text], [pair])["input_ids"][0]) - len(expected["input_ids"][0])
        num_cut, num_lost = num_cut + bool(lost), num_lost + lost
    assert (tokens.num_cut_texts, tokens.num_cut_tokens) == (num_cut, num_lost)
    assert num_cut > 0
