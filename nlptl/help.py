"""The text of `--help`: the flags of a dataclass, each with the string under its field."""

import ast
import dataclasses
import inspect
import shutil
import textwrap
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from nlptl.flags import COMMON, Flag, flags_of

FEW = 30
"""Up to this many flags, `--help` shows all of them."""
MANY = 8
"""Up to this many choices are listed beside the flag, more of them in its text."""
INDENT = 26
"""Column in which the texts of the flags begin."""
_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


def help_text(cls: type, *, prog: str, description: str, is_full: bool) -> str:
    """Return the help of a command.

    Args:
        cls: Dataclass with the settings of the command; those of the dataclasses in it are flags of the same level.
        prog: The words before the flags.
        description: Text above the flags.
        is_full: Show every flag. Otherwise, of a dataclass with many, those that most people need.
    """
    positional, groups = _rows(cls)
    flags = {flag: row for rows in groups.values() for flag, row in rows.items()}
    common = {title: {name: flags[name] for name in names if name in flags} for title, names in COMMON.items()}
    has_more = len(flags) > FEW
    shown = common if has_more else {"options": flags}
    if has_more and is_full:
        is_common = {name for rows in common.values() for name in rows}
        rest = {title: {n: row for n, row in rows.items() if n not in is_common} for title, rows in groups.items()}
        shown = common | {title: rows for title, rows in rest.items() if rows}
    general = {"-h, --help": "Print this text."}
    if has_more:
        general["--help-all"] = f"Print all {len(flags)} options."
    if not positional:
        general["--config FILE"] = "Read settings from a JSON file, such as config.json of a run; flags override it."
    general["--debug"] = "Show the traceback of an error."
    blocks = {"arguments": positional} if positional else {}
    blocks |= {title: dict(rows.values()) for title, rows in shown.items()} | {"general": general}
    usage = " ".join(["usage:", prog, *positional, "[options]"])
    return "\n\n".join([usage, description.strip(), *(_block(title, rows) for title, rows in blocks.items())])


def _rows(cls: type) -> tuple[dict[str, str], dict[str, dict[str, tuple[str, str]]]]:
    """Return positional fields with their help, and by title of their group, flags: name -> (how to pass it, help)."""
    positional, flags = flags_of(cls)
    docs = {owner: field_docs(owner) for owner in {flag.owner for flag in [*positional, *flags]}}
    groups: dict[str, dict[str, tuple[str, str]]] = {"data and run": {}}
    for flag in flags:
        title = (inspect.getdoc(flag.owner) or "").partition("\n")[0].rstrip(".")
        group = groups.setdefault("data and run" if flag.owner is cls else title, {})
        group[flag.name] = _row(flag, docs[flag.owner].get(flag.setting, ""))
    return {flag.setting.upper(): docs[flag.owner].get(flag.setting, "") for flag in positional}, groups


def _row(flag: Flag, doc: str) -> tuple[str, str]:
    """Return how a flag is passed, and its help with the default."""
    if flag.hint is bool:
        return (f"--{flag.name}, --no-{flag.name}", f"{doc} [on]") if flag.default else (f"--{flag.name}", doc)
    if len(choices := _choices(flag.hint)) > MANY:
        doc += f" One of {', '.join(choices)}."
    values = flag.default if isinstance(flag.default, tuple) else (flag.default,)
    shown = f" [{' '.join(map(str, values))}]" if flag.default not in (None, ()) else ""
    return f"--{flag.name} {metavar(flag.hint)}", f"{doc}{shown}"


def metavar(hint: Any) -> str:
    """Return how the values of a type are written in help: `N`, `{adamw,sgd}`, `TEXT ...`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "NAME" if len(arguments) > MANY else "{" + ",".join(map(str, arguments)) + "}"
    if origin in (typing.Union, types.UnionType):
        return "|".join(metavar(option) for option in arguments if option is not types.NoneType)
    if origin is tuple:
        return f"{metavar(arguments[0])} ..."
    return _METAVARS.get(hint, "VALUE")


def _choices(hint: Any) -> list[str]:
    if typing.get_origin(hint) is Literal:
        return list(map(str, typing.get_args(hint)))
    return [choice for part in typing.get_args(hint) for choice in _choices(part)]


def field_docs(cls: type) -> dict[str, str]:
    """Return the string under each field of a dataclass and of those it inherits from, without its line breaks."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]).body
        for field, below in zip(body, body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(field.target, ast.Name):
                text = ast.literal_eval(below.value) if isinstance(below.value, ast.Constant) else ""
                docs[field.target.id] = " ".join(str(text).split())
    return docs


def _block(title: str, rows: Mapping[str, str]) -> str:
    width = max(min(shutil.get_terminal_size().columns, 120), INDENT + 30)
    lines = [f"{title}:"]
    for name, text in rows.items():
        first, *rest = textwrap.wrap(text, width - INDENT, break_on_hyphens=False) or [""]
        is_long = len(name) + 4 > INDENT
        lines += [f"  {name}", " " * INDENT + first] if is_long else [f"  {name}".ljust(INDENT) + first]
        lines += [" " * INDENT + line for line in rest]
    return "\n".join(lines)
