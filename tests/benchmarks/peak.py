"""What the machine can do at most: products of two large matrices."""

import time
from collections.abc import Callable

from tests.benchmarks.measuring import Check, Job, System

SIZE, REPEATS = 2048, 10


def matrix_products(job: Job) -> Callable[[], Check]:
    """Return what multiplies square float32 matrices, by the quicker of the two libraries that torch has."""
    import torch

    left, right = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    ways: list[Callable[[], torch.Tensor]] = [lambda: left @ right]
    if torch.backends.mkldnn.is_available():
        ways.append(lambda: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], ""))

    def run() -> Check:
        seconds = []
        for multiply in ways:
            multiply()
            for _ in range(REPEATS):
                start = time.perf_counter()
                multiply()
                seconds.append(time.perf_counter() - start)
        return lambda: {"gflops": 2 * SIZE**3 / min(seconds) / 1e9}

    return run


SYSTEMS: dict[str, System] = {"peak": System("none", matrix_products)}
