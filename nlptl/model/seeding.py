"""Random numbers from torch's generators, which all threads of a process share.

New weights and dropout can draw from nothing else: neither transformers' initialization nor torch's fused attention
takes a generator of its own. Nor can transformers load models in several threads at once.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

one_at_a_time = threading.RLock()
"""Held by the thread that draws from torch's generators or changes settings of the process for a while.

A thread that holds the lock of a model may wait for this one, but not the other way round."""


@contextmanager
def seeded(key: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the generators of torch, of the CPU and of `device`; give them their states back at the end."""
    others = [] if device is None or device.type == "cpu" else [device]
    kind = others[0].type if others else "cuda"
    with one_at_a_time, torch.random.fork_rng(others, device_type=kind):
        # torch.manual_seed would seed devices that are not used too, and take longer.
        torch.default_generator.manual_seed(key)
        for each in others:
            torch.get_device_module(each).manual_seed(key)
        yield
