"""Progress bars."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(items: Iterable[Any] | None = None, *, name: str | None, total: int | None = None, **how: Any) -> Any:
    """Return tqdm's bar over `items`; it is shown by the main process on a terminal, and has a name or is hidden."""
    is_shown = name is not None and total != 0 and os.environ.get("RANK", "0") == "0" and sys.stderr.isatty()
    return tqdm(items, desc=name, total=total, disable=not is_shown, leave=False, **how)
