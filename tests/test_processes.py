"""A process of the fork server does what a fresh interpreter does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes

PROGRAMS = {
    "arguments": "import sys; print(__name__, sys.argv)",
    "exit code": "raise SystemExit(5)",
    "error": "1 / 0",
    "interrupt": "raise KeyboardInterrupt",
    "environment": "import os; print(sorted(os.environ))",
    "handlers": "import signal; print([signal.getsignal(n) for n in (2, 13, 15, 17)])",
    "path": "import sys; print(sys.path)",
    "input": "import sys; print(len(sys.stdin.read()))",
    "descriptors": "import os; print(len(os.listdir('/proc/self/fd')))",
    "at exit": "import atexit; atexit.register(print, 'end')",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_does_what_a_fresh_interpreter_does(name: str, tmp_path: Path):
    words = ["-c", PROGRAMS[name], "one", "two words"]
    env = {"PYTHONPATH": str(processes.REPOSITORY), "PYTHONUTF8": "1", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    text = "film\n" * 50_000  # more than a pipe holds
    fresh = subprocess.run([sys.executable, *words], env=env, cwd=tmp_path, input=text, capture_output=True, text=True)
    forked = processes.run(words, env=env, cwd=tmp_path, input=text)
    assert (forked.returncode, forked.stdout) == (fresh.returncode, fresh.stdout)
    assert forked.stderr.splitlines()[-1:] == fresh.stderr.splitlines()[-1:]


def test_a_script_and_a_module(tmp_path: Path):
    (tmp_path / "program.py").write_text("import sys, helper\nprint(__name__, sys.argv[1:], helper.VALUE)\n")
    (tmp_path / "helper.py").write_text("VALUE = 3\n")
    for words in ([tmp_path / "program.py", "x"], ["-m", "program", "x"]):
        assert processes.run(words, cwd=tmp_path).stdout == "__main__ ['x'] 3\n"


def test_it_is_talked_to_and_gets_signals():
    echo = "import sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True)"
    with processes.Process(["-c", echo], stdin=processes.PIPE, stdout=processes.PIPE) as process:
        for word in ("one", "two"):
            process.stdin.write(f"{word}\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{word.upper()}\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == process.poll() == -signal.SIGTERM


def test_what_is_left_running_is_ended():
    with processes.Process(["-c", "import time; time.sleep(1000)"]) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_the_ranks_of_a_training_meet():
    code = """
import os, torch
torch.distributed.init_process_group("gloo")
total = torch.tensor(float(os.environ["RANK"]) + 1)
torch.distributed.all_reduce(total)
print(total.item())
torch.distributed.destroy_process_group()
"""
    assert processes.launch(["-c", code], processes=3) == ([0] * 3, ["6.0\n"] * 3)


@pytest.mark.nightly
def test_the_server_ends_with_the_process_that_started_it():
    code = """
import psutil
from tests import processes
processes.run(["-c", "pass"], check=True)
print(*[child.pid for child in psutil.Process().children()])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=processes.environment(), capture_output=True, text=True, check=True)
    (server,) = map(int, done.stdout.split())
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
