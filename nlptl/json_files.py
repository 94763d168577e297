"""Reads the JSON files that a run has left."""

import json
from pathlib import Path
from typing import Any

from nlptl.errors import UntrustedFileError


def read_object(path: Path, *, way_out: str = "Restore it from a copy.") -> dict[str, Any]:
    """Return the JSON object in a file; empty, if there is no such file.

    Raises:
        UntrustedFileError: If there is something else in it, or it cannot be read.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error), way_out) from error
    if not isinstance(values, dict):
        raise _damaged(path, f"a {type(values).__name__}", way_out)
    return values


def _damaged(path: Path, found: str, way_out: str) -> UntrustedFileError:
    return UntrustedFileError(f"Expected a JSON object in {path}, found something else: {found}. {way_out}")
