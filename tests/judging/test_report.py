"""The report of a run: what is in it, that it harms nobody, and when it is refused."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nlptl import cli
from nlptl.config import ClassificationConfig
from nlptl.data.findings import EXPLANATIONS
from nlptl.judging.card import model_card
from nlptl.judging.document import decimal, interval, metric_name
from nlptl.judging.report import TEMPLATE
from nlptl.judging.run_files import LONGEST, read_run
from nlptl.judging.sections import LEAKS, TASKS
from nlptl.tasks.kinds import KINDS
from tests.judging.made_up import LABELS, METRICS, score, write_run

VOID = ("meta", "br", "link", "img", "hr", "input")
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)></style></title><!-- ' \" & ]]> {{ 7 * 7 }} {% x %} "
    "\u202etxet\u202c \x1b[31m \x00 \ud800 | $a^2$ `x` https://evil.example/ @all #1 url(#p0) \u2068\u2069"
)


class Page(HTMLParser):
    """What a page is made of: elements with their attributes in order, and the text in each."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, *tags: str) -> str:
        return "".join(text for tag, text in self.texts if not tags or tag in tags)


def report(folder: Path) -> str:
    """Write the report of a run by the command, and return it."""
    cli.main(["report", str(folder)])
    return (folder / "report.html").read_text(encoding="utf-8")


def check_page(html: str) -> Page:
    """Return what a page is made of, after a look whether it is sound, safe and readable without seeing it."""
    page = Page(html)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "img", "link", "form", "input", "base", "audio", "video"}
    for tag, attributes in page.elements:
        assert [key for key in attributes if key.startswith("on")] == [], tag
        for key in ("src", "srcset", "action", "data", "poster", "background"):
            assert key not in attributes, tag
        for key in ("href", "xlink:href"):
            assert attributes.get(key, "#").startswith("#"), tag
    styles = page.text("style") + "".join(str(attributes.get("style")) for _, attributes in page.elements)
    assert re.findall(r"@import|expression|url\((?!#)", styles) == []
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")

    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in page.elements if "href" in attributes]
    drawn = [str(attributes.get("clip-path", "")) for _, attributes in page.elements]
    links += [link for each in drawn for link in re.findall(r"url\((#[^)]*)\)", each)]
    assert len(links) > 3
    assert {link[1:] for link in links} <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    assert page.all("html")[0]["lang"] == "en"
    assert [len(page.all(tag)) for tag in ("header", "nav", "main", "footer", "title")] == [
        1,
        1,
        1,
        1,
        1 + len(page.all("svg")),
    ]
    assert len(page.all("table")) == len(page.all("caption")) > 3
    assert {cell.get("scope") for cell in page.all("th")} == {"row", "col"}
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        assert len(str(svg["aria-label"])) > 20
    assert len(html.encode()) < 2_000_000
    return page


@pytest.mark.parametrize("task", LABELS)
def test_each_kind_of_task_has_its_report(task: str, tmp_path: Path):
    folder = write_run(tmp_path / "run", task)
    page = check_page(report(folder))
    text = page.text()
    for metric in METRICS[task]:
        written = json.loads((folder / "scores.json").read_text())["test"][metric]
        assert f"{metric_name(metric)}{decimal(written['value'])}{interval(written)}400" in text.replace("\n", "")
    headings = {text for tag, text in page.texts if tag == "h2"}
    expected = {"Verdict", "What was trained", "Scores", "Learning curves", "Slices", "Errors", "Robustness", "Data"}
    expected |= {"Which words decide", "Costs", "Settings", "Versions", "How to use the model"}
    expected |= {"Confusion"} if task in ("single_label", "ordinal") else set()
    expected |= {"Calibration"} if task not in ("regression", "tokens") else set()
    assert headings == expected
    drawn = 5 + 2 * ("Calibration" in expected) + ("Confusion" in expected)  # scores, three curves, slices
    assert len(page.all("svg")) == drawn
    assert "owner/encoder" in text
    assert "800 train, 100 validation, 400 test" in text
    assert "50.0 % of train, 25.0 % of test" in text


def test_the_report_knows_all_kinds_of_tasks_and_leaks():
    assert set(TASKS) == set(KINDS)
    assert set(LEAKS) <= set(EXPLANATIONS)


def test_only_what_training_writes_is_needed(tmp_path: Path):
    folder = write_run(tmp_path / "run", analysed=False)
    headings = {text for tag, text in check_page(report(folder)).texts if tag == "h2"}
    assert headings == {
        *("Verdict", "What was trained", "Scores", "Learning curves", "Data", "Settings", "Versions"),
        "How to use the model",
    }
    kept = {"config.json", "scores.json"}
    removed = [path.unlink() for path in folder.iterdir() if path.name not in kept]
    assert len(removed) > 4
    headings = {text for tag, text in check_page(report(folder)).texts if tag == "h2"}
    assert headings == {"Verdict", "What was trained", "Scores", "Settings", "How to use the model"}


@pytest.mark.parametrize(
    ("value", "low", "baseline", "said"),
    [
        (0.75, 0.71, 0.5, "0.750 (95 % interval 0.710 to 0.780): better by 0.250 than the majority baseline (0.500)"),
        (0.75, 0.49, 0.5, "not clearly better than the majority baseline (0.500), which reads no text: the interval"),
        (0.45, 0.4, 0.5, "0.450 (95 % interval 0.400 to 0.780): no better than the majority baseline (0.500)"),
        (None, None, 0.5, "accuracy is \u2013 (95 % interval \u2013)."),
    ],
)
def test_the_verdict(value: float | None, low: float | None, baseline: float, said: str, tmp_path: Path):
    folder = write_run(tmp_path / "run", analysed=False)
    scores = json.loads((folder / "scores.json").read_text())
    scores["test"]["accuracy"] |= {"value": value, "low": low, "high": None if low is None else 0.78}
    scores["majority_baseline"]["test"]["accuracy"]["value"] = baseline
    (folder / "scores.json").write_text(json.dumps(scores))
    assert said in Page(report(folder)).text("p")


def test_a_score_of_which_less_is_better_is_judged_as_such(tmp_path: Path):
    folder = write_run(tmp_path / "run", analysed=False)
    config = json.loads((folder / "config.json").read_text())
    config["train"]["selection_metric"] = "log_loss"
    (folder / "config.json").write_text(json.dumps(config))
    scores = json.loads((folder / "scores.json").read_text())
    scores["test"]["log_loss"] = score(0.3)
    (folder / "scores.json").write_text(json.dumps(scores))
    assert "log loss is 0.300 (95 % interval 0.260 to 0.330): better by 0.200 than" in Page(report(folder)).text("p")
    scores["test"]["log_loss"] = score(0.48)
    (folder / "scores.json").write_text(json.dumps(scores))
    assert "not clearly better" in Page(report(folder)).text("p")
    scores["test"]["log_loss"] = score(0.52)
    (folder / "scores.json").write_text(json.dumps(scores))
    assert "no better than" in Page(report(folder)).text("p")


def test_a_run_without_test_scores_is_told_by_validation(tmp_path: Path):
    folder = write_run(tmp_path / "run", analysed=False)
    scores = json.loads((folder / "scores.json").read_text())
    del scores["test"]
    (folder / "scores.json").write_text(json.dumps(scores))
    text = Page(report(folder)).text("p")
    assert "On 400 validation texts, accuracy is 0.750" in text
    assert "There are no scores on test yet." in text


def test_a_flagged_slice_and_a_warning_are_in_the_verdict(tmp_path: Path):
    folder = write_run(tmp_path / "run", text="rare words")
    baselines = json.loads((folder / "baselines.json").read_text())
    baselines["warning"] = "Transfer did not help."
    (folder / "baselines.json").write_text(json.dumps(baselines))
    data = json.loads((folder / "data_report.json").read_text())
    leak = {"kind": "leak", "message": "8 rows of test are in train", "meaning": "The scores are too good.", "count": 8}
    data["findings"] += [data["findings"][0] | leak, data["findings"][0] | leak | {"message": "1 row", "count": 1}]
    (folder / "data_report.json").write_text(json.dumps(data))
    page = check_page(report(folder))
    warnings = [attributes for attributes in page.all("p") if attributes.get("class") == "warning"]
    assert len(warnings) == 4
    assert "8 rows of test are in train (2.0 %). The scores are too good." in page.text("p", "bdi")
    assert "worse on 1 slice of the texts than on the rest: length: rare words (accuracy 0.400" in page.text("p", "bdi")
    assert "Transfer did not help." in page.text("bdi")
    assert "Transfer helps" not in page.text("p", "bdi")
    assert "The gain of frozen encoder (this run) over majority: +0.250 accuracy" in page.text("p", "bdi")
    assert page.text("text").count("this run") == 1
    assert "25.0 % of the test texts are too long: the model reads only a part" in page.text("p")
    assert len([row for row in page.all("tr") if row.get("class") == "marked"]) == 2  # slice, this run


def test_a_gain_is_in_the_verdict(tmp_path: Path):
    page = check_page(report(write_run(tmp_path / "run")))
    assert "Transfer helps: frozen encoder (this run) is better than majority by 0.250" in page.text("p", "bdi")


def test_a_recalibrated_model_is_told_from_the_one_that_was_scored(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    (folder / "model").mkdir()
    chosen = {"calibration": {"method": "temperature", "temperature": 2.0}}
    (folder / "model" / "nlptl.json").write_text(json.dumps(chosen))
    analysis = json.loads((folder / "analysis.json").read_text())
    analysis |= {"chosen": chosen, "remarks": ["scope: 0.9500 of the texts are in it"]}
    (folder / "analysis.json").write_text(json.dumps(analysis))
    told, remark = "The model was recalibrated after it was scored", "On test: scope: 0.9500 of the texts are in it."
    text = check_page(report(folder)).text("p", "bdi")
    assert told not in text
    assert remark in text
    (folder / "model" / "nlptl.json").write_text(json.dumps({"calibration": {"method": "vector"}}))
    cli.main(["report", str(folder)])
    text = check_page((folder / "report.html").read_text()).text("p", "bdi")
    assert told in text
    assert remark not in text
    assert told in (folder / "model" / "README.md").read_text()


def test_what_was_decided_on_validation_is_told(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    decisions = {
        "threshold": 0.4,
        "abstention": {"below": 0.8, "target_accuracy": 0.95, "accuracy": 0.951, "coverage": 0.6},
        "sets": {"score": "lac", "coverage": 0.9, "quantile": 0.7, "n": 100},
        "scope": {"kept": 0.95, "least": 1.5},
    }
    (folder / "model").mkdir()
    saved = folder / "model" / "nlptl.json"
    saved.write_text(json.dumps({"labels": LABELS["single_label"], "decisions": decisions}))
    text = check_page(report(folder)).text("p", "bdi")
    for said in (
        "positive is predicted if its probability is 0.400 or more.",
        "below 0.800 get no label; 60.0 % of the texts it was fitted on got one, and 95.1 % of these labels were",
        "contains the true one with probability 0.900 (split conformal prediction, fitted on 100 texts).",
        "labelled out of scope; 95.0 % of the texts it was fitted on were in scope.",
    ):
        assert said in text
        assert said.removeprefix("positive") in model_card(read_run(folder))
    several = write_run(tmp_path / "several", "multi_label")
    (several / "model").mkdir()
    values = {"labels": LABELS["multi_label"], "thresholds": [0.1, 0.2, 0.3]}
    (several / "model" / "nlptl.json").write_text(json.dumps(values))
    assert "joy0.200" in check_page(report(several)).text("th", "td", "bdi")


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_what_comes_from_the_data_is_shown_and_harmless(task: str, tmp_path: Path):
    labels = (f"a {HOSTILE}", f"b {HOSTILE}")
    names = {"labels": labels, "text": HOSTILE, "column": HOSTILE, "dataset": f"/a \"b\" 'c'/{HOSTILE}"}
    html = report(write_run(tmp_path / "run", task, **names))
    page = check_page(html)
    plain = check_page(report(write_run(tmp_path / "plain", task)))
    assert [tag for tag, _ in page.elements if tag not in ("text", "tspan")].count("mark") == len(HOSTILE.split(" "))
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements}
    assert {key for _, attributes in page.elements for key in attributes} == {
        key for _, attributes in plain.elements for key in attributes
    }
    shown = page.text()
    for part in ("<script>alert(1)</script>", "onerror=alert(2)", "{{ 7 * 7 }} {% x %}", "$a^2$", "</style></title>"):
        assert shown.count(part) > 5
    for escape in ("\\u202etxet\\u202c", "\\x1b[31m", "\\x00", "\\ud800", "\\u2068\\u2069"):
        assert shown.count(escape) > 5
    assert re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html) == []
    assert "49" not in page.text("bdi")


@pytest.mark.nightly
def test_the_largest_run_makes_a_page_of_less_than_two_megabytes(tmp_path: Path):
    labels = tuple(f"{i} {'x' * 3000}" for i in range(1000))
    folder = write_run(tmp_path / "run", labels=labels, text="word " * 20_000, column="y" * 5000)
    analysis = json.loads((folder / "analysis.json").read_text())
    analysis["confusion"] = {"names": labels[:50], "counts": [[1] * 50] * 50}
    for key in ("confused", "attributions", "probes"):
        analysis[key] = analysis[key] * 20
    analysis["slices"]["rows"] *= 2000
    analysis["errors"] = {key: each * 20 for key, each in analysis["errors"].items()}
    (folder / "analysis.json").write_text(json.dumps(analysis))
    record = {"loss": 0.123456789, "learning_rate": 1e-5, "validation_accuracy": 0.5, "epoch": 1.0}
    lines = [json.dumps({"step": i, **record, "loss": i % 7}) for i in range(20_000)]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    html = report(folder)
    check_page(html)
    assert f"({len('word ' * 20_000) - LONGEST:,} more characters)" in html


def test_the_page_depends_on_the_files_alone_and_needs_no_torch(tmp_path: Path):
    folder = write_run(tmp_path / "run", labels=("x", "y", "z"))
    here = report(folder)
    script = (
        "import sys; from nlptl import cli; cli.main(['report', sys.argv[1]]); "
        "assert not {'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, env=environment, capture_output=True)
    assert (folder / "report.html").read_text(encoding="utf-8") == here


def test_without_matplotlib_there_are_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = check_page(report(folder).replace("</title>", "</title>"))
    assert page.all("svg") == []
    assert "pip install 'nlptl[report]'" in page.text("code")
    assert "Counts of labels (rows) and predictions (columns)" in page.text("caption", "span")


def test_letters_can_be_read_on_every_colour():
    """Contrast of 4.5 to 1 at least, as WCAG 2.2 has it: https://www.w3.org/TR/WCAG22/#contrast-minimum."""
    style = (Path(cli.__file__).parent / "judging" / TEMPLATE).read_text()
    themes = [dict(re.findall(r"--([\w-]+): ([^;]+);", block)) for block in re.findall(r":root \{([^}]*)\}", style)]
    assert len(themes) == 3
    for theme in themes:
        colours = {
            key: [int(value[i : i + 2], 16) for i in (1, 3, 5)] for key, value in theme.items() if value[0] == "#"
        }
        colours |= {key: [int(part) for part in value.split()] for key, value in theme.items() if key.endswith("-rgb")}
        backgrounds = {"ink": ["paper", "panel", "flag"], "quiet": ["paper", "panel", "flag"], "one": ["paper"]}
        for ink, papers in backgrounds.items():
            for paper in papers:
                assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper, theme)
        for key in ("one", "two", "one-rgb", "two-rgb"):  # cells of figures and words, at their darkest
            mixed = [(a + b) / 2 for a, b in zip(colours[key], colours["paper"], strict=True)]
            assert contrast(colours["ink"], mixed) >= 4.5, (key, theme)
        assert contrast(colours["two"], colours["paper"]) >= 3


def contrast(a: list[float], b: list[float]) -> float:
    """Return the contrast of two colours, red, green and blue from 0 to 255."""

    def luminance(colour: list[float]) -> float:
        parts = [c / 255 for c in colour]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(c * weight for c, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
    ("file", "content", "code", "message"),
    [
        (
            "config.json",
            None,
            2,
            "Expected the folder of a run at {run}, found no config.json in it. Pass the --output",
        ),
        ("scores.json", None, 2, "Expected a run with scores in {run}, found none in scores.json. Let the run finish"),
        ("scores.json", "{}", 2, "found none in scores.json"),
        (
            "scores.json",
            "[1]",
            4,
            "Expected a JSON object in {run}/scores.json, found something else: a list.",
        ),
        (
            "analysis.json",
            "{",
            4,
            "a JSON object in {run}/analysis.json, found something else: Expecting property",
        ),
        ("analysis.json", '{"slices": {"rows": [1]}}', 4, "found one that nlptl did not write: TypeError"),
        ("metrics.jsonl", "{]}\n", 4, "cannot read it: Expecting property name"),
    ],
)
def test_folders_that_are_refused(
    file: str, content: str | None, code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = write_run(tmp_path / "run")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(SystemExit) as exit:
        cli.main(["report", str(folder)])
    err = capsys.readouterr().err
    assert exit.value.code == code
    assert err.startswith("nlptl: error: ")
    assert err.count("\n") == 1
    assert message.format(run=folder) in err
    assert not (folder / "report.html").exists()


def test_another_file_and_another_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, output = write_run(tmp_path / "run"), tmp_path / "page.html"
    cli.main(["report", str(folder), "--output", str(output)])
    assert not (folder / "report.html").exists()
    assert capsys.readouterr().out == f"wrote the report to {output}\n"
    cli.main(["report", str(folder)])
    assert (folder / "report.html").read_bytes() == output.read_bytes()
    for words, message in (
        ([str(folder), "--output", "page.md"], "Expected an output file in .html, found 'page.md'"),
        ([str(folder), "--output", "page.html", "--markdown"], "Expected an output file in .md, found 'page.html'"),
        ([str(tmp_path / "none")], f"Expected the folder of a run at {tmp_path}/none, found no such folder"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["report", *words])
        assert message in capsys.readouterr().err


def test_the_kept_step_is_the_best_by_what_chose_it(tmp_path: Path):
    folder = write_run(tmp_path / "run", "multi_label", analysed=False)
    scores = json.loads((folder / "scores.json").read_text())
    for of in (scores["test"], scores["validation"], scores["most_frequent_label"]["test"]):
        del of["average_precision"]  # which has no interval, and still chooses
    (folder / "scores.json").write_text(json.dumps(scores))
    records = [
        {"step": 10 * i, "epoch": i, "loss": 1.0, "validation_average_precision": chosen, "validation_micro_f1": i / 10}
        for i, chosen in enumerate((0.3, 0.6, 0.6, 0.4), start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    page = check_page(report(folder))
    assert "micro F1 is 0.700" in page.text("p")
    assert "kept: step 20" in page.text("text")
    assert "Average precision on validation" in page.text("figcaption")


@pytest.mark.parametrize("kind", ["seed", "fold"])
def test_several_runs_have_a_report_of_what_they_are_on_average(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    runs = [
        {kind: i, "folder": f"{kind}-{i}", "scores": {"accuracy": score(0.7 + i / 100)}, "collapsed": i == 1}
        for i in range(3)
    ]
    summary = {"accuracy": {"mean": 0.71, "sd": 0.01, "n": 3, "low": 0.685, "high": 0.735}}
    values = {"runs": runs, "summary": summary, "pooled": {"accuracy": score(0.72)} if kind == "fold" else None}
    folder = tmp_path / "several"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model": "owner/encoder", "dataset": "reviews.csv"}))
    (folder / f"{kind}s.json").write_text(json.dumps(values))
    html = report(folder)
    page = Page(html)
    text = page.text("p", "bdi")
    assert f"Over 3 {kind}s, accuracy on test is 0.710 on average" in text
    assert "0.685 to 0.735; standard deviation 0.010)." in text
    assert f"These models predict the same for all texts: {kind} 1." in text
    assert f"{kind}-2/report.html" in text
    assert ("Accuracy over the texts of all folds: 0.720 (95 % interval 0.680 to 0.750)" in text) == (kind == "fold")
    assert len(page.all("svg")) == 1
    capsys.readouterr()
    cli.main(["report", str(folder), "--markdown"])
    assert "| mean | 0.710 |" in capsys.readouterr().out


def test_only_settings_that_differ_are_shown(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    page = Page(report(folder))
    text = page.text("caption", "span", "th", "td", "bdi")
    settings = text[text.index("Settings that differ") :]
    assert "num_epochs3" in settings
    assert ClassificationConfig().train.num_epochs != 3
    assert "tasksingle_label" not in settings
