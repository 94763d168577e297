"""What a run takes besides data: seconds, memory, parameters. They stand in `costs.json`, beside the scores."""

from contextlib import suppress
from pathlib import Path

import psutil
import torch
from torch import nn

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def restart_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` count from here on, where the system can: several trainings may follow each other."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        _REFERENCES.write_text("5")  # proc_pid_clear_refs(5): sets the peak to what is in use now


def peak_memory(device: torch.device) -> int | None:
    """Return the most bytes at once: on CUDA those of the tensors, else those of this process; None: nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if _STATUS.exists():  # getrusage has the peak of the process that has started this one, if that was higher
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 if "VmHWM" in lines else None
    found = getattr(psutil.Process().memory_info(), "peak_wset", None)  # Windows
    if found is None:
        import resource
        import sys

        found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return int(found)


def count_parameters(network: nn.Module) -> dict[str, int]:
    """Return how many numbers the network has, and how many of them train."""
    parameters = list(network.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
    }
