"""CONTRIBUTING.md names tests that exist, in the tier that it says."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
TABLE = re.findall(r"^\| (?!promise|---|\*\*)(.+?) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)


def source_of(name: str) -> str:
    """Return the source of a test with its decorators, or of a whole file for `file::*`."""
    path, _, test = name.partition("::")
    source = (TESTS / path).read_text(encoding="utf-8")
    if test == "*":
        return source
    (function,) = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == test]
    return "\n".join(ast.unparse(decorator) for decorator in function.decorator_list)


@pytest.mark.parametrize(("promise", "always", "nightly"), TABLE, ids=lambda words: words[:40])
def test_every_promise_names_its_tests(promise: str, always: str, nightly: str):
    default, more = (re.findall(r"`(.+?)`", names) for names in (always, nightly))
    assert default, "no test of every change holds it"
    # A mark on some of the parameters leaves the others to `make test`.
    assert [name for name in default if "pytest.mark.nightly" in source_of(name).splitlines()] == []
    assert [name for name in more if "pytest.mark.nightly" not in source_of(name)] == []


def test_there_are_promises():
    assert len(TABLE) >= 50
