"""Several labels for each text: lists of names, of class numbers or of flags, or a column of flags for each label."""

import functools
import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence

from nlptl.data.columns import shorten
from nlptl.data.label_columns import LabelColumns, Problem, RowCollector, listed, names_of
from nlptl.errors import DataError

logger = logging.getLogger(__name__)

_FLAGS = {"0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True}


def list_collector(columns: LabelColumns) -> RowCollector:
    """Return a collector of the labels of each text: from lists, or from a column for each label."""
    if columns.are_flags:
        return RowCollector(_flagged_labels, columns)
    return RowCollector(_label_list, columns, _label_sets)


def labels_in(target: str) -> tuple[str, ...]:
    """Return the labels in a target."""
    return tuple(json.loads(target))


def rarest_labels(targets: Sequence[str]) -> list[str]:
    """Return the rarest label of each text, "" where it has none."""
    sets = list(map(functools.cache(labels_in), targets))
    counts = Counter(label for labels in sets for label in labels)
    return [min(labels, key=lambda label: (counts[label], label), default="") for labels in sets]


def set_problem(targets: Sequence[str], where: str, is_train: bool) -> Problem | None:
    """Find that train has no two labels."""
    names = {label for target in set(targets) for label in labels_in(target)}
    if not is_train or len(names) > 1:
        return None
    found = f"{next(iter(names))!r} alone" if names else "none"
    return Problem(
        f"Expected two or more labels in {where}, found {found}",
        "Pass another label column; for one label that a text has or not, pass --task single_label and a column with "
        "one of two labels for each text.",
    )


def _label_list(values: Sequence[object], columns: LabelColumns, row: int) -> str:
    """Return the labels of a text, or its flags, as a JSON list as it is given."""
    (value,), separator = values, columns.separator
    members = listed(value)
    if members is None and isinstance(value, str) and separator is not None:
        members = [name.strip() for name in value.split(separator) if name.strip()]
    if members is None or not all(_is_label(member) for member in members):
        raise DataError(_no_list_of_labels(shorten(value), columns, row))
    return json.dumps(members, ensure_ascii=False)


def _label_sets(targets: list[str], columns: LabelColumns, rows: Sequence[int]) -> list[str]:
    """Return lists of labels, or of flags (0 and 1 for each label, in lists of one length), as sets of labels."""
    lists = {target: json.loads(target) for target in set(targets)}
    names = _flag_names(list(lists.values()), columns)
    if names:
        shown = ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")
        what = f"lists of {len(names)} flags are read as the labels {shown}"
        logger.info("%s: %s, which a text has where its list has 1", columns.where, what)
    read: dict[str, str] = {}
    for target, row in zip(targets, rows, strict=True):
        if target not in read:
            read[target] = _set_of(lists[target], names, columns, row)
    return [read[target] for target in targets]


def _is_label(member: object) -> bool:
    """Tell whether a member of a list may be a name, the number of a class or a flag."""
    if isinstance(member, str):
        return bool(member.strip())
    return isinstance(member, int) or (isinstance(member, float) and member in (0.0, 1.0))


def _no_list_of_labels(found: str, columns: LabelColumns, row: int) -> str:
    return (
        f"Expected a list of labels for each text in {columns.where}, found {found} (row {row}). Write JSON lists "
        'such as ["joy", "love"], [] for none; pass --label-separator if labels are separated otherwise; or '
        "pass --label-columns for a column of 0 and 1 for each label."
    )


def _flag_names(lists: list[list[object]], columns: LabelColumns) -> list[str]:
    """Return the names of the labels if the lists hold flags; an empty list if they hold names or class numbers.

    Lists of flags have one length and hold only 0 and 1. A repeated member is a sure sign, since sets have none; so are
    booleans, floats, and 1 before 0.
    """
    widths = {len(members) for members in lists}
    if len(widths) != 1 or widths == {0} or not all(_flag(each) is not None for members in lists for each in members):
        return []
    (width,) = widths
    if columns.class_names is not None and len(columns.class_names) != width:
        return []
    is_sure = any(
        len({_flag(each) for each in members}) < width or _flag(members[0]) > _flag(members[-1])  # type: ignore[operator]
        for members in lists
    )
    if not is_sure and not any(isinstance(each, bool | float) for members in lists for each in members):
        return []
    digits = len(str(width - 1))  # so that their names sort in the order of their numbers
    return list(columns.class_names or [f"label_{i:0{digits}}" for i in range(width)])


def _flag(member: object) -> bool | None:
    return _FLAGS.get(str(member).strip().lower())


def _set_of(members: list[object], names: list[str], columns: LabelColumns, row: int) -> str:
    """Return the labels of a text as a JSON list of different names in order."""
    if names:
        found: list[str] | None = [name for name, member in zip(names, members, strict=True) if _flag(member)]
    else:
        numbers = [member for member in members if not isinstance(member, str)]
        is_set = len(set(map(str, numbers))) == len(numbers)
        are_ids = not any(isinstance(number, bool | float) for number in numbers)
        found = names_of(members, columns.class_names) if is_set and are_ids else None
    if found is None:
        raise DataError(
            f"{_no_list_of_labels(shorten(members), columns, row)} Flags, 0 and 1 for each label, are read from lists "
            "of one length; a list of class numbers has each of them once."
        )
    return sys.intern(json.dumps(sorted(set(found)), ensure_ascii=False))


def _flagged_labels(values: Sequence[object], columns: LabelColumns, row: int) -> str:
    flags = [_flag(value) for value in values]
    if None in flags:
        i = flags.index(None)
        raise DataError(
            f"Expected 0 or 1 in each of the label columns of {columns.where}, found {shorten(values[i])} in "
            f"{columns.names[i]!r} (row {row}). Correct that row, or take the column out of --label-columns."
        )
    chosen = sorted(column for column, flag in zip(columns.names, flags, strict=True) if flag)
    return json.dumps(chosen, ensure_ascii=False)
