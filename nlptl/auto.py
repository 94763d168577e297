"""Lets `import nlptl` make saved heads known to transformers without importing transformers, which takes seconds.

What is there already is told at once; what is not, right after it is imported.
"""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

REGISTRATIONS = {
    "transformers.models.auto.configuration_auto": "nlptl.model.headed_config",
    "transformers.models.auto.modeling_auto": "nlptl.model.heads",
}
"""Modules of transformers' Auto classes, and which of ours registers with each when it is imported."""


class _AfterAutoClasses(importlib.abc.MetaPathFinder):
    """Finds a module of the Auto classes once, as Python would, and imports ours after it has run."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in REGISTRATIONS or fullname in self.found:
            return None
        self.found.add(fullname)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run_module = spec.loader.exec_module

            def run_then_register(module: ModuleType) -> None:
                run_module(module)
                importlib.import_module(REGISTRATIONS[fullname])

            spec.loader.exec_module = run_then_register  # type: ignore[method-assign]
        return spec


def register_heads() -> None:
    """Register nlptl's heads with the Auto classes of transformers, now or when they are imported."""
    sys.meta_path.insert(0, _AfterAutoClasses())
    for theirs, ours in REGISTRATIONS.items():
        if theirs in sys.modules:
            importlib.import_module(ours)
