"""The names that `import nlptl` promises."""

import importlib
import inspect
import re

import pytest

import nlptl
from nlptl import config, estimator, labels
from nlptl.training import trainer


@pytest.mark.parametrize("name", nlptl.__all__)
def test_each_name_resolves_and_is_documented(name: str):
    value = getattr(nlptl, name)
    assert value.__name__ == name
    assert value is getattr(importlib.import_module(value.__module__), name)
    assert value.__module__ == nlptl._MODULES[name]
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
