"""Trains on a disk that fills up: `python disk_worker.py MODEL DATA FOLDER`.

FOLDER becomes a small disk that only this process sees. Prints the exit code of the training, the step of its newest
checkpoint, and the exit code after room was made; or "no disk" where a process may not have one.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")

from torch.optim.optimizer import register_optimizer_step_post_hook

from nlptl import cli
from nlptl.training.checkpoint import load_checkpoint, saved_steps, step_folder

ROOM = 100_000  # bytes: enough for a record, not for a checkpoint
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000  # of linux/sched.h


def mount_disk(folder: str) -> bool:
    """Mount a disk of 6 MB on `folder`, in namespaces of this process; return whether that is allowed."""
    libc = ctypes.CDLL(None)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
        return False
    for name, content in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        Path(f"/proc/self/{name}").write_text(content)
    return bool(libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"size=6m") == 0)


def main() -> None:
    """Fill the disk after step 4, between the checkpoints of steps 3 and 6."""
    model, data, folder = sys.argv[1:]
    if not mount_disk(folder):
        sys.stdout.write("no disk\n")
        return
    filler, steps = Path(folder) / "filler", []

    def fill(*_: object) -> None:
        steps.append(1)
        if len(steps) != 4:
            return
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(10_000))
            except OSError:
                file.truncate(file.tell() - ROOM)

    def run(*flags: str) -> int:
        words = f"run sentiment --model {model} --dataset {data} --freeze nothing --num-epochs 2 --batch-size 24"
        words += f" --eval-steps 3 --max-length 16 --output-dir {folder}/run"
        try:
            cli.main([*words.split(), *flags])
        except SystemExit as exit:
            return int(exit.code or 0)
        return 0

    handle = register_optimizer_step_post_hook(fill)
    code = run()
    handle.remove()
    checkpoints = Path(folder) / "run/checkpoints"
    step = max(saved_steps(checkpoints), default=None)
    if step is not None:
        written = json.loads((step_folder(checkpoints, step) / "manifest.json").read_text())
        load_checkpoint(checkpoints, step, written["run"])
    filler.unlink()
    sys.stdout.write(json.dumps([code, step, run("--resume")]) + "\n")


if __name__ == "__main__":
    main()
