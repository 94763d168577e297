import gzip
import re
from functools import partial

import pytest

from nlptl.data import table
from nlptl.data.tables import open_table, split_suffix
from nlptl.errors import DataError

compress = partial(gzip.compress, mtime=0)  # with the time in it, names of tests would change

TWO = "EU B-ORG\nrejects O\n\nPeter B-PER\nBlackburn I-PER\n"
SENTENCES = [
    (1, ["EU", "rejects"], ["B-ORG", "O"]),
    (4, ["Peter", "Blackburn"], ["B-PER", "I-PER"]),
]


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path):
    """Return the row, the words and the tags of each sentence."""
    batches = list(open_table(path).read(["tokens", "tags"]))
    return [sentence for rows, columns in batches for sentence in zip(rows, *columns, strict=True)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.conll", TWO),
        ("a.IOB", TWO.replace("\n", "\r\n")),
        ("a.iob2", TWO.replace("\n", "\r")),
        ("a.bio", TWO.replace(" ", "\t")),
        ("a.conll", TWO.removesuffix("\n")),
        ("a.conll", TWO.replace(" ", " \t  ") + "\n\n \n"),
        ("a.conll", "\ufeff" + TWO),
        ("a.conll", TWO.encode("utf-16")),
        ("a.conll.gz", compress(TWO.encode())),
        ("a.bio.GZ", compress(b"\xef\xbb\xbf" + TWO.replace("\n", "\r\n").encode())),
        ("a.conll", TWO.replace(" ", " NNP x ")),
    ],
)
def test_formats(tmp_path, name, content):
    table = open_table(write(tmp_path, name, content))
    assert table.names == ["tokens", "tags"]
    assert read(write(tmp_path, name, content)) == SENTENCES


def test_rows_are_lines_of_an_editor(tmp_path):
    content = "-DOCSTART- -X- -X- O\n\n\nEU NNP x B-ORG\n-DOCSTART- -X- -X- O\n# 2\nPeter NNP x B-PER\n"
    assert read(write(tmp_path, "a.conll", content)) == [(4, ["EU"], ["B-ORG"]), (7, ["Peter"], ["B-PER"])]


def test_comments_are_left_out_and_words_are_not(tmp_path):
    content = (
        "# \n#\n# id 0cdc\tdomain=en\n# a longer comment than that, in more columns\n# x y O\n"
        "# _ _ O\n#1 _ _ O\n# B-X\n#\t_\t_\tB-X\n# _ _ other\n\n# the end\n"
    )
    assert read(write(tmp_path, "a.conll", content)) == [(5, ["#", "#", "#1", "#"], ["O", "O", "O", "B-X"])]


def test_a_word_holds_whatever_is_no_blank(tmp_path):
    words = ["5\u00a0000", "\u3000", "a\u2028b", "\u200b", "\x0c.", '"', "na\u00efve", "\U0001f600", "-", "1\x85"]
    content = "".join(f"{word}\tO\n" for word in words)
    assert read(write(tmp_path, "a.conll", content)) == [(1, words, ["O"] * len(words))]


def test_columns_are_read_in_the_order_that_is_asked_for(tmp_path):
    path = write(tmp_path, "a.conll", TWO)
    assert list(open_table(path).read(["tags", "tokens"])) == [
        ([1, 4], [[["B-ORG", "O"], ["B-PER", "I-PER"]], [["EU", "rejects"], ["Peter", "Blackburn"]]])
    ]
    assert list(open_table(path).read(["tags"])) == [([1, 4], [[["B-ORG", "O"], ["B-PER", "I-PER"]]])]
    assert next(iter(open_table(path).first_rows)) == (["EU", "rejects"], ["B-ORG", "O"])


def test_sentences_are_read_some_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "ROWS_AT_ONCE", 3)
    path = write(tmp_path, "a.conll", "a O\n\n" * 10)
    batches = list(open_table(path).read(["tokens"]))
    assert [rows for rows, _ in batches] == [[1, 3, 5], [7, 9, 11], [13, 15, 17], [19]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.conll", "", "has no rows"),
        ("a.conll", "\n \n", "has no rows"),
        ("a.conll", "# a comment\n\n-DOCSTART- O\n", "has no rows"),
        ("a.conll", TWO + "\nin York B-LOC\n", r"Expected 2 columns, as on line 1, .*a.conll, found 3 .* line 7: 'in"),
        ("a.conll", "a _ O\n\nb\n", r"Expected 3 columns, as on line 1, .* found 1 column on line 3: 'b'\. Separate"),
        ("a.bio", "a\tO\n\tO\n", "found 1 column on line 2: 'O'"),
        ("a.iob2", "\n# good\ngood\n", "Expected a word and its tag on each line of .*, found 1 column on line 3"),
        ("a.conll", "a O\n#text = b\n", "on line 2: '#text = b'.* start comments with '# '"),
        ("a.conll", "a O\n" + "x" * 1000, re.escape("line 2: '" + "x" * 80 + "'.")),
        ("a.conll", b"a O\nb\xe9 O\n", r"UTF-8 .* byte 0xe9 on line 2 \(byte 5 of the file\)"),
        ("a.conll", "a O\n\0 O\n", "NUL character on line 2"),
        ("a.conll.gz", compress(TWO.encode())[:-9], "that gzip can unpack"),
        ("a.conll", compress(TWO.encode()), "found a gzip archive"),
        ("a.conllu", TWO, r"ends in .*\.conll, \.iob, \.iob2, \.bio \(or \.gz after that\).* found 'a.conllu'"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, name, content))


@pytest.mark.parametrize("suffix", ["conll", "iob", "iob2", "bio"])
def test_names_without_suffixes(tmp_path, suffix):
    assert split_suffix(tmp_path / f"train.{suffix}") == ("train", f".{suffix}")
    assert split_suffix(tmp_path / f"Train.{suffix}.gz") == ("Train", f".{suffix}.gz")
