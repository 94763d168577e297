import re

import pytest

from nlptl.data.checks import describe_findings, find_errors, find_problems, refuse
from nlptl.data.findings import EXPLANATIONS, finding
from nlptl.data.sources import Examples
from nlptl.errors import DataError


def examples(pairs, split="train"):
    texts, labels = zip(*pairs, strict=True)
    return Examples.from_lists(texts, labels, split=split)


CLEAN = [("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")]


def findings(train, **others):
    splits = {"train": examples(train)} | {name: examples(pairs, name) for name, pairs in others.items()}
    refuse(find_errors(splits, "single_label"))
    return {finding.kind: finding for finding in find_problems(splits)}


@pytest.mark.parametrize(
    "text",
    [
        "caf\u00e9",
        "na\u00efve \u201cCAF\u00c9\u201d",
        "Stra\u00dfe",
        "\u6570\u636e",
        "\u0434\u0430",
        "\U0001f642 \u2014",
    ],
)
def test_mojibake_is_what_another_encoding_made_of_utf8(text):
    """Windows-1252 as browsers decode it, where the five bytes that it has no characters for are control characters."""
    wrong = "".join(
        bytes([byte]).decode("cp1252") if byte not in b"\x81\x8d\x8f\x90\x9d" else chr(byte) for byte in text.encode()
    )
    for garbled in (wrong, text.encode().decode("latin-1")):
        found = find_problems({"train": examples([*CLEAN, (text, "x"), (garbled, "y")])})
        assert [each.rows for each in found if each.kind == "mojibake"] == [(6,)]


def test_clean_data_has_no_findings():
    assert findings(CLEAN, validation=[("e", "x"), ("f", "y")], test=[("g", "x"), ("h", "y")]) == {}
    assert findings(CLEAN) == {}


@pytest.mark.parametrize(
    ("train", "others", "kind", "rows", "message"),
    [
        ([*CLEAN, (" ", "x"), ("", "y")], {}, "empty_text", (5, 6), r"empty texts in train: 2 rows \(5, 6\)"),
        (CLEAN, {"test": [("z", "x"), (" A ", "y")]}, "leak", (2,), r"also in train \(1 with another label\): row 2"),
        ([*CLEAN, ("A", "y")], {}, "conflict", (5,), "duplicate texts in train with conflicting labels: row 5"),
        ([*CLEAN, ("A", "x")], {}, "duplicate", (5,), "duplicate texts in train with the same label: row 5"),
        (CLEAN, {"test": [("e", "x"), ("f", "y"), ("E", "x")]}, "duplicate", (3,), "duplicate texts in test"),
        (
            CLEAN,
            {"test": [("e", "x"), ("f", "y"), ("E", "y")]},
            "conflict",
            (3,),
            "duplicate texts in test .* conflicting labels",
        ),
        ([*CLEAN, ("e", "z")], {}, "small_class", (5,), r"a single example in train \('z'\): row 5"),
        (
            [*CLEAN, ("e", " X"), ("f", " X"), ("g", "x")],
            {},
            "label_collision",
            (5, 6),
            r"one \('x' and ' X'\): 2 rows",
        ),
        (
            [*CLEAN, ("e\x96f", "x"), ("g\n\th", "x")],
            {},
            "control_character",
            (5,),
            "texts in train with control .*row 5",
        ),
        ([*CLEAN, ("f\ufffdr", "x")], {}, "control_character", (5,), "texts in train with control .*: row 5"),
        (
            [*CLEAN, ("caf\u00c3\u00a9 \u00e2\u20ac\u2122", "x"), ("caf\u00e9", "y")],
            {},
            "mojibake",
            (5,),
            "wrongly decoded texts in tr",
        ),
        (CLEAN, {"validation": [("e", "x")]}, "missing_class", (), r"1 of 2 classes have no example in validation"),
        (CLEAN, {"test": [("e", "x")]}, "missing_class", (), r"1 of 2 classes have no example in test \('y'\)"),
    ],
)
def test_findings(train, others, kind, rows, message):
    found = findings(train, **others)
    assert list(found) == [kind]
    assert found[kind].rows == rows
    assert found[kind].count == max(1, len(rows))
    assert re.search(message, found[kind].message)
    assert (found[kind].meaning, found[kind].action) == EXPLANATIONS[kind]
    assert found[kind].severity == "warning"


def test_leak_between_validation_and_test():
    found = findings(CLEAN, validation=[("e", "x"), ("f", "y")], test=[("e", "x"), ("g", "y")])
    assert "texts in test that are also in validation: row 1" in found["leak"].message


def test_first_five_rows():
    found = findings([*CLEAN, *[("a", "x")] * 10])
    assert found["duplicate"].count == 10
    assert found["duplicate"].rows == (5, 6, 7, 8, 9)


def test_one_class():
    with pytest.raises(DataError, match=r"two or more classes in memory \(train\), found \['x'\]"):
        findings([("a", "x"), ("b", "x")])


def test_unknown_label():
    message = r"labels of train \('x', 'y'\) in memory \(test\), found 'w' in 2 rows \(1, 3\) and 1 more such"
    with pytest.raises(DataError, match=message):
        findings(CLEAN, test=[("e", "w"), ("f", "x"), ("g", "w"), ("h", "z")])


def test_identifiers_as_labels():
    with pytest.raises(DataError, match="2,000 different labels on 2,000 examples, such as '0', .*identifier"):
        findings([(f"text {i}", i) for i in range(2000)])


@pytest.mark.parametrize("count", [20, 40, 999])
def test_a_label_for_each_text_is_an_error(count):
    with pytest.raises(DataError, match=f"found {count} different labels on {count} examples, such as '0', .*identif"):
        findings([(f"text {i}", i) for i in range(count)])
    findings([(f"text {i}", i) for i in range(count)] + [("again", 0)])


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("I loved it ,\tx\nBut dull", True),
        ("I loved it;x\nNot me;y\nBut dull", True),
        ("I loved it\ny,But dull", True),
        ("I loved it\tz\nBut dull", False),
        ("x\ny\nz", False),
        ("Dear sir,\nx", False),
        ("a, x", False),
    ],
)
def test_rows_inside_a_text(text, is_found):
    assert ("rows_in_text" in findings([*CLEAN, (text, "x")])) is is_found


def test_errors_come_first_and_all_of_them():
    found = find_problems({"train": examples([("", "x"), ("b", "x")]), "test": examples([("c", "y")], "test")})
    assert [(each.kind, each.severity, each.count) for each in found[:2]] == [
        ("one_class", "error", 1),
        ("unknown_label", "error", 1),
    ]
    lines = describe_findings([finding("duplicate", "a few"), *found]).splitlines()
    assert lines[0] == "2 errors and 3 warnings:"
    assert lines[1].startswith("error: Expected two or more classes")
    assert lines[2:4] == [f"    {words}" for words in EXPLANATIONS["one_class"]]
    assert describe_findings([]) == "nothing"


@pytest.mark.parametrize("kind", EXPLANATIONS)
def test_each_kind_says_what_it_means_and_what_to_do(kind):
    assert all(words[0].isupper() and words.endswith(".") for words in EXPLANATIONS[kind])


@pytest.mark.parametrize("pattern", ["{0}", "user-{0}", "#{0:08x}", "2026-11-{0:02}"])
def test_identifiers_as_texts(pattern):
    pairs = [(pattern.format(i), "xy"[i % 2]) for i in range(10, 50)]
    assert findings(pairs)["identifier_text"].rows == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("pattern", ["text {0}", "word", "caf\u00e9"])
def test_no_identifiers(pattern):
    assert "identifier_text" not in findings([(pattern.format(i), "xy"[i % 2]) for i in range(40)])
