"""What a launcher sets is obeyed or refused; what stops the main process stops all."""

import os
import subprocess
import sys

import pytest
import torch

from nlptl import ConfigError, NonFiniteError
from nlptl.training.devices import REFUSED, on_main, open_accelerator, processes
from tests.processes import run as run_process


def test_one_process_on_its_own():
    state = processes()
    assert (state.num_processes, state.process_index, state.is_main_process) == (1, 0, True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the precision")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision_that_the_device_lacks_is_refused(precision):
    with pytest.raises(ConfigError, match=f"with {precision}, found the device .*Pass --mixed-precision no"):
        open_accelerator(precision)


def test_precision_of_the_launcher_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ConfigError, match="found bf16 from the launcher and mixed_precision='no'"):
        open_accelerator("no")


def test_accumulation_of_the_launcher_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(ConfigError, match="Expected no gradient accumulation from the launcher, found 4 steps"):
        open_accelerator("no")


@pytest.mark.parametrize("variable", REFUSED)
def test_a_launcher_that_would_split_the_model_is_refused(variable, monkeypatch):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match=f"asks for {REFUSED[variable]}, but .* whole model .* with torchrun"):
        open_accelerator("no")


@pytest.mark.nightly
def test_fsdp_is_refused_as_accelerate_launch_asks_for_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from nlptl.training.devices import open_accelerator\nopen_accelerator('no')\n")
    options = ["--use_fsdp", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, "--dynamo_backend", "no", str(script)]
    run = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=300)
    assert "ConfigError: The launcher asks for FSDP, but nlptl keeps the whole model" in run.stderr


def test_processes_that_accelerate_does_not_see_are_refused(monkeypatch):
    processes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="Expected the 2 processes that were launched, found 1"):
        processes()


def test_another_precision_in_one_process_is_refused():
    code = (
        "from accelerate import Accelerator\nfrom nlptl.training.devices import open_accelerator\n"
        "Accelerator(mixed_precision='bf16', cpu=True)\nopen_accelerator('no')"
    )
    done = run_process(["-c", code])
    assert "ConfigError: Expected one precision in a Python process, found mixed_precision='no'" in done.stderr


@pytest.mark.parametrize(("returned", "expected"), [(True, True), (False, False), (None, False)])
def test_on_main_returns_what_the_action_returned(returned, expected):
    assert on_main(lambda: returned) is expected


@pytest.mark.parametrize("error", [NonFiniteError("not a number"), RuntimeError("unforeseen")])
def test_on_main_raises_what_the_action_raised(error):
    def action():
        raise error

    with pytest.raises(type(error), match=str(error)) as caught:
        on_main(action)
    assert caught.value is error
