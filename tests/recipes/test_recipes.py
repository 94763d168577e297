"""Recipes for texts with one label, on tiny models and toy data: flags, the run folder, and what repeats it.

What all recipes share is one function of the library, and is tested on one of them. test_tasks.py has the other tasks.
"""

import csv
import dataclasses
import importlib.util
import json
import logging
import re
import subprocess
import sys
import typing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import load_file

from nlptl import Classifier, TrainingConfig, cli
from nlptl.config import HeadConfig, TransferConfig, flag, to_json
from nlptl.flags import COMMON
from tests import processes

ROOT = Path(cli.__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
SENTIMENT = ROOT / "recipes/sentiment.py"
SNAPSHOT = Path(__file__).parent / "flags.txt"
FULL = TransferConfig()
TRAIN = TrainingConfig(num_epochs=4, batch_size=8, learning_rate=3e-3)
# Plain gradient descent: Adam divides by the size of the gradient, so that where it is zero but for rounding, as on the
# biases of the attention keys, rounding decides.
ALONE = "--freeze nothing --num-epochs 4 --batch-size 8 --optimizer sgd --learning-rate 0.05 --dropout 0"

RUN_FOLDER = [
    "config.json",
    "manifest.json",
    "data_report.json",
    "metrics.jsonl",
    "scores.json",
    "predictions.csv",
    "model",
    "checkpoints",
    "model/config.json",
    "model/model.safetensors",
    "model/nlptl.json",
    "model/README.md",
    "model/tokenizer.json",
]

for_each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
OTHER_TASKS = ("aspect_sentiment", "multilabel", "ordinal", "regression", "sentence_pair", "token_classification")
"""Recipes for other data than single texts with one label each."""
for_each_classifier = pytest.mark.parametrize(
    "path", [path for path in RECIPES if path.stem not in OTHER_TASKS], ids=lambda path: path.stem
)


def load(path: Path) -> ModuleType:
    """Import a recipe by its path."""
    name = f"recipe_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def flags_of(cls: type) -> list[str]:
    types = typing.get_type_hints(cls)
    flags = []
    for field in dataclasses.fields(cls):
        nested = dataclasses.is_dataclass(types[field.name])
        flags += flags_of(types[field.name]) if nested else [flag(field.name)]
    return sorted(name for name in flags if name.startswith("--"))


@pytest.fixture(scope="module")
def trained(tiny_bert: Path, toy_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Return the run folder and the scores of a recipe that was run through, once, in this process."""
    recipe, folder = load(SENTIMENT), tmp_path_factory.mktemp("sentiment") / "run"
    config = replace(
        recipe.Config(),
        model=str(tiny_bert),
        dataset=str(toy_csv),
        transfer=FULL,
        head=HeadConfig(),
        output_dir=folder,
        train=TRAIN,
    )
    return folder, recipe.main(config)


def refused(path: Path, flags: Sequence[object], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a recipe as a script does, expect `code` and one message, and return it."""
    recipe = load(path)
    with pytest.raises(SystemExit) as exit:
        cli.run(recipe.main, recipe.Config, [str(flag) for flag in flags])
    err = capsys.readouterr().err
    assert exit.value.code == code
    assert err.startswith("nlptl: error: ")
    assert err.count("\n") == 1
    return err


def test_there_are_recipes():
    assert {"sentiment", "text_classification"} <= {path.stem for path in RECIPES}


@for_each_recipe
def test_a_recipe_is_short_and_says_what_it_does(path: Path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 80
    documentation = load(path).__doc__
    assert "\n\nUsage:\n    " in documentation
    assert f"python recipes/{path.name}" in documentation
    # Importing it runs nothing; running it parses the flags.
    assert source.endswith('\n\nif __name__ == "__main__":\n    cli.run(main, Config)\n')


@for_each_recipe
def test_the_commands_of_the_manual_can_be_parsed(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = load(path)
    config = tmp_path / "runs" / path.stem / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text("{}")
    monkeypatch.chdir(tmp_path)
    commands = re.findall(rf"recipes/{path.name} *([^#\n]*)", recipe.__doc__)
    assert len(commands) >= 5
    for command in commands:
        cli.parse(recipe.Config, command.split())


@for_each_recipe
def test_help_shows_the_flags_that_most_people_need(path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = load(path)
    with pytest.raises(SystemExit, match="0"):
        cli.run(recipe.main, recipe.Config, ["--help"])
    out = capsys.readouterr().out
    assert recipe.__doc__.partition("\n")[0] in " ".join(out.split())
    assert len(out.splitlines()) <= 120
    shown = set(re.findall(r"^  (--[a-z-]+)", out, flags=re.MULTILINE))
    assert shown == {f"--{name}" for names in COMMON.values() for name in names} | {"--help-all", "--config", "--debug"}


def test_all_help_explains_every_flag(capsys: pytest.CaptureFixture[str]):
    recipe = load(RECIPES[0])
    with pytest.raises(SystemExit, match="0"):
        cli.run(recipe.main, recipe.Config, ["--help-all"])
    explained = re.findall(r"^  (--[a-z-]+).*\n? +[A-Za-z]", capsys.readouterr().out, flags=re.MULTILINE)
    assert set(flags_of(recipe.Config)) <= set(explained)


def test_help_imports_no_torch():
    done = run_fresh("-X", "importtime", RECIPES[0], "--help")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert "nlptl.config" in imported
    assert not {"torch", "transformers", "datasets", "sklearn"} & imported


def test_the_flags_are_those_of_the_snapshot():
    """Flags are an interface: a change of them is a change of flags.txt in the same commit."""
    expected = SNAPSHOT.read_text().split()
    assert len(expected) <= 70
    assert [path.stem for path in RECIPES if flags_of(load(path).Config) != expected] == []


def test_a_second_run_with_another_head_seed_and_rate_does_no_encoder_work(
    tiny_bert: Path, toy_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("NLPTL_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO, logger="nlptl")
    recipe = load(SENTIMENT)
    first = f"--model {tiny_bert} --dataset {toy_csv} --num-epochs 1 --output-dir {tmp_path}"
    recipe.main(cli.parse(recipe.Config, f"{first}/a".split()))
    assert "train: running the frozen encoder once over 96 texts" in caplog.text
    caplog.clear()
    recipe.main(cli.parse(recipe.Config, f"{first}/b --hidden 16 --seed 1 --learning-rate 1e-2".split()))
    assert "running the frozen encoder" not in caplog.text
    splits = [json.loads((tmp_path / run / "splits.json").read_text()) for run in ("a", "b")]
    assert splits[0] == splits[1]
    recipe.main(cli.parse(recipe.Config, f"{first}/c --split-seed 1".split()))
    assert json.loads((tmp_path / "c" / "splits.json").read_text()) != splits[0]


def test_a_recipe_reads_a_toy_task_and_fills_its_folder(trained: tuple[Path, dict]):
    folder, scores = trained
    assert scores["accuracy"].value >= 0.9
    assert scores["accuracy"].n == 12
    assert [name for name in RUN_FOLDER if not (folder / name).exists()] == []

    written = json.loads((folder / "scores.json").read_text())
    assert {"test", "validation"} <= set(written)
    assert written["test"]["accuracy"] == dataclasses.asdict(scores["accuracy"])
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    correct = sum(row["label"] == row["predicted"] for row in rows)
    assert (len(rows), correct / len(rows)) == (12, scores["accuracy"].value)
    model = Classifier.from_pretrained(folder / "model")
    assert model.labels.names == ("negative", "positive")
    assert [prediction.label for prediction in model.predict(["good great .", "bad awful ."])] == [
        "positive",
        "negative",
    ]
    assert [path.name for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".tmp")] == []


def test_its_configuration_repeats_it_to_the_same_bytes(
    trained: tuple[Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder, _ = trained
    recipe = load(SENTIMENT)
    cli.run(
        recipe.main, recipe.Config, ["--config", str(folder / "config.json"), "--output-dir", str(tmp_path / "again")]
    )
    out, _ = capsys.readouterr()
    assert "training 41 of 41 tensors" in out
    for name in ("model/model.safetensors", "scores.json", "predictions.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_folder_that_holds_a_run_is_refused(trained: tuple[Path, dict], capsys: pytest.CaptureFixture[str]):
    folder, _ = trained
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    message = refused(SENTIMENT, ["--output-dir", folder], 2, capsys)
    assert f"{folder} already holds a run. Pass --resume to continue it, --overwrite to move it aside" in message
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("name", ["sentiment", "linear_probe"])
def test_a_dry_run_says_what_a_run_takes_and_writes_nothing(
    name: str,
    trained: tuple[Path, dict],
    tiny_bert: Path,
    toy_csv: Path,
    feature_cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    folder, _ = trained
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    capsys.readouterr()
    recipe, flags = load(ROOT / f"recipes/{name}.py"), ["--model", tiny_bert, "--dataset", toy_csv, "--dry-run"]
    for output in (folder, tmp_path / "new"):
        cli.run(recipe.main, recipe.Config, [str(flag) for flag in [*flags, "--output-dir", output]])
        out, err = capsys.readouterr()
        assert "reviews.csv: 96 train, 12 validation, 12 test; labels negative, positive" in out
        has_table = re.search(r"\nhead +\d+ +\d+ +[\d.e-]+ +0.01\n", out) is not None
        assert has_table == (name != "linear_probe")  # its head is fitted, at no rate
        assert re.search(r"\nestimate: about [\d,]+ MB of memory \(.* \d MB of disk; .*on cpu, about \d+ s\n$", out)
        assert err == ""
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    assert list(tmp_path.iterdir()) == []
    assert not (feature_cache / "features").exists()


@pytest.mark.parametrize("pooling", ["auto", "cls"])
def test_the_dense_sigmoid_recipe_runs(pooling: str, tiny_bert: Path, toy_csv: Path, tmp_path: Path):
    """The frozen encoder, a dense layer of 1024 with relu, one sigmoid, Adam and the binary cross-entropy."""
    recipe = load(SENTIMENT)
    words = (
        f"--model {tiny_bert} --dataset {toy_csv} --output-dir {tmp_path / 'run'} --num-epochs 4 --pooling {pooling}"
    )
    cli.run(
        recipe.main,
        recipe.Config,
        [
            *words.split(),
            *["--hidden", "1024", "--activation", "relu", "--binary-loss", "sigmoid", "--optimizer", "adam"],
        ],
    )
    assert (tmp_path / "run" / "scores.json").is_file()
    head = json.loads((tmp_path / "run" / "model" / "nlptl.json").read_text())["head"]
    pooling = "mean" if pooling == "auto" else pooling
    expected = HeadConfig(pooling=pooling, hidden=(1024,), activation="relu", binary_loss="sigmoid")
    assert head == to_json(expected)
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert (1024, 32) in {tensor.shape for tensor in weights.values()}


def test_columns_of_another_name_need_two_flags(
    tiny_bert: Path, toy_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    _, *rows = csv.reader(toy_csv.read_text().splitlines())
    stars = {"positive": 5, "negative": 1}
    with (tmp_path / "reviews.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("review", "stars"), *((text, stars[label]) for text, label in rows)])
    words = ["--model", tiny_bert, "--dataset", tmp_path / "reviews.csv"]

    message = refused(SENTIMENT, [*words, "--output-dir", tmp_path / "first"], 3, capsys)
    assert "found columns 'review', 'stars'. Pass --text-column review --label-column stars" in message
    assert not (tmp_path / "first" / "model").exists()

    recipe = load(SENTIMENT)
    flags = [*words, "--output-dir", tmp_path / "second", "--text-column", "review", "--label-column", "stars"]
    cli.run(recipe.main, recipe.Config, [str(flag) for flag in flags])
    assert "labels 1, 5" in capsys.readouterr().out
    assert Classifier.from_pretrained(tmp_path / "second" / "model").labels.names == ("1", "5")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--num_train_epochs", "--num-epochs"),
        ("--per_device_train_batch_size", "--batch-size"),
        ("--model_name_or_path", "--model"),
        ("--max_seq_length", "--max-length"),
        ("--learning-rat", "--learning-rate"),
    ],
)
def test_other_spellings_are_answered(typed: str, meant: str, capsys: pytest.CaptureFixture[str]):
    message = refused(SENTIMENT, [typed, "3"], 2, capsys)
    assert re.search(rf"Unknown option {typed}\. Did you mean {meant}\b", message)


def test_both_dashes_and_underscores_are_read():
    recipe = load(SENTIMENT)
    for spelling in ("--head-learning-rate", "--head_learning_rate"):
        parsed = cli.parse(recipe.Config, [spelling, "0.01", "--output_dir", "a-b_c"])
        assert (parsed.train.head_learning_rate, parsed.output_dir) == (0.01, Path("a-b_c"))


@for_each_classifier
def test_it_runs_with_its_own_defaults_on_few_examples(path: Path, tiny_bert: Path, toy_csv: Path, tmp_path: Path):
    recipe = load(path)
    config = replace(
        recipe.Config(),
        model=str(tiny_bert),
        dataset=str(toy_csv),
        output_dir=tmp_path / "run",
        max_examples=8,
    )
    assert recipe.main(config)["accuracy"].n == 8


def run_fresh(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter, as a user starts it."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, env=processes.environment(), capture_output=True, text=True)


LAUNCHERS = {
    "torchrun": lambda: ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2],
    "accelerate": lambda: launch_by("one_machine.yaml"),
}


def launch_by(file: str) -> list[object]:
    """Return the words that start two processes by a launch file."""
    launcher = ["-m", "accelerate.commands.launch", "--config_file", ROOT / "recipes/launch" / file]
    return [*launcher, "--num_processes", 2, "--main_process_port", processes.free_port()]


@pytest.fixture(scope="module")
def alone(tiny_bert: Path, toy_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of `python recipes/sentiment.py` on its own, without dropout."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    done = run_fresh(SENTIMENT, "--model", tiny_bert, "--dataset", toy_csv, *ALONE.split(), "--output-dir", folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert re.search(r"^accuracy +(1\.0000|0\.9)", done.stdout, re.MULTILINE)
    return folder


@pytest.mark.multiprocess
@pytest.mark.parametrize("launcher", [pytest.param("torchrun", marks=pytest.mark.nightly), "accelerate"])
def test_two_processes_learn_what_one_does(launcher: str, alone: Path, tiny_bert: Path, toy_csv: Path, tmp_path: Path):
    recipe = [SENTIMENT, "--model", tiny_bert, "--dataset", toy_csv]
    done = run_fresh(*LAUNCHERS[launcher](), *recipe, *ALONE.split(), "--output-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("training 41 of 41 tensors") == 1  # the main process alone tells how it goes
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["hardware"]["processes"] == 2

    expected, found = (load_file(folder / "model" / "model.safetensors") for folder in (alone, tmp_path / "run"))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, rtol=0, atol=1e-5, err_msg=name)
    expected, found = (json.loads((folder / "scores.json").read_text()) for folder in (alone, tmp_path / "run"))
    for split in ("validation", "test"):
        for metric in ("accuracy", "macro_f1", "log_loss"):
            assert found[split][metric] == pytest.approx(expected[split][metric], abs=1e-5)


def test_the_nlptl_command_runs_it_to_the_same_bytes(alone: Path, tiny_bert: Path, toy_csv: Path, tmp_path: Path):
    words = ["-m", "nlptl", "run", "sentiment", "--model", tiny_bert, "--dataset", toy_csv]
    processes.run([*words, *ALONE.split(), "--output-dir", tmp_path / "run"], check=True)
    for name in ("model/model.safetensors", "scores.json"):
        assert (tmp_path / "run" / name).read_bytes() == (alone / name).read_bytes()
