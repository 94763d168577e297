"""Measures systems against each other: each time in a process of its own, ours and the rivals in turn."""

import json
import operator
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# Nothing else is imported up here: the peak memory of a process starts from that of the one that has started it.

MARK = "RESULT "

Job = dict[str, Any]
"""What a system is given: a seed, and what `jobs.prepare` has made."""

Result = dict[str, Any]

Check = Callable[[], Result]
"""Returns what is looked at when the clock has stopped, such as accuracy."""


class System(NamedTuple):
    """Something that is measured."""

    job: str
    """Which of the jobs it does."""
    prepare: Callable[[Job], Callable[[], Check]]
    """Imports all that it takes, off the clock; what it returns is on the clock."""
    environment: dict[str, str] = {}


class Comparison(NamedTuple):
    """One row of the table: what is compared, and how many times better than the rival is asked for.

    Without a rival, `target` is the limit of what is measured. More is better of what is in `RATES`.
    """

    part: str
    """As --only names it."""
    what: str
    ours: str
    rival: str | None
    target: float
    field: str = "seconds"


RATES = ("gflops", "texts_per_s")


def measure(systems: dict[str, System], jobs: dict[str, Job], *, num_pairs: int) -> dict[str, list[Result]]:
    """Run every system in turn, `num_pairs` times, each time with another seed and an empty cache of features."""
    results: dict[str, list[Result]] = {name: [] for name in systems}
    for pair in range(num_pairs):
        with tempfile.TemporaryDirectory() as cache:
            for name, system in systems.items():
                job = {**jobs[system.job], "seed": pair, "cache": cache}
                result = in_process(name, job, Path(cache), **system.environment)
                results[name].append(result)
                print(f"pair {pair + 1}, {name}: {result['seconds']:.2f} s", file=sys.stderr, flush=True)
    return results


def in_process(role: str, values: Job, folder: Path, **environment: str) -> Result:
    """Run the benchmarks as `role` in a fresh process and return its result."""
    path = folder / "job.json"
    path.write_text(json.dumps({**values, "started": time.time()}))
    command = [sys.executable, "-m", "tests.benchmarks", "worker", role, str(path)]
    whole = {**os.environ, "NLPTL_CACHE": values.get("cache", str(folder)), **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=whole)  # no terminal, so no bars
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}\n{done.stderr}\n{role} failed, see above")
    line = next(line for line in done.stdout.splitlines() if line.startswith(MARK))
    found: Result = json.loads(line[len(MARK) :])
    return found


def work(system: System, job: Job) -> Result:
    """Let one system do its job in this process, and return what it took."""
    run = system.prepare(job)
    after_imports = peak_mb()
    start = time.perf_counter()
    check = run()
    wait_for_gpu()
    seconds, peak = time.perf_counter() - start, peak_mb()
    return {"seconds": seconds, "peak_mb": peak, "above_mb": peak - after_imports, **gpu_mb(), **check()}


def peak_mb() -> float:
    """Return the most memory that this process has had so far, in units of 1e6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def device() -> str:
    """Return where models run: on the GPU, which is hidden with --cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def wait_for_gpu() -> None:
    """Return when the GPU is done, if this process uses one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def gpu_mb() -> Result:
    """Return the most memory that tensors have had on the GPU, in units of 1e6 bytes, if this process uses one."""
    torch = sys.modules.get("torch")
    is_used = torch is not None and torch.cuda.is_initialized()
    return {"gpu_mb": torch.cuda.max_memory_allocated() / 1e6} if is_used else {}


def share_equal(found: list[Any], expected: list[Any]) -> float:
    """Return the accuracy of labels."""
    return sum(map(operator.eq, found, expected)) / len(expected)


def quiet() -> None:
    """Let transformers say nothing."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
