"""The folder of a run: its settings, the data and machine it ran on, and its results."""

import dataclasses
import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlptl.config import flat, from_json, to_json
from nlptl.data.sources import Examples
from nlptl.data.splits import NAMES as SPLITS
from nlptl.data.splits import Splits
from nlptl.data.targets import label_sets
from nlptl.data.texts import Concatenation
from nlptl.data.writers import write_table, write_whole
from nlptl.errors import ConfigError, ResourceError, UntrustedFileError
from nlptl.evaluation.metrics import Scores
from nlptl.formats import CONFIG_FORMAT, check_format, current_settings, translated
from nlptl.json_files import read_object
from nlptl.model.classifier import Classifier
from nlptl.training.checkpoint import saved_steps
from nlptl.training.devices import on_main, processes
from nlptl.training.lock import FolderLock
from nlptl.values import checked

logger = logging.getLogger(__name__)

PACKAGES = ("nlptl", "torch", "transformers", "tokenizers", "accelerate", "datasets", "safetensors", "numpy")
COMMANDS = ("resume", "overwrite", "dry_run")
"""Settings that say what to do with the folder. They are not recorded."""
BEFORE_TRAINING = {"config.json", "splits.json", "data_report.json"}
"""Files that are written before `manifest.json`, which marks the start of training."""

REPEATS = ("seed-", "fold-")
"""Prefixes of the folders of single runs in the folder of repeated ones."""

FREE = ("encoder", "micro_batch_tokens")
"""Facts that may differ when a run is resumed: the path of the encoder, and what fits into memory."""

SURROUNDINGS = ("command", "git_commit", "versions", "hardware")
"""What `manifest.json` holds besides the facts and their hash."""


class Run:
    """An `output_dir`, locked for one run as long as the object exists; a folder that holds another run is refused.

    Every process calls every method; only the main process writes, and an error there stops all of them. Methods that
    write raise `ResourceError` if the folder cannot be written.
    """

    def __init__(self, path: Path, config: Any, *, resume: bool, lock: FolderLock | None = None) -> None:
        self.path = path
        self.config = config
        self.resume = resume
        self.lock = lock
        self.checkpoints = path / "checkpoints"
        self.identity = ""  # marks the checkpoints of this run; set by `record_data`
        # The other processes may not see the disk.
        self._inode = path.stat().st_ino if processes().is_main_process else 0

    @classmethod
    @checked
    def open(cls, path: str | Path, config: Any, *, resume: bool = False, overwrite: bool = False) -> "Run":
        """Lock the folder `path` for a run with the settings `config`, a dataclass, and write `config.json`.

        Args:
            path: The folder; created if it does not exist.
            config: Settings of the run. COMMANDS among them are not recorded.
            resume: Continue the run in the folder; in an empty folder, start a new one.
            overwrite: Move the contents of the folder aside, to `path.1`, `path.2`, ...

        Raises:
            ConfigError: If the folder holds a run and neither is set, if the run to resume has other settings, or if
                another process uses the folder.
            UntrustedFileError: If the settings of the run to resume cannot be read.
            ResourceError: If the folder cannot be written.
        """
        if resume and overwrite:
            raise ConfigError("Expected --resume or --overwrite, found both. Pass one of the two.")
        folder = Path(path).expanduser()
        names = {field.name for field in dataclasses.fields(config)} & set(COMMANDS)
        recorded = dataclasses.replace(config, **dict.fromkeys(names, False))
        lock = FolderLock(folder)

        def claim() -> bool:
            try:
                return _claim(folder, recorded, lock, resume=resume, overwrite=overwrite)
            except BaseException:
                lock.release()
                raise

        return cls(folder, recorded, resume=on_main(claim), lock=lock)

    def check_place(self) -> None:
        """Check that the folder of this run is still in its place.

        Raises:
            ResourceError: If it was moved, removed or replaced.
        """
        with _writing(self.path):
            inode = self.path.stat().st_ino
        if inode != self._inode:
            raise ResourceError(
                f"{self.path} is no longer the folder of this run. Move the folder back, then continue with --resume."
            )

    def record_splits(self, splits: Splits) -> None:
        """Write the rows of each split to `splits.json`, and label counts and findings to `data_report.json`.

        Raises:
            ConfigError: If a run is resumed on other data than it was started with.
        """
        examples = {name: splits[name] for name in SPLITS}
        contents = {name: Concatenation(e.texts, e.pairs, e.labels) for name, e in examples.items()}
        digest = sha256_of(contents)
        before = _read(self.path / "data_report.json") if self.resume else {}
        if before.get("data_sha256", digest) != digest:
            raise ConfigError(
                f"The run in {self.path} was started on other texts or labels. Restore the data, or start a new run in "
                "another --output-dir."
            )
        on_main(lambda: _write_text(self.path / "splits.json", splits.rows_as_json()))
        report = {
            "data_sha256": digest,
            "test_sha256": sha256_of({"test": contents["test"]}),
            "labels": {
                name: Counter(chain.from_iterable(label_sets(e.labels, splits.task))) for name, e in examples.items()
            },
            "findings": [dataclasses.asdict(finding) for finding in splits.findings],
            "truncation": {},
        }
        self.write_json("data_report.json", report)

    def record_truncation(self, split: str, shares: Mapping[str, float]) -> None:
        """Add to `data_report.json` how much of a split `max_length` cuts off."""
        self._update("data_report.json", {"truncation": {split: dict(shares)}})

    def record_data(self, facts: Mapping[str, Any]) -> None:
        """Write `manifest.json`; for a resumed run, check first that the facts are those it was started with.

        Args:
            facts: Seed, hashes of data, encoder and splits, settings of the model, and derived settings.

        Raises:
            ConfigError: If something that training depends on has changed since the run was started.
            UntrustedFileError: If there are checkpoints but no manifest.
        """
        written = _read(self.path / "manifest.json") if self.resume else {}
        if self.resume and not written and saved_steps(self.checkpoints):
            raise UntrustedFileError(
                f"{self.path / 'manifest.json'} is missing, so the checkpoints beside it cannot be checked. Restore it "
                "from a copy, or start a new run in another --output-dir."
            )
        before, kept = translated(written), {key: value for key, value in facts.items() if key not in FREE}
        is_earlier = "identity" not in written  # written by an earlier version, which recorded fewer facts
        compared = [key for key in kept if written and (key in before or not is_earlier)]
        changed = [key for key in compared if before.get(key) != facts[key]]
        if changed:
            differences = ", ".join(
                f"another {key}" if key.endswith("sha256") else f"{key} was {before.get(key)!r} and is {facts[key]!r}"
                for key in changed
            )
            raise ConfigError(
                f"The run in {self.path} was started on other data, another encoder or other settings: {differences}. "
                "Restore them, or start a new run in another --output-dir."
            )
        if is_earlier:
            own = {key: value for key, value in (written or kept).items() if key not in (*FREE, *SURROUNDINGS)}
            self.identity = sha256_of({"facts": json.dumps(own, sort_keys=True).encode()})
        else:
            self.identity = written["identity"]
        self.write_json("manifest.json", {**facts, "identity": self.identity, **_surroundings()})
        if self.resume:  # only the number of epochs may have changed
            self.write_json("config.json", _settings_file(self.config))

    def write_json(self, name: str, values: Any) -> None:
        """Write a JSON file into the folder, whole or not at all."""
        on_main(lambda: _write(self.path / name, values))

    def write_scores(self, split: str, scores: Scores, baseline: Scores | None, *, baseline_name: str) -> None:
        """Add the scores of a split, and those of a baseline on it, to `scores.json`."""
        values = {split: scores.to_json()}
        if baseline is not None:
            values[baseline_name.replace(" ", "_")] = {split: baseline.to_json()}
        self._update("scores.json", values)

    def record_training_costs(
        self, seconds: float, peak_memory: int | None, counts: Mapping[str, int], *, is_continued: bool
    ) -> None:
        """Write `costs.json`.

        Args:
            seconds: Duration of `fit`.
            peak_memory: Largest number of bytes in use; None: unknown.
            counts: Numbers of parameters.
            is_continued: Whether training continued from a checkpoint. The seconds before it are added if that training
                finished; after an interruption the total is unknown.
        """

        def write() -> None:
            before = _read(self.path / "costs.json").get("train_seconds") if is_continued else 0.0
            costs = {
                "train_seconds": None if before is None else before + seconds,
                "test_seconds": None,
                "test_texts_per_second": None,
                "peak_memory_bytes": peak_memory,
                **counts,
            }
            _write(self.path / "costs.json", costs)

        on_main(write)

    def record_test_costs(self, seconds: float | None, *, num_texts: int) -> None:
        """Add to `costs.json` the seconds for the test texts; None: their features came from the cache."""
        rate = num_texts / seconds if seconds else None
        self._update("costs.json", {"test_seconds": seconds, "test_texts_per_second": rate})

    def write_predictions(self, examples: Examples, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
        """Write `predictions.csv`: a row per example, with its target and the prediction."""
        table = {"row": examples.rows, "label": examples.labels, **columns}
        on_main(lambda: write_table(self.path / "predictions.csv", [table]))

    def write_model(self, model: Classifier) -> None:
        """Write the folder `model/`, and low-rank updates, if there are any, as a peft adapter into `adapter/`."""

        def write() -> None:
            for path in (*self.path.glob(".model-*"), *self.path.glob(".adapter-*")):
                shutil.rmtree(path, ignore_errors=True)  # left behind by a killed process
            model.save(self.path / "model")
            if model.has_adapters:
                model.save_adapter(self.path / "adapter")

        on_main(write)

    def _update(self, name: str, values: Mapping[str, Any]) -> None:
        def update() -> None:
            merged = _read(self.path / name)
            for key, value in values.items():
                is_part = isinstance(merged.get(key), dict) and key not in SPLITS  # it has one entry per split
                merged[key] = {**merged.get(key, {}), **value} if is_part else value
            _write(self.path / name, merged)

        on_main(update)


def sha256_of(parts: Mapping[str, bytes | memoryview | Concatenation]) -> str:
    """Return one hash over named bytes."""
    digest = hashlib.sha256()
    for name, content in parts.items():
        pieces = content if isinstance(content, Concatenation) else (content,)
        digest.update(f"{name}\x1f{sum(memoryview(piece).nbytes for piece in pieces)}\x1f".encode())
        for piece in pieces:
            digest.update(piece)
    return digest.hexdigest()


def _claim(folder: Path, config: Any, lock: FolderLock, *, resume: bool, overwrite: bool) -> bool:
    """Lock and prepare the folder; return whether it holds a run to resume."""
    with _writing(folder):
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"Expected a folder at {folder}, found a file. Pass another --output-dir.")
        if (folder / "config.json").exists():
            lock.take()
        has_run = folder.is_dir() and not _is_unused(folder, config)
        if has_run and resume:
            _check_same_config(folder, config)
            return True
        if has_run and not (folder / "config.json").exists():
            raise ConfigError(f"{folder} holds files that are not of a run. Pass another --output-dir.")
        if has_run and not overwrite:
            raise ConfigError(
                f"{folder} already holds a run. Pass --resume to continue it, --overwrite to move it aside, or another "
                "--output-dir (resume= or overwrite= of Run.open in Python)."
            )
        if has_run:
            number = next(n for n in range(1, 1_000_000) if not Path(f"{folder}.{n}").exists())
            lock.release(of_all=True)
            folder.rename(f"{folder}.{number}")
            logger.info("moved the run in %s to %s.%d", folder, folder, number)
        folder.mkdir(parents=True, exist_ok=True)
        lock.take()
        _write(folder / "config.json", _settings_file(config))
    if resume:
        logger.info("nothing to resume in %s: starting a new run", folder)
    return False


def _is_unused(folder: Path, config: Any) -> bool:
    """Return whether the folder is empty, or has only the files of a run that stopped before training began."""
    # An interrupted start or a file browser leaves hidden files behind.
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    refused = {path for path in paths if path.name.startswith(REPEATS) and path.is_dir() and _is_unused(path, config)}
    names = {path.name for path in paths if path not in refused}
    if names - BEFORE_TRAINING:
        return False
    try:
        return not names or translated(_read(folder / "config.json")).keys() == to_json(config).keys()
    except UntrustedFileError:
        return False


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"Cannot write into {path}: {error.strerror}. Fix the permissions, free some space, or pass another "
            "--output-dir."
        ) from error


def _write(path: Path, values: Any) -> None:
    _write_text(path, (json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False), "\n"))


def _write_text(path: Path, pieces: Iterable[str]) -> None:
    def write(temporary: Path) -> None:
        # Characters that UTF-8 cannot encode, as in file names that are not UTF-8, are written as JSON escapes.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(pieces)

    with _writing(path.parent):
        write_whole(path, write)


def _read(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; empty if there is no such file."""
    return read_object(path, way_out="Restore the file, or start a new run in another --output-dir.")


def _settings_file(config: Any) -> dict[str, Any]:
    return {"format": CONFIG_FORMAT, **to_json(config)}


def _settings_before(path: Path, config: Any) -> dict[str, Any]:
    """Return the settings that a run was started with, flattened."""
    written = _read(path)
    if not written:
        return {}
    number = written.get("format", 1)
    check_format(number, CONFIG_FORMAT, path)
    settings = current_settings(written, path)
    if number < CONFIG_FORMAT:  # settings that did not exist yet have their defaults
        settings = to_json(from_json(type(config), settings, source=str(path)))
    return flat(settings)


def _check_same_config(folder: Path, config: Any) -> None:
    before, now = _settings_before(folder / "config.json", config), flat(to_json(config))
    if not before:
        raise ConfigError(f"{folder} has no config.json, so it cannot be resumed. Pass another --output-dir.")
    changed = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k) and k != "output_dir"]
    had, wanted = before.get("num_epochs"), now["num_epochs"]
    # With gradual unfreezing, more epochs would train layers that the checkpoints do not hold.
    if "num_epochs" in changed and isinstance(had, int) and wanted > had and not now["unfreeze_every_epochs"]:
        changed.remove("num_epochs")
        if not changed:
            logger.info("training for %d epochs instead of %d; the learning rate follows the new number", wanted, had)
    if changed:
        differences = ", ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in changed)
        raise ConfigError(
            f"The run in {folder} was started with other settings: {differences}. Resume it with the same settings "
            "(--config with its config.json), or start a new run in another --output-dir."
        )


def _surroundings() -> dict[str, Any]:
    state, commit = processes(), None
    if shutil.which("git") is not None:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        commit = found.stdout.strip() or None
    return {
        "command": sys.argv,
        "git_commit": commit,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "hardware": {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": str(state.device),
            "device_name": torch.cuda.get_device_name(state.device) if state.device.type == "cuda" else None,
            "processes": state.num_processes,
        },
    }
