"""Reports in a headless Chromium: it says nothing, asks for nothing, and what it shows fits phone, desk and paper."""

import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from nlptl import cli
from tests.judging.chromium import MISSING, Browser, chromium
from tests.judging.made_up import LABELS, write_run
from tests.judging.test_report import HOSTILE

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}, Debian's packages of these names"),
]

SIZES = {"phone": 360, "desk": 1280}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a report of every kind of task, and one of hostile data."""
    folder = tmp_path_factory.mktemp("reports")
    many = tuple(f"class number {i}" for i in range(20))
    runs = {task: write_run(folder / task, task) for task in LABELS}
    runs["many classes"] = write_run(folder / "many", labels=many, text="A long text. " * 200)
    labels = (f"a {HOSTILE}", f"b{'x' * 500}")
    runs["hostile"] = write_run(folder / "hostile", labels=labels, text=HOSTILE, column=HOSTILE, dataset=HOSTILE)
    for run in runs.values():
        cli.main(["report", str(run)])
    return {name: run / "report.html" for name, run in runs.items()}


@pytest.mark.parametrize("name", [*LABELS, "many classes", "hostile"])
def test_a_page_is_quiet_and_fits(name: str, browser: Browser, pages: dict[str, Path], tmp_path: Path):
    for width in SIZES.values():
        for scheme in ("light", "dark"):
            browser.messages(), browser.requests()  # of the page before
            browser.open(pages[name], width=width, scheme=scheme)
            assert browser.messages() == []
            assert browser.requests() == [pages[name].as_uri()]
            assert browser.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
            # What is wider than the window scrolls in a box of its own.
            wide = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, .drawing, pre, svg'))"
            assert browser.evaluate(f"{wide}.filter(e => e.getBoundingClientRect().right > innerWidth + 1).length") == 0
            assert browser.evaluate("document.scripts.length + document.images.length") == 0
            image = browser.screenshot(tmp_path / "page.png")
            assert image.startswith(b"\x89PNG")
            assert different_rows(image) > 50


def test_light_and_dark_are_what_was_asked_for(browser: Browser, pages: dict[str, Path]):
    brightness = {}
    for scheme in ("light", "dark"):
        browser.open(pages["single_label"], width=360, scheme=scheme)
        colour = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness[scheme] = sum(map(int, colour.removeprefix("rgb(").rstrip(")").split(", ")))
        ink = browser.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
        assert abs(sum(map(int, ink.removeprefix("rgb(").rstrip(")").split(", "))) - brightness[scheme]) > 400
    assert brightness["light"] > 700
    assert brightness["dark"] < 150


def test_figures_can_be_read_on_a_phone(browser: Browser, pages: dict[str, Path]):
    browser.open(pages["single_label"], width=360)
    sizes = browser.evaluate(
        "[...document.querySelectorAll('svg text')].map(t => parseFloat(getComputedStyle(t).fontSize) * "
        "t.ownerSVGElement.getBoundingClientRect().width / t.ownerSVGElement.viewBox.baseVal.width)"
    )
    assert len(sizes) > 20
    assert min(sizes) >= 9


def test_letters_of_figures_stay_inside_of_them(browser: Browser, pages: dict[str, Path]):
    for name in ("single_label", "many classes", "multi_label"):
        browser.open(pages[name], width=1280)
        outside = browser.evaluate(
            "[...document.querySelectorAll('svg text')].filter(t => { const a = t.getBoundingClientRect(), "
            "b = t.ownerSVGElement.getBoundingClientRect(); return a.left < b.left - 1 || a.right > b.right + 1 || "
            "a.top < b.top - 1 || a.bottom > b.bottom + 1 }).map(t => t.textContent)"
        )
        assert outside == []


def test_on_paper_everything_is_unfolded(browser: Browser, pages: dict[str, Path]):
    hidden = (
        "[...document.querySelectorAll('main details *')].filter(e => !e.checkVisibility({contentVisibilityAuto: true, "
        "opacityProperty: true, visibilityProperty: true}) || e.getBoundingClientRect().height == 0).length"
    )
    browser.open(pages["many classes"], width=800)
    assert browser.evaluate(hidden) > 10
    browser.open(pages["many classes"], width=800, media="print", scheme="dark")
    assert browser.evaluate(hidden) == 0
    assert browser.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_hostile_text_runs_nothing_and_turns_nothing_around(browser: Browser, pages: dict[str, Path]):
    browser.open(pages["hostile"], width=1280)
    assert browser.evaluate("document.title").endswith(": report")
    shown = browser.evaluate("document.querySelector('.quoted').textContent")
    assert shown.startswith("<script>alert(1)</script>")
    assert "\\u202etxet\\u202c" in shown
    assert browser.evaluate("getComputedStyle(document.querySelector('bdi')).unicodeBidi") == "isolate"


def different_rows(image: bytes) -> int:
    """Return how many different rows of pixels, still filtered, a PNG has: 1 where it is blank."""
    stream, parts = io.BytesIO(image[8:]), []
    width = height = 0
    while head := stream.read(8):
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        content = stream.read(length)
        stream.read(4)
        if kind == b"IHDR":
            width, height = (int.from_bytes(content[i : i + 4], "big") for i in (0, 4))
        elif kind == b"IDAT":
            parts.append(content)
    rows = zlib.decompress(b"".join(parts))
    size = len(rows) // height
    assert width > 300
    return len({rows[i * size : (i + 1) * size] for i in range(height)})
