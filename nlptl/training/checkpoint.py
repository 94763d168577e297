"""Checkpoints that are complete or invisible: written to a temporary folder, flushed to disk, then renamed.

Weights and optimizer state are safetensors, the rest is JSON; nothing is ever unpickled. No random state is stored,
since order and noise are functions of the seed and the step.
"""

import hashlib
import json
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from nlptl.errors import ConfigError, ResourceError, UntrustedFileError
from nlptl.formats import CHECKPOINT_FORMAT, check_format

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
AVERAGES = "averages.safetensors"
FILES_BY_FORMAT = {3: {*FILES, AVERAGES}, CHECKPOINT_FORMAT: {*FILES}}
"""Format 3 has one more file: the moving averages of ema_decay, without tensors if that was not set."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training: trained weights, the optimizer's state by parameter name, and the progress."""

    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    state: dict[str, Any]


def step_folder(folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint of `step`."""
    return folder / f"step-{step:06d}"


class Background:
    """Runs one write at a time in a thread while training continues; its error is raised later."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Start `write` after the previous write has finished; raise the error of that one."""

        def run() -> None:
            try:
                write()
            except Exception as error:
                self._error = error

        self.finish()
        # A daemon thread: a process that is asked twice to end does not wait for it. Half a checkpoint is invisible.
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the current write, and raise its error."""
        self.wait()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Wait for the current write."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def pack(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return the files of a checkpoint by name, as a copy that later steps do not change."""
    return {
        "weights.safetensors": safetensors.torch.save(checkpoint.weights, metadata={"format": "pt"}),
        "optimizer.safetensors": safetensors.torch.save(checkpoint.optimizer, metadata={"format": "pt"}),
        "state.json": (json.dumps(checkpoint.state, indent=2) + "\n").encode(),
    }


def save_checkpoint(folder: Path, step: int, files: Mapping[str, bytes], *, run: str = "") -> None:
    """Write the checkpoint of `step` into `folder`. It gets its name when it is complete and on disk.

    Args:
        folder: Folder of the checkpoints.
        step: The step.
        files: The result of `pack`.
        run: Identity of the run.

    Raises:
        ResourceError: If the disk is full or cannot be written; earlier checkpoints are not changed.
    """
    target = step_folder(folder, step)
    staging = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = folder / f".{target.name}-{secrets.token_hex(4)}"
        staging.mkdir()
        for name, content in files.items():
            _write(staging / name, content)
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        manifest = {"format": CHECKPOINT_FORMAT, "run": run, "step": step, "sha256": hashes}
        _write(staging / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        _flush_folder(staging)
        if target.exists():  # left by a run that was resumed from an earlier checkpoint
            shutil.rmtree(target)
        staging.rename(target)
        _flush_folder(folder)
    except OSError as error:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        raise ResourceError(
            f"Cannot write the checkpoint {target} of {sum(map(len, files.values())) / 1e6:,.1f} MB: {error.strerror}. "
            "Free some space or fix the permissions, then continue with --resume. Earlier checkpoints are intact."
        ) from error


def load_checkpoint(folder: Path, step: int, run: str = "") -> Checkpoint:
    """Read the checkpoint of `step` and verify it against its manifest.

    Raises:
        UntrustedFileError: If a file is missing or damaged, belongs to another run than `run`, or was written by a
            newer version of nlptl.
    """
    path = step_folder(folder, step)
    try:
        manifest = _manifest(path / MANIFEST)
        if manifest["step"] != step:
            raise ValueError(f"a checkpoint of step {manifest['step']}")
        if manifest["run"] != run:
            raise ValueError("a checkpoint of another run")
        contents = {name: (path / name).read_bytes() for name in manifest["sha256"]}
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        wrong = [name for name in contents if hashes[name] != manifest["sha256"][name]]
        if wrong:
            raise ValueError(f"damaged: {', '.join(wrong)}")
        if AVERAGES in contents and safetensors.torch.load(contents[AVERAGES]):
            raise ConfigError(
                f"{path} holds a moving average of the weights (ema_decay), which nlptl 0.2.0 removed. Use nlptl "
                "0.1.0, which still has it, or train again without it."
            )
        return Checkpoint(
            safetensors.torch.load(contents["weights.safetensors"]),
            safetensors.torch.load(contents["optimizer.safetensors"]),
            json.loads(contents["state.json"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UntrustedFileError(
            f"Expected a complete checkpoint in {path}, found: {error}. Restore the folder from a copy, or "
            "start a new run."
        ) from error


def saved_steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in `folder`, also of damaged ones, the newest first."""
    return sorted((int(path.name[5:]) for path in folder.glob("step-*") if path.name[5:].isdecimal()), reverse=True)


def latest_checkpoint(folder: Path, run: str = "") -> tuple[Checkpoint, Checkpoint | None] | None:
    """Return the newest intact checkpoint, and the one with the best weights up to it if there is a best.

    Damaged checkpoints are skipped with a warning. If the best weights of all intact checkpoints are damaged, the
    newest intact one is returned without a best, with a warning. Returns None if there are no checkpoints.

    Raises:
        ConfigError: If a newer version of nlptl wrote them, or they use a setting that was removed.
        UntrustedFileError: If there are checkpoints and none of them can be used.
    """
    steps, without_best, newest = saved_steps(folder), None, None
    for step in steps:
        checkpoint = None
        try:
            checkpoint = load_checkpoint(folder, step, run)
            best_step = checkpoint.state["best_step"]
            best = checkpoint if best_step in (None, step) else load_checkpoint(folder, best_step, run)
            return checkpoint, None if best_step is None else best
        except UntrustedFileError as error:
            which = f"step {step}" if checkpoint is None else f"step {step}, which needs that of step {best_step}"
            logger.warning("skipping the checkpoint of %s: %s", which, error.__cause__)
            without_best, newest = without_best or checkpoint, newest or error
    if without_best is not None:
        logger.warning("the best weights so far are damaged: the best model will be chosen from the following steps")
        return replace(without_best, state={**without_best.state, "best_step": None, "best_value": None}), None
    if newest is not None:
        if isinstance(newest.__cause__, ConfigError):
            raise newest.__cause__
        raise UntrustedFileError(
            f"All {len(steps)} checkpoints in {folder} are damaged. Restore one from a copy, or start the run again "
            "with --overwrite, which moves this one aside."
        )
    return None


def prune_checkpoints(folder: Path, *, keep: Collection[int]) -> None:
    """Remove the checkpoints of all steps but `keep`, and the remains of interrupted writes.

    If one cannot be removed, a warning is logged.
    """
    kept = {step_folder(folder, step) for step in keep}
    for path in folder.iterdir():
        if path not in kept and path.name.startswith(("step-", ".step-")):
            shutil.rmtree(path, ignore_errors=True)
            if path.exists():
                logger.warning("could not remove the old checkpoint %s", path)


def _manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint: its format, run and step, and the sha256 of every file by name."""
    try:
        manifest = json.loads(path.read_bytes())
        is_whole = set(manifest) == {"format", "run", "step", "sha256"}
    except (ValueError, TypeError) as error:
        raise ValueError(f"damaged: {path.name}: {error}") from error
    if is_whole:
        check_format(manifest["format"], CHECKPOINT_FORMAT, path.parent)
        is_whole = set(manifest["sha256"]) == FILES_BY_FORMAT.get(manifest["format"])
    if not is_whole:
        raise ValueError(f"damaged: {path.name}")
    return dict(manifest)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
