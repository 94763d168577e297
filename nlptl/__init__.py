"""Transfer learning on text: pretrained encoders, classification heads, and control over what is trained.

The public names are listed in `__init__.pyi`. Each is imported when it is first used, so that `import nlptl` is quick
and imports no torch.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.2.0"

_MODULES = {
    name.name: statement.module
    for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(statement, ast.ImportFrom) and statement.module
    for name in statement.names
}

__all__ = [*_MODULES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'nlptl' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
