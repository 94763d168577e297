"""Python processes that start at once: forked from a server that has torch, transformers and nlptl imported.

`run` and `Process` are used like `subprocess.run` and `subprocess.Popen`, without the interpreter as first word:
`run(["-m", "nlptl", "--help"])`. `launch` starts the processes of a distributed training. fork_server.py says how such
a process differs from a fresh interpreter; a test that needs the latter calls `subprocess` itself.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, CalledProcessError, CompletedProcess, TimeoutExpired

REPOSITORY = Path(__file__).parents[1]
HANG = 600.0
"""Seconds after which a process counts as hanging: far more than any test takes, however busy the machine is."""
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_connection: socket.socket | None = None
_lock = threading.Lock()


def _start_server() -> socket.socket:
    """Start the server, which ends when this process does, and wait until it is ready."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, str(Path(__file__).with_name("fork_server.py")), str(there.fileno())]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **one_thread}
    server = subprocess.Popen(command, pass_fds=[there.fileno()], stdin=DEVNULL, env=environment)
    there.close()
    if here.recv(16) != b"ready":
        raise RuntimeError(f"the fork server has ended with code {server.wait()}")
    atexit.register(server.wait)
    atexit.register(here.close)
    return here


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of this process for another one: with one thread, and without a launcher's variables."""
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    return {"OMP_NUM_THREADS": "1", **kept, "PYTHONPATH": str(REPOSITORY), **variables}


class Process:
    """A Python process as `subprocess.Popen` would start it; its streams are text in UTF-8."""

    def __init__(
        self,
        words: Sequence[object],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        """Start it; `words` are a script, `-m` and a module or `-c` and code, with what follows it."""
        global _connection
        self.args, self.returncode = list(map(str, words)), None
        self.stdin, ours = self._pipe(stdin, 0, "w")
        self.stdout, out = self._pipe(stdout, 1, "r")
        self.stderr, err = (None, out) if stderr == STDOUT else self._pipe(stderr, 2, "r")
        report, its_report = os.pipe()
        self._report = os.fdopen(report, buffering=1)
        request = json.dumps([self.args, environment() if env is None else dict(env), str(cwd or Path.cwd())])
        with _lock:
            _connection = _connection or _start_server()
            socket.send_fds(_connection, [request.encode()], [ours, out, err, its_report])
        for descriptor in {ours, out, err, its_report} - {0, 1, 2}:
            os.close(descriptor)
        self.pid = int(self._report.readline())

    @staticmethod
    def _pipe(kind: int | None, number: int, mode: str):
        """Return our end of a stream, if it is a pipe, and the descriptor of its other end."""
        if kind == PIPE:
            ends = os.pipe()
            ours, theirs = ends if mode == "r" else ends[::-1]
            return os.fdopen(ours, mode, encoding="utf-8", errors="surrogateescape"), theirs
        return None, os.open(os.devnull, os.O_RDWR) if kind == DEVNULL else number

    def poll(self) -> int | None:
        """Return the exit code, below zero for a signal, or None while it runs."""
        if self.returncode is None and select.select([self._report], [], [], 0)[0]:
            self.returncode = int(self._report.readline())
            self._report.close()
        return self.returncode

    def wait(self, timeout: float = HANG) -> int:
        """Return the exit code once it has ended."""
        if self.returncode is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise TimeoutExpired(self.args, timeout)
            self.poll()
        return self.returncode

    def communicate(self, input: str | None = None, timeout: float = HANG) -> tuple[str | None, str | None]:
        """Write `input`, and return what it writes to the streams that are pipes, once it has ended."""
        deadline = time.monotonic() + timeout
        said: dict[str, str] = {}

        def read(name: str) -> None:
            said[name] = getattr(self, name).read()

        def write() -> None:
            with suppress(BrokenPipeError), self.stdin:
                self.stdin.write(input or "")

        pipes = [name for name in ("stdout", "stderr") if getattr(self, name) is not None]
        threads = [threading.Thread(target=read, args=(name,), daemon=True) for name in pipes]
        if self.stdin is not None and not self.stdin.closed:
            threads.append(threading.Thread(target=write, daemon=True))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise TimeoutExpired(self.args, timeout)
        self.wait(max(0.0, deadline - time.monotonic()))
        return said.get("stdout"), said.get("stderr")

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it, and close its streams."""
        self.kill()
        self.wait()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()


def run(
    words: Sequence[object],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    input: str | None = None,
    stderr: int = PIPE,
    check: bool = False,
    timeout: float = HANG,
) -> CompletedProcess[str]:
    """Run a Python process to its end; return its exit code and what it wrote."""
    stdin = DEVNULL if input is None else PIPE
    with Process(words, env=env, cwd=cwd, stdin=stdin, stdout=PIPE, stderr=stderr) as process:
        out, err = process.communicate(input, timeout)
    if check and process.returncode:
        raise CalledProcessError(process.returncode, process.args, out, err)
    return CompletedProcess(process.args, process.returncode, out, err)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def launch(
    words: Sequence[object],
    *,
    processes: int = 2,
    leave: Sequence[int] = (),
    each: Callable[[int], Mapping[str, str]] = lambda rank: {},
    **variables: str,
) -> tuple[list[int], list[str]]:
    """Run the processes of a distributed training; return the exit code of each and what it wrote.

    Those in `leave` are killed when the others have ended. `each` gives variables that differ between the processes.
    """
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    sizes = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    said = [""] * processes
    with ExitStack() as stack:
        started = []
        for rank in range(processes):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            env = environment(**{**address, **sizes, **ranks, **variables, **each(rank)})
            started.append(stack.enter_context(Process(words, env=env, stdout=PIPE, stderr=STDOUT)))
        for rank in sorted(range(processes), key=lambda rank: rank in leave):
            if rank in leave:
                started[rank].kill()
            said[rank] = started[rank].communicate()[0]
    return [process.returncode for process in started], said
