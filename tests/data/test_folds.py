"""Folds of a cross-validation: every text once, each class and group as it should be."""

import csv
import json
import logging
from collections import Counter

import numpy as np
import pytest

from nlptl import DataError, Examples, load_splits
from nlptl.data.folds import take_fold
from nlptl.data.targets import strata


def all_folds(parts, folds, task="single_label", seed=0):
    return [take_fold(parts, fold=i + 1, folds=folds, seed=seed, task=task) for i in range(folds)]


def labelled(labels, task="single_label", **groups):
    found = Examples.from_lists([f"text {i}" for i in range(len(labels))], labels, task=task)
    return Examples(found.texts, found.labels, found.rows, **groups)


LABELS = {
    "single_label": ["a"] * 60 + ["b"] * 30 + ["c"] * 10,
    "ordinal": ["1"] * 50 + ["2"] * 25 + ["3"] * 25,
    "multi_label": [["a", "b"]] * 40 + [["b"]] * 40 + [[]] * 20,
    "regression": np.random.default_rng(0).normal(size=100).tolist(),
}


@pytest.mark.parametrize("task", LABELS)
def test_every_text_is_tested_once_and_each_fold_has_its_share(task):
    examples = labelled(LABELS[task], task)
    folds = all_folds({"train": examples}, 5, task)
    assert sorted(row for fold in folds for row in fold["test"].rows) == examples.rows
    counts = Counter(strata(examples.labels, task))
    kind_of = dict(zip(examples.rows, strata(examples.labels, task), strict=True))
    for fold in folds:
        assert sorted([*fold["train"].rows, *fold["test"].rows]) == examples.rows
        assert (fold["train"].split, fold["test"].split) == ("train", "test")
        found = Counter(kind_of[row] for row in fold["test"].rows)
        assert all(abs(found[kind] - count / 5) < 1 for kind, count in counts.items())


def test_groups_stay_together():
    groups = [f"author {i // 7}" for i in range(140)]
    examples = labelled(["a", "b"] * 70, groups=groups)
    folds = all_folds({"train": examples}, 4)
    assert sorted(row for fold in folds for row in fold["test"].rows) == examples.rows
    for fold in folds:
        assert not set(fold["train"].groups) & set(fold["test"].groups)
        assert 20 <= len(fold["test"]) <= 50


def test_the_seed_decides_and_the_fold_does_not_depend_on_the_others():
    parts = {"train": labelled(["a", "b"] * 20)}
    first, again, other = (all_folds(parts, 4, seed=seed) for seed in (0, 0, 1))
    assert [fold["test"].rows for fold in first] == [fold["test"].rows for fold in again]
    assert [fold["test"].rows for fold in first] != [fold["test"].rows for fold in other]


def test_a_given_validation_split_is_part_of_it_and_a_given_test_split_is_not(caplog):
    caplog.set_level(logging.INFO)
    parts = {name: labelled(["a", "b"] * 10) for name in ("train", "validation", "test")}
    folds = all_folds(parts, 2)
    assert all(fold.keys() == {"train", "test"} for fold in folds)
    assert sum(len(fold["test"]) for fold in folds) == 40
    assert "memory: its test split of 20 texts is not part of the cross-validation" in caplog.messages
    assert "fold 2 of 2: 20 of 40 texts are tested" in caplog.messages


def test_the_last_text_with_a_label_is_in_train_in_every_fold():
    examples = labelled(["a"] * 20 + ["b"] * 20 + ["once"] + ["twice"] * 2)
    tested = [row for fold in all_folds({"train": examples}, 4) for row in fold["test"].rows]
    assert 41 not in tested
    assert len(tested) == len(set(tested)) >= 40
    sets = [["a"]] * 10 + [["a", "b"]] * 10 + [["a", "once"]]
    several = labelled(sets, "multi_label")
    for fold in all_folds({"train": several}, 3, "multi_label"):
        assert {label for cell in fold["train"].labels for label in json.loads(cell)} == {"a", "b", "once"}


def test_too_few_texts_or_groups_are_refused():
    with pytest.raises(DataError, match=r"5 or more texts in memory for 5 folds, found 4\. Pass fewer --folds"):
        take_fold({"train": labelled(["a", "b"] * 2)}, fold=1, folds=5, seed=0, task="single_label")
    examples = labelled(["a", "b"] * 6, groups=["x", "x", "y", "y"] * 3)
    with pytest.raises(DataError, match="Expected 3 or more groups in memory for 3 folds, found 2"):
        take_fold({"train": examples}, fold=1, folds=3, seed=0, task="single_label")


def test_splits_of_a_fold(toy_csv, tmp_path):
    splits = [load_splits(toy_csv, folds=3, fold=fold) for fold in (1, 2, 3)]
    assert sorted(row for each in splits for row in each.test.rows) == sorted(
        row for name in ("train", "validation", "test") for row in splits[0][name].rows
    )
    assert {len(each.test) for each in splits} == {40}
    assert {len(each.validation) for each in splits} == {8}
    assert load_splits(toy_csv, folds=3, fold=2) == splits[1]

    with toy_csv.open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    for name, part in (("train", rows[:61]), ("test", [rows[0], *rows[61:]])):
        with (tmp_path / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(part)
    found = load_splits(tmp_path, folds=3, fold=1)
    assert (len(found.train), len(found.validation), len(found.test)) == (36, 4, 20)
    assert not set(found.test.texts) & {row[0] for row in rows[61:]}
