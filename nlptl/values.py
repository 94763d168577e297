"""One check of values against type annotations: for settings, for JSON, and for the arguments of public functions."""

import contextlib
import dataclasses
import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from nlptl.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Range:
    """The numbers that an annotated setting may have, as in `Annotated[float, Range(above=0)]`; all are finite."""

    at_least: float = -math.inf
    at_most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, number: float) -> bool:
        return self.at_least <= number <= self.at_most and self.above < number < self.below

    def __str__(self) -> str:
        if math.isfinite(self.at_least) and math.isfinite(self.at_most):
            return f"from {self.at_least:g} to {self.at_most:g}"
        bounds = {"of at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound))


FINITE = Range()
Count = Annotated[int, Range(at_least=1)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(at_least=0)]
Seed = Annotated[int, Range(at_least=0)]
Share = Annotated[float, Range(above=0, below=1)]


class Unfit(Exception):
    """A value that its annotation does not allow."""


def check_fields(config: Any) -> None:
    """Check the fields of a frozen dataclass against their annotations; lists become tuples, strings paths.

    Raises:
        ConfigError: If a value has another type or is out of range; all such values are named in one message.
    """
    cls: Any = type(config)
    hints = {field.name: _hints(cls)[field.name] for field in dataclasses.fields(config)}
    values = _fitted(hints, {name: getattr(config, name) for name in hints}, "Expected settings within their ranges")
    for name, value in values.items():
        object.__setattr__(config, name, value)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public function: arguments that do not fit its annotations raise ConfigError, all in one message."""
    signature = inspect.signature(function)
    called = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def check_and_call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            owner = _OF_LISTS if any(map(is_list, args)) else _owner(function, str(error), kwargs)
            hint = owner or "Its docstring lists them."
            raise ConfigError(f"Expected the arguments of {called}(): {error}. {hint}") from None
        hints = {name: hint for name, hint in _hints(function).items() if name in bound.arguments}
        bound.arguments |= _fitted(hints, bound.arguments, f"Expected other values for {called}()")
        return function(*bound.args, **bound.kwargs)

    return check_and_call


def fit(hint: Any, value: Any) -> Any:
    """Return `value` as the annotation `hint` has it: lists as tuples, strings as paths, whole numbers as floats.

    Raises:
        Unfit: If it is of another type, out of range, or no finite number.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        found = fit(arguments[0], value)
        number = len(found) if isinstance(found, tuple) else found  # the range of a tuple is that of its length
        if all(number in each for each in arguments[1:] if isinstance(each, Range)):
            return found
        raise Unfit
    if origin in (typing.Union, types.UnionType):
        return _fit_one(arguments, value)
    if origin is Literal:
        return _fit_choice(arguments, value)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(fit(arguments[0], item) for item in value)
    if isinstance(origin, type) and issubclass(origin, Iterable) and origin is not tuple and is_list(value):
        return [fit(arguments[0], item) for item in value] if isinstance(value, list) else value
    if hint in _SCALARS:
        return _fit_scalar(hint, value)
    if hint is Any or (isinstance(hint, type) and isinstance(value, hint)):
        return value
    raise Unfit


def describe(hint: Any, *, none: str = "None") -> str:
    """Return the values that an annotation allows, in words; `none` is the word for None."""
    words = [_describe_one(option, none) for option in options(hint)]
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def show(value: object) -> str:
    """Return the `repr` of a value in at most 80 characters; for a table its type and its columns."""
    if (columns := columns_of(value)) is not None:
        named = f" with {', '.join(map(repr, columns[:10]))}" if columns else ""
        return f"a {type(value).__name__}{named}"
    shown = " ".join(repr(value).split())
    return shown if len(shown) <= 80 else shown[:77] + "..."


def columns_of(value: object) -> list[str] | None:
    """Return the names of the columns, keys or splits of a table in memory, such as a DataFrame; None: no table."""
    if isinstance(value, Mapping):
        return list(map(str, value))
    columns = getattr(value, "column_names", None)  # a Dataset, a pyarrow.Table
    if columns is None and getattr(value, "ndim", 2) == 2:
        columns = getattr(value, "columns", None)  # a DataFrame
    return None if columns is None or callable(columns) else list(map(str, columns))


def is_list(value: object) -> bool:
    """Return whether a value is a list, an array, a column or another ordered iterable, but not a string or a table."""
    if isinstance(value, str | bytes | Set) or columns_of(value) is not None:
        return False
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0


def is_missing(value: object) -> bool:
    """Return whether a value is missing: None, NaN, or pandas' NA or NaT."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in _MISSING


def way_out(hint: Any, value: object) -> str:
    """Return what to pass instead of a value that is no data set or `Examples`; "" if `hint` expects neither."""
    if not any(option is Path or getattr(option, "__name__", "") in ("Examples", "Splits") for option in options(hint)):
        return ""
    if all(hasattr(value, name) for name in ("train", "validation", "test")):
        return "Pass one of the splits, such as splits.train."
    columns = columns_of(value)
    if columns is None:
        return "" if isinstance(value, str) or not is_list(value) else _OF_LISTS
    if "train" in columns:
        return "Take a split first, as in data['train'], then Examples.from_lists(split['text'], split['label'])."
    text = next((name for name in columns if name.lower() in ("text", "sentence")), "text")
    label = next((name for name in columns if name.lower() in ("label", "labels")), "label")
    return (
        f"Build examples from its columns, Examples.from_lists(data[{text!r}], data[{label!r}]), for Trainer.fit and "
        "Trainer.evaluate; load_splits reads files, such as data.to_csv('data.csv', index=False) writes."
    )


_SCALARS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "a path",
    types.NoneType: "None",
}
_OF_LISTS = "Build examples of lists first: Examples.from_lists(texts, labels)."
_MISSING = ("NAType", "NaTType")
_PLURALS = {"a string": "strings", "a number": "numbers", "a whole number": "whole numbers"}


def _fitted(hints: Mapping[str, Any], values: Mapping[str, Any], expected: str) -> dict[str, Any]:
    found, problems, ways_out = {}, [], []
    for name, hint in hints.items():
        try:
            found[name] = fit(hint, values[name])
        except Unfit:
            problems.append(f"{name} must be {describe(hint)}, found {show(values[name])}")
            ways_out.append(way_out(hint, values[name]))
    if problems:
        raise ConfigError(" ".join([f"{expected}: {'; '.join(problems)}.", *filter(None, dict.fromkeys(ways_out))]))
    return found


def _owner(function: Callable[..., Any], error: str, given: Iterable[str]) -> str:
    """Return where an argument belongs that is a field of a configuration the function takes; "" if none is."""
    named = [name for name in given if repr(name) in error] or list(given)
    for name, hint in _hints(function).items():
        for option in filter(dataclasses.is_dataclass, options(hint)):
            for field in dataclasses.fields(option):
                if field.name in named and field.name not in _hints(function):
                    kind = getattr(option, "__name__", "")
                    return f"{field.name} is a field of {kind}: pass {name}={kind}({field.name}=...)."
    return ""


@functools.cache
def _hints(of: Any) -> dict[str, Any]:
    return typing.get_type_hints(of, include_extras=True)


def options(hint: Any) -> list[Any]:
    """Return the members of a union; of a literal with several values, a literal of each."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [option for each in typing.get_args(hint) for option in options(each)]
    return [Literal[value] for value in typing.get_args(hint)] if typing.get_origin(hint) is Literal else [hint]


def _fit_one(options: Iterable[Any], value: Any) -> Any:
    for option in options:
        with contextlib.suppress(Unfit):
            return fit(option, value)
    raise Unfit


def _fit_choice(choices: Iterable[Any], value: Any) -> Any:
    for choice in choices:
        if isinstance(value, type(choice)) and value == choice:
            return choice
    raise Unfit


def _fit_scalar(hint: Any, value: Any) -> Any:
    if hint is Path and isinstance(value, str) and "\0" not in value:
        return Path(value)
    is_bool = isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")
    if hint is bool and is_bool:
        return bool(value)
    if hint is int and isinstance(value, numbers.Integral) and not is_bool:
        return int(value)
    if hint is float and isinstance(value, numbers.Real) and not is_bool and float(value) in FINITE:
        return float(value)
    if hint is str and isinstance(value, str):
        return str(value)
    if hint in (Path, types.NoneType) and isinstance(value, hint):
        return value
    raise Unfit


def _describe_one(hint: Any, none: str) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return repr(arguments[0])
    if hint is types.NoneType:
        return none
    if origin is Annotated:
        ranges = [] if typing.get_origin(arguments[0]) is tuple else [f" {each}" for each in arguments[1:]]
        return _describe_one(arguments[0], none) + "".join(ranges)
    if origin is not None:
        each = describe(arguments[0], none=none)
        word = next((word for word in _PLURALS if each.startswith(word)), "")
        return f"a list of {_PLURALS[word]}{each[len(word) :]}" if word else "a list"
    return str(_SCALARS.get(hint) or getattr(hint, "__name__", hint))
