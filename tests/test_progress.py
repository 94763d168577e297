"""Progress bars are for people at a terminal."""

import io

import pytest

from nlptl.progress import progress_bar


@pytest.mark.parametrize(
    ("is_terminal", "name", "rank", "is_shown"),
    [(True, "x", "0", True), (False, "x", "0", False), (True, None, "0", False), (True, "x", "1", False)],
)
def test_bar_is_shown_by_the_main_process_on_a_terminal(is_terminal, name, rank, is_shown, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("RANK", rank)
    assert list(progress_bar([1, 2, 3], name=name)) == [1, 2, 3]
    assert stream.getvalue().startswith("\rx:  ") == is_shown
    assert bool(stream.getvalue()) == is_shown
