"""The command line of recipes and of nlptl: flags, messages, exit codes."""

import dataclasses
import io
import json
import logging
import os
import platform
import re
import subprocess
import sys
import textwrap
import types
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from nlptl import cli, errors
from nlptl.config import ClassificationConfig, TrainingConfig, to_json
from nlptl.flags import HUGGING_FACE_SPELLINGS
from tests import processes


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a recipe that has all flags which Hugging Face spells in another way."""

    model: str = "sample:minilm"
    """Pretrained encoder."""
    dataset: str = "sample:rotten_tomatoes"
    """Where the data comes from."""
    text_column: str | None = None
    """Column with the text."""
    label_column: str | None = None
    """Column with the label."""
    freeze: Literal["nothing", "encoder"] | int = "encoder"
    """Part that keeps its weights."""
    max_length: int = 256
    """Tokens per text."""
    max_examples: int | None = None
    """Examples per split."""
    texts: tuple[str, ...] = ()
    """Some texts."""
    output_dir: Path = Path("runs/x")
    """Folder of the run."""
    overwrite: bool = False
    """Move another run aside."""
    resume: bool = False
    """Go on with a run."""
    train: TrainingConfig = TrainingConfig(num_epochs=3)


@dataclass(frozen=True, kw_only=True)
class PlaceConfig:
    """A command with two words that have no default."""

    model: Path
    """Folder of the model."""
    data: str
    """What to score."""
    batch_size: int = 8
    """Texts at once."""


@pytest.mark.parametrize(
    "flag", ["--num-epochs 5", "--num_epochs 5", "--num-epochs=5", "--num_epochs=5", "--num-epochs 4 --num-epochs 5"]
)
def test_both_spellings_of_a_flag_reach_a_nested_field(flag: str):
    assert cli.parse(Config, flag.split()) == Config(train=TrainingConfig(num_epochs=5))


def test_without_flags_the_defaults_hold():
    assert cli.parse(Config, []) == Config()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--freeze 3", {"freeze": 3}),
        ("--freeze nothing", {"freeze": "nothing"}),
        ("--texts a - -1", {"texts": ("a", "-", "-1")}),
        ("--model=a=b", {"model": "a=b"}),
        ("--text-column None", {"text_column": None}),
        ("--overwrite", {"overwrite": True}),
        ("--no-overwrite", {"overwrite": False}),
        ("--overwrite=true", {"overwrite": True}),
        ("--overwrite False", {"overwrite": False}),
        ("--overwrite --model true", {"overwrite": True, "model": "true"}),
        ("--no_cache", {"train": TrainingConfig(num_epochs=3, cache=False)}),
    ],
)
def test_values(flags: str, expected: dict[str, object]):
    assert cli.parse(Config, flags.split()) == dataclasses.replace(Config(), **expected)


def test_fields_without_default_are_positional():
    config = cli.parse(PlaceConfig, ["runs/x/model", "--batch_size", "2", "reviews.csv"])
    assert config == PlaceConfig(model=Path("runs/x/model"), data="reviews.csv", batch_size=2)


@pytest.mark.parametrize("words", ["only-one", "one two three", "one two --config x.json"])
def test_positional_words_are_counted(words: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        cli.run(print, PlaceConfig, words.split())
    assert "Traceback" not in capsys.readouterr().err


def test_hugging_face_spellings_are_answered_with_ours():
    assert len(HUGGING_FACE_SPELLINGS) >= 20
    named = {"bf16", "num-train-epochs", "per-device-train-batch-size", "model-name-or-path", "lr", "warmup-steps"}
    assert named <= set(HUGGING_FACE_SPELLINGS)


@pytest.mark.parametrize("underscores", [True, False])
@pytest.mark.parametrize("name", [name for name, ours in HUGGING_FACE_SPELLINGS.items() if ours.startswith("--")])
def test_hugging_face_spelling_is_refused_with_a_flag_that_exists(name: str, underscores: bool):
    typed = f"--{name.replace('-', '_') if underscores else name}"
    spelling = HUGGING_FACE_SPELLINGS[name]
    with pytest.raises(errors.ConfigError, match=re.escape(f"Unknown option {typed}. Did you mean {spelling}?")):
        cli.parse(Config, [typed, "1"])

    flags = {
        f"--{field.name.replace('_', '-')}" for cls in (Config, TrainingConfig) for field in dataclasses.fields(cls)
    }
    assert set(re.findall(r"--[a-z-]+", spelling)) <= flags


def test_a_setting_that_is_no_flag_is_named():
    with pytest.raises(errors.ConfigError, match="label_smoothing is a setting of Python and of --config files, not a"):
        cli.parse(ClassificationConfig, ["--label-smoothing", "0.1"])
    with pytest.raises(errors.ConfigError, match=r"Did you mean label_smoothing \(in Python or a --config file\)\?"):
        cli.parse(ClassificationConfig, ["--label_smoothing_factor", "0.1"])


def test_batch_size_per_device_is_explained():
    expected = (
        "Unknown option --per_device_train_batch_size. Did you mean --batch-size (examples per step over all devices; "
        "--micro-batch-tokens bounds what one device forwards at once)?"
    )
    with pytest.raises(errors.ConfigError, match=f"^{re.escape(expected)}$"):
        cli.parse(Config, ["--per_device_train_batch_size=8"])


def test_a_spelling_is_not_suggested_where_the_flag_does_not_exist():
    with pytest.raises(errors.ConfigError, match=r"--num_train_epochs\. --help-all lists the options"):
        cli.parse(PlaceConfig, ["m", "d", "--num_train_epochs", "3"])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--num_epochz", "--num-epochs"),
        ("--num-ep", "--num-epochs"),
        ("--learn=3", "--learning-rate"),
        ("--batchsize", "--batch-size"),
        ("--overwrit", "--overwrite"),
        ("--confg", "--config"),
    ],
)
def test_typos_and_abbreviations_are_refused_with_the_nearest_flag(typed: str, meant: str):
    message = f"Unknown option {typed.partition('=')[0]}. Did you mean {meant}?"
    with pytest.raises(errors.ConfigError, match=re.escape(message)):
        cli.parse(Config, [typed, "3"])


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model": "bert", "train": {"num_epochs": 7, "batch_size": 4}}))
    expected = Config(model="bert", train=TrainingConfig(num_epochs=7, batch_size=16))
    assert cli.parse(Config, ["--batch-size", "16", "--config", str(path)]) == expected
    assert cli.parse(Config, [f"--config={path}", "--batch-size", "16"]) == expected


def test_the_saved_configuration_repeats_itself(tmp_path: Path):
    config = Config(texts=("a", "b"), freeze=2, output_dir=Path("runs/y"), train=TrainingConfig(learning_rate=1e-4))
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    assert cli.parse(Config, ["--config", str(tmp_path / "config.json")]) == config


@pytest.mark.parametrize(
    "flag", ["--output-dir {}", "--output-dir={}", "--output_dir {}", "--output-dir other --output-dir {}"]
)
def test_resume_takes_the_settings_of_the_run(flag: str, tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_json(Config(max_length=64, output_dir=tmp_path, train=TrainingConfig(num_epochs=7)))))
    words = flag.format(tmp_path).split()
    found = cli.parse(Config, [*words, "--resume", "--num-epochs", "9"])
    assert (found.max_length, found.train.num_epochs, found.output_dir) == (64, 9, tmp_path)
    assert found.resume
    assert cli.parse(Config, words).max_length == 256
    path.unlink()
    assert cli.parse(Config, [*words, "--resume"]).max_length == 256


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--config", "found none"),
        ("--config --model x", "found none"),
        ("--config a.json --config b.json", "found it twice"),
        ("--config missing.json", "cannot read missing.json"),
    ],
)
def test_config_takes_one_file(flags: str, message: str):
    with pytest.raises(errors.ConfigError, match=message):
        cli.parse(Config, flags.split())


@pytest.mark.parametrize("from_file", [True, False])
def test_a_value_out_of_range_ends_with_one_message(
    from_file: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "config.json"
    path.write_text('{"train": {"num_epochs": 0}}')
    with pytest.raises(SystemExit) as exit:
        cli.run(print, Config, ["--config", str(path)] if from_file else ["--num-epochs", "0"])
    out, err = capsys.readouterr()
    assert exit.value.code == 2
    assert out == ""
    assert err.startswith("nlptl: error: Expected settings within their ranges: num_epochs must be")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "flags", ["--num-epochs x", "--freeze everything", "--model", "extra", "--overwrite=maybe", "-x"]
)
def test_a_value_of_another_type_ends_with_exit_code_2(flags: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        cli.run(print, Config, flags.split())
    out, err = capsys.readouterr()
    assert exit.value.code == 2
    assert out == ""
    assert flags.split("=")[0].split()[-1] in err or "maybe" in err
    assert "Traceback" not in err


def test_help_shows_the_manual_and_the_strings_under_the_fields(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        cli.run(print, Config, ["--help"], doc="Train it.\n\nUsage:\n    python train.py --num-epochs 3\n")
    out = capsys.readouterr().out
    assert exit.value.code == 0
    for text in ("Train it.", "    python train.py --num-epochs 3", "--config FILE", "Passes over the training split"):
        assert text in out


def test_the_manual_is_the_docstring_of_the_module(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.run(print, Config, ["--help"])
    assert __doc__ in capsys.readouterr().out


USER_ERRORS = {
    errors.ConfigError: 2,
    errors.DataError: 3,
    errors.UntrustedFileError: 4,
    errors.NonFiniteError: 5,
    errors.ResourceError: 6,
}


@pytest.mark.parametrize("kind", USER_ERRORS)
def test_a_user_error_ends_with_its_exit_code_and_no_traceback(
    kind: type[errors.UserError], capsys: pytest.CaptureFixture[str]
):
    def fail(config: Config) -> None:
        raise kind("Expected rain, found sun.")

    with pytest.raises(SystemExit) as exit:
        cli.run(fail, Config, [])
    assert exit.value.code == USER_ERRORS[kind]
    assert capsys.readouterr().err == "nlptl: error: Expected rain, found sun.\n"

    with pytest.raises(SystemExit) as exit:
        cli.run(fail, Config, ["--num-epochs", "2", "--debug"])
    assert exit.value.code == USER_ERRORS[kind]
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "Expected rain, found sun." in err


def test_an_interrupt_ends_quietly(capsys: pytest.CaptureFixture[str]):
    def interrupt(config: Config) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exit:
        cli.run(interrupt, Config, [])
    assert exit.value.code == 130
    assert capsys.readouterr().err == "nlptl: interrupted\n"


def test_a_fault_of_ours_keeps_its_traceback():
    def fail(config: Config) -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        cli.run(fail, Config, [])


@pytest.mark.parametrize(
    ("rank", "expected"), [(None, "hello\ncareful\n"), ("0", "hello\ncareful\n"), ("1", "careful\n")]
)
def test_only_the_main_process_tells_how_it_goes(
    rank: str | None, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def talk(config: Config) -> None:
        logging.getLogger("nlptl.training").info("hello")
        logging.getLogger("nlptl.training").warning("careful")

    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    cli.run(talk, Config, [])
    cli.run(talk, Config, [])
    assert capsys.readouterr().out == expected * 2
    assert logging.getLogger("nlptl").handlers == []


RECIPE = '''"""Greet the reader.

Usage:
    nlptl run greeting
"""

from dataclasses import dataclass

from nlptl import cli


@dataclass(frozen=True, kw_only=True)
class Config:
    name: "str" = "you"
    """Who is greeted."""


def main(config: Config) -> None:
    print(f"Hello, {config.name}.")


if __name__ == "__main__":
    cli.run(main, Config)
'''


@pytest.fixture
def greeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "warm_greeting.py").write_text(RECIPE)
    monkeypatch.setattr(cli, "RECIPE_FOLDERS", (tmp_path / "nowhere", folder))
    return folder / "warm_greeting.py"


@pytest.mark.usefixtures("greeting")
@pytest.mark.parametrize("name", ["warm_greeting", "warm-greeting"])
def test_run_calls_a_recipe_by_name(name: str, capsys: pytest.CaptureFixture[str]):
    cli.main(["run", name, "--name", "Ada"])
    assert capsys.readouterr().out == "Hello, Ada.\n"


@pytest.mark.usefixtures("greeting")
def test_run_lists_its_recipes(capsys: pytest.CaptureFixture[str]):
    cli.main(["run"])
    assert re.search(r"warm_greeting +Greet the reader\.\n", capsys.readouterr().out)


@pytest.mark.usefixtures("greeting")
def test_help_of_a_recipe_is_its_docstring(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["run", "warm_greeting", "--help"])
    out = capsys.readouterr().out
    assert out.startswith("usage: nlptl run warm_greeting")
    assert "Greet the reader." in out
    assert "Who is greeted." in out


@pytest.mark.usefixtures("greeting")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run warm_greting", "Unknown recipe warm_greting. Did you mean warm_greeting?"),
        ("run xyz", "Unknown recipe xyz. nlptl run lists the recipes."),
        ("run warm_greeting --nam x", "Unknown option --nam. Did you mean --name?"),
        ("predikt", "Unknown command predikt. Did you mean nlptl predict?"),
        ("warm_greeting", "Unknown command warm_greeting. Did you mean nlptl run warm_greeting?"),
        ("xyz", "Unknown command xyz. nlptl --help lists the commands."),
    ],
)
def test_unknown_words_are_answered(words: str, message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        cli.main(words.split())
    assert exit.value.code == 2
    assert capsys.readouterr().err == f"nlptl: error: {message}\n"

    with pytest.raises(SystemExit) as exit:
        cli.main(["--debug", *words.split()])
    assert exit.value.code == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_names_the_commands(words: list[str], capsys: pytest.CaptureFixture[str]):
    cli.main(words)
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in ("run", *cli.COMMANDS))


def test_version(capsys: pytest.CaptureFixture[str]):
    cli.main(["--version"])
    assert re.fullmatch(r"nlptl \d+\.\d+\.\d+\n", capsys.readouterr().out)


ROOT = Path(cli.__file__).parents[1]


def run_python(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, **options)


@pytest.mark.parametrize("words", [[], ["-m", "nlptl", "--help"], ["-m", "nlptl", "run"]])
def test_help_imports_no_torch(words: list[str]):
    if words:
        done = run_python("-X", "importtime", *words)
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    else:
        done = run_python("-c", "import sys, nlptl; print(*sys.modules)")
        imported = set(done.stdout.split())
    assert done.returncode == 0
    assert "nlptl" in imported
    assert not {"torch", "transformers", "datasets"} & imported


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        # What is printed is what was asked for.
        (["for _ in range(100_000):", '    print("Hello")'], 141),
        # A log tells of work that goes on without it.
        (["import logging", "for _ in range(100_000):", '    logging.getLogger("nlptl").info("Hello")'], 0),
    ],
)
def test_a_reader_who_leaves(lines: list[str], code: int, greeting: Path):
    done_file = greeting.with_name("done")
    lines = [*lines, f"__import__('pathlib').Path({str(done_file)!r}).touch()"]
    greeting.write_text(
        RECIPE.replace('    print(f"Hello, {config.name}.")', textwrap.indent("\n".join(lines), "    "))
    )
    command = f'"{sys.executable}" "{greeting}" | head -n 1; exit ${{PIPESTATUS[0]}}'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "Hello\n", "")
    assert done_file.exists() == (code == 0)


class Held:
    """Stands for what must not outlive the group of processes."""


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("is_initialized", [False, True])
def test_the_group_of_processes_is_left_at_the_end(fails: bool, is_initialized: bool, monkeypatch: pytest.MonkeyPatch):
    held: list[weakref.ref[Held]] = []
    alive: list[object] = []
    distributed = types.SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: is_initialized,
        destroy_process_group=lambda: alive.append(held[0]()),
    )
    monkeypatch.setitem(sys.modules, "torch.distributed", distributed)

    def train(config: Config) -> None:
        network = Held()
        network.itself = network  # As in a model that is wrapped: freed by the garbage collector alone.
        held.append(weakref.ref(network))
        if fails:
            raise errors.DataError("Expected rain, found sun.")

    if fails:
        with pytest.raises(SystemExit, match="3"):
            cli.run(train, Config, [])
    else:
        cli.run(train, Config, [])
    assert alive == [None] * is_initialized


FAILING = """
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed import barrier, init_process_group
from torch.nn.parallel import DistributedDataParallel

from nlptl import cli
from nlptl.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Config:
    failing: int = -1


def main(config):
    init_process_group("gloo")
    network = DistributedDataParallel(nn.Linear(2, 2))
    network(torch.ones(3, 2)).sum().backward()
    if config.failing in (-1, torch.distributed.get_rank()):
        raise DataError("Expected rain, found sun.")
    barrier()


cli.run(main, Config)
"""


@pytest.mark.multiprocess
@pytest.mark.parametrize("failing", [-1, 0, 1])
def test_failing_processes_end_soon_with_their_exit_code(failing: int, tmp_path: Path):
    (tmp_path / "fail.py").write_text(FAILING)
    waiting = [1 - failing] if failing >= 0 else []  # at the barrier, until the launcher ends it
    codes, said = processes.launch([tmp_path / "fail.py", f"--failing={failing}"], leave=waiting)
    for rank in {0, 1} - set(waiting):
        assert codes[rank] == 3
        assert "nlptl: error: Expected rain, found sun." in said[rank]


@pytest.mark.nightly
@pytest.mark.multiprocess
def test_a_launcher_reports_the_exit_code(tmp_path: Path):
    (tmp_path / "fail.py").write_text(FAILING)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = run_python(*launcher, str(tmp_path / "fail.py"), "--failing=1")
    assert done.returncode == 1  # of the launcher; those of its processes are in its report
    assert "nlptl: error: Expected rain, found sun." in done.stderr
    assert re.search(r"exitcode +: 3 ", done.stderr.partition("Root Cause (first observed failure):")[2])


def test_what_is_said_can_be_shown_everywhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def talk(config: Config) -> None:
        logging.getLogger("nlptl").info("caf\u00e9 \x1b[31m \u202e \udcff\t.")
        raise errors.DataError("Expected no \x07 and no \udcff\n.")

    for encoding, shown in (("utf-8", "caf\u00e9"), ("ascii", "caf\\xe9")):
        stream = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding=encoding, write_through=True))
        with pytest.raises(SystemExit, match="3"):
            cli.run(talk, Config, [])
        assert stream.getvalue().decode(encoding) == f"{shown} \\x1b[31m \\u202e \\udcff\t.\n"
        assert capsys.readouterr().err == "nlptl: error: Expected no \\x07 and no \\udcff\n.\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError(), 6, "Expected enough memory, found: too little"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 6, "Lower --micro-batch-tokens"),
        (OSError(28, "No space left on device"), 6, "Expected space on the disk, found: No space left on device"),
    ],
)
def test_what_the_machine_lacks_is_one_message(error, code, message, capsys):
    def fail(config):
        raise error

    with pytest.raises(SystemExit) as exit:
        cli.run(fail, TrainingConfig, [])
    assert exit.value.code == code
    assert message in capsys.readouterr().err


def test_flag_of_several_values_may_stand_there_once():
    @dataclass(frozen=True, kw_only=True)
    class Texts:
        text: tuple[str, ...] = ()

    assert cli.parse(Texts, ["--text", "a", "b"]).text == ("a", "b")
    with pytest.raises(
        errors.ConfigError, match="Expected --text once, found it twice. Several values follow one flag"
    ):
        cli.parse(Texts, ["--text", "a", "--text", "b"])


LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
HAS_SMALL_PAGES = not LARGE_PAGES.is_file() or "[always]" not in LARGE_PAGES.read_text()

KEEPING = """
import dataclasses, resource, torch
from nlptl.cli import run
from nlptl.model.quick import quick_layers

@dataclasses.dataclass(frozen=True)
class Config:
    pass

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(15_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def main(config):
    torch.ones(20_000_000)
    print(faults(), faults())

with quick_layers(torch.nn.Linear(1, 1)):
    print(faults(), faults())
run(main, Config, [])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.skipif(not HAS_SMALL_PAGES, reason="few pages, all large")
def test_commands_alone_keep_memory_that_is_freed():
    done = subprocess.run([sys.executable, "-c", KEEPING], capture_output=True, text=True, check=True)
    library, command = (list(map(int, line.split())) for line in done.stdout.splitlines())
    assert min(library) > 1000  # 60 MB page by page
    assert min(command) < 100
