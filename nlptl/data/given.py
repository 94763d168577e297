"""Texts and labels as Python code passes them: lists, arrays and columns, but no strings or tables."""

from collections.abc import Iterable
from typing import Any, cast

from nlptl.data.columns import is_encodable
from nlptl.errors import ConfigError
from nlptl.values import columns_of, is_list, is_missing, show


def as_list(values: object, what: str) -> list[Any]:
    """Return a list, an array, a column of a table, or any other ordered iterable as a list.

    `what` is what to call the items in messages, in the plural.

    Raises:
        ConfigError: If it is a single string, a table (whose items would be the names of its columns), or no list.
    """
    columns = columns_of(values)
    if columns:
        name = next((name for name in (what.removesuffix("s"), "train", "text") if name in columns), columns[0])
        column = f"data[{name!r}]" + "['text']" * (name == "train")
        raise ConfigError(f"Expected a list of {what}, found {show(values)}. Pass one column of it: {column}.")
    if isinstance(values, str | bytes):
        raise ConfigError(f"Expected a list of {what}, found the string {values[:40]!r}. Pass [text] for a single one.")
    if not is_list(values):
        raise ConfigError(f"Expected a list of {what}, found {show(values)}. Pass them in a list, in their order.")
    for name in ("to_pylist", "to_list", "tolist"):  # of pyarrow, polars and pandas, numpy
        if hasattr(values, name):
            return list(getattr(values, name)())
    items: list[Any] = list(cast(Iterable[Any], values))
    return items


def as_texts(values: object, what: str = "texts") -> list[str]:
    """Return what `as_list` does as strings; a missing value (None, NaN, pandas' NA) is an empty text.

    Raises:
        ConfigError: As `as_list` does, or if an item is no string.
    """
    texts = as_list(values, what)
    for i, text in enumerate(texts):
        if not isinstance(text, str) and not is_missing(text):
            columns = columns_of(text) or []
            instead = f"[row[{columns[0]!r}] for row in ...]" if columns else "only strings"
            raise ConfigError(f"Expected {what}, found {show(text)} at position {i}. Pass {instead}.")
        if isinstance(text, str) and not (text.isascii() or is_encodable(text)):
            found = f"half of a surrogate pair in {show(text)} at position {i}"
            raise ConfigError(f"Expected {what} that UTF-8 can hold, found {found}. Decode it in another way.")
    return [str(text) if isinstance(text, str) else "" for text in texts]
