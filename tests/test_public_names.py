"""The names that `import nlptl` promises."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import nlptl
from nlptl import config, estimator, labels
from nlptl.training import trainer

SOURCE = Path(nlptl.__file__).read_text(encoding="utf-8")


def test_all_is_what_the_table_resolves():
    in_table = [name for names in nlptl._MODULES.values() for name in names]
    assert len(nlptl.__all__) >= 15
    assert sorted(in_table) == sorted(set(in_table)) == nlptl.__all__


def test_type_checkers_see_the_same_names():
    block = next(node for node in ast.parse(SOURCE).body if isinstance(node, ast.If))
    seen = {name.name: node.module for node in block.body for name in node.names}
    assert seen == {name: module for module, names in nlptl._MODULES.items() for name in names}


@pytest.mark.parametrize("name", nlptl.__all__)
def test_each_name_resolves_and_is_documented(name: str):
    value = getattr(nlptl, name)
    assert value.__name__ == name
    assert value is getattr(importlib.import_module(value.__module__), name)
    assert value.__module__ in nlptl._MODULES
    documentation = inspect.getdoc(value)
    # A dataclass without a docstring of its own gets its signature as one.
    assert documentation
    assert not documentation.startswith(f"{name}(")


@pytest.mark.parametrize("name", nlptl.__all__)
def test_each_public_method_is_documented(name: str):
    value = getattr(nlptl, name)
    if inspect.isclass(value):
        own = {key: member for key, member in vars(value).items() if not key.startswith("_")}
        methods = {k: m for k, m in own.items() if inspect.isroutine(m) or isinstance(m, property | classmethod)}
        assert [key for key, method in methods.items() if not inspect.getdoc(method)] == []


def test_the_names_are_those_of_their_modules():
    assert nlptl.TrainingConfig is config.TrainingConfig
    assert nlptl.Labels is labels.Labels
    assert nlptl.TextClassifier is estimator.TextClassifier
    assert nlptl.Trainer is trainer.Trainer


def test_dir_lists_them():
    assert set(nlptl.__all__) <= set(dir(nlptl))
    assert dir(nlptl) == sorted(dir(nlptl))


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="module 'nlptl' has no attribute 'Classifer'"):
        nlptl.Classifer  # noqa: B018


def test_the_version_is_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", nlptl.__version__)
