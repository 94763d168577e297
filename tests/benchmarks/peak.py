"""What the machine can do at most: products of two large matrices."""

import time
from collections.abc import Callable
from functools import partial

from tests.benchmarks.measuring import Check, Job, System, device, wait_for_gpu

REPEATS = 10


def matrix_products(job: Job, *, size: int, precision: str = "float32") -> Callable[[], Check]:
    """Return what multiplies square matrices, on a CPU by the quicker of the two libraries that torch has."""
    import torch

    left, right = (torch.randn(size, size).to(device(), getattr(torch, precision)) for _ in range(2))
    ways: list[Callable[[], torch.Tensor]] = [lambda: left @ right]
    if device() == "cpu" and torch.backends.mkldnn.is_available():
        ways.append(lambda: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], ""))

    def run() -> Check:
        seconds = []
        for multiply in ways:
            multiply()
            wait_for_gpu()
            for _ in range(REPEATS):
                start = time.perf_counter()
                multiply()
                wait_for_gpu()
                seconds.append(time.perf_counter() - start)
        return lambda: {"gflops": 2 * size**3 / min(seconds) / 1e9}

    return run


SYSTEMS: dict[str, System] = {"peak": System("none", partial(matrix_products, size=2048))}
