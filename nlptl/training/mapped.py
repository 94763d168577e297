"""Arrays in a temporary file that the processes of a machine share."""

import secrets
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from nlptl.training.cache import remove_file

ZEROS = bytes(1 << 24)


def map_new_file(shape: tuple[int, int], dtype: str, accelerator: Accelerator, folder: Path) -> torch.Tensor | None:
    """Return zeros in a new file in `folder`, mapped by every process of a machine; None: there is no space for it.

    Every process must call this.
    """
    # A name from torch's generator could be that of another run with the same seed.
    key = broadcast(torch.tensor(secrets.randbits(62), device=accelerator.device))
    path = folder / f".nlptl-mapped-{int(key):x}.tmp"
    has_room = True
    if accelerator.is_local_main_process:
        has_room = _create_file(path, shape[0] * shape[1] * np.dtype(dtype).itemsize)
    elsewhere = accelerator.reduce(torch.tensor(int(not has_room), device=accelerator.device), "sum")
    if int(elsewhere) > 0:
        remove_file(path)
        return None
    mapped = torch.from_numpy(np.memmap(path, dtype=dtype, mode="r+", shape=shape))
    accelerator.wait_for_everyone()
    if accelerator.is_local_main_process:
        path.unlink()  # the mapping remains until the processes end
    return mapped


def _create_file(path: Path, num_bytes: int) -> bool:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=False)
        with path.open("wb") as file:
            # On a full disk this fails; a sparse file would fail later, with a signal.
            for start in range(0, num_bytes, len(ZEROS)):
                file.write(ZEROS[: num_bytes - start])
    except OSError:
        remove_file(path)
        return False
    return True
