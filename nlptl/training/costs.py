"""The costs of a run in memory and parameters, for `costs.json`."""

from contextlib import suppress
from pathlib import Path

import psutil
import torch
from torch import nn

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def restart_peak_memory(device: torch.device) -> None:
    """Reset the peak of `peak_memory`, where the system can, since several trainings may follow each other."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        _REFERENCES.write_text("5")  # proc_pid_clear_refs(5): sets the peak to what is in use now


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory in bytes: of tensors on CUDA, else of this process; None if it is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if _STATUS.exists():  # getrusage may return the peak of the parent process
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 if "VmHWM" in lines else None
    found = getattr(psutil.Process().memory_info(), "peak_wset", None)  # Windows
    if found is None:
        import resource
        import sys

        found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return int(found)


def count_parameters(network: nn.Module) -> dict[str, int]:
    """Return the number of parameters of the network, and how many of them train."""
    parameters = list(network.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
    }
