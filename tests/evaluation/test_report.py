"""Tables for the console."""

from nlptl.evaluation.metrics import Score, Scores
from nlptl.evaluation.report import class_table, score_table

SCORES = Scores(
    {"accuracy": Score(0.75, 0.5, 1.0, 1200), "log_loss": Score(0.5, 0.25, 0.625, 1200)},
    per_class={
        "no": {m: Score(0.5, 0.0, 1.0, 700) for m in ("precision", "recall", "f1")},
        "a longer name": {m: Score(float("nan"), 0.0, 1.0, 0) for m in ("precision", "recall", "f1")},
    },
)


def test_score_table():
    assert score_table(SCORES, split="test", baseline=SCORES).splitlines() == [
        "test       value     95 % interval      n  majority baseline",
        "------------------------------------------------------------",
        "accuracy  0.7500  0.5000 to 1.0000  1,200             0.7500",
        "log_loss  0.5000  0.2500 to 0.6250  1,200             0.5000",
    ]


def test_score_table_without_baseline():
    lines = score_table(SCORES, split="validation").splitlines()
    assert lines[0].split() == ["validation", "value", "95", "%", "interval", "n"]
    assert lines[2].split() == ["accuracy", "0.7500", "0.5000", "to", "1.0000", "1,200"]


def test_a_line_break_in_a_name_breaks_no_table():
    scores = Scores(SCORES, per_class={"two\nlines\t": SCORES.per_class["no"]})
    header, _, row = class_table(scores).splitlines()
    assert row.split()[0] == "two\\nlines\\t"
    assert len(header) == len(row)


def test_class_table():
    header, line, *rows = class_table(SCORES).splitlines()
    assert header.split() == ["class", "precision", "recall", "f1", "n"]
    assert [row.split() for row in rows] == [
        ["no", "0.5000", "0.5000", "0.5000", "700"],
        ["a", "longer", "name", "nan", "nan", "nan", "0"],
    ]
    assert {len(each) for each in (header, *rows)} == {len(line)}
