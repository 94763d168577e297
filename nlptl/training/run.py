"""The folder of a run: what was asked for, on what data and machine, and what came out."""

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
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlptl.config import flat, from_json, to_json
from nlptl.data.sources import Examples
from nlptl.data.splits import NAMES as SPLITS
from nlptl.data.splits import Splits
from nlptl.data.targets import label_sets
from nlptl.data.texts import Concatenation, concatenate
from nlptl.data.writers import write_table, write_whole
from nlptl.errors import ConfigError, ResourceError, UntrustedFileError
from nlptl.evaluation.metrics import Scores
from nlptl.formats import CONFIG_FORMAT, check_format, current_settings, translated
from nlptl.json_files import read_object
from nlptl.model.classifier import Classifier
from nlptl.training.checkpoint import prune_checkpoints, saved_steps
from nlptl.training.devices import on_main, processes
from nlptl.training.lock import FolderLock
from nlptl.values import checked

logger = logging.getLogger(__name__)

PACKAGES = ("nlptl", "torch", "transformers", "tokenizers", "accelerate", "datasets", "safetensors", "numpy")
COMMANDS = ("resume", "overwrite", "dry_run")
"""Settings that say what to do with the folder, or to leave it alone; they are not part of what a run is."""
BEFORE_TRAINING = {"config.json", "splits.json", "data_report.json"}
"""Files that are written before `manifest.json`, with which training begins."""

REPEATS = ("seed-", "fold-")
"""How the folders of runs begin in that of several."""

FREE = ("encoder", "micro_batch_tokens")
"""Facts that may differ when a run is resumed: where the encoder stood, and what the device holds at once."""


SURROUNDINGS = ("command", "git_commit", "versions", "hardware")
"""What `manifest.json` holds besides the facts and their hash."""


class Run:
    """An `output_dir`, claimed for one run: a folder that holds another run is refused.

    Every process calls every method; the main process alone writes, and what stops it stops all. As long as the object
    lives, no other process can claim the folder.
    """

    def __init__(self, path: Path, config: Any, *, resume: bool, lock: FolderLock | None = None) -> None:
        self.path = path
        self.config = config
        self.resume = resume
        self.lock = lock
        self.checkpoints = path / "checkpoints"
        self._inode = path.stat().st_ino if processes().is_main_process else 0  # the others need not see the disk
        self.identity = ""  # tells its checkpoints from those of other runs; known once `record_data` was called

    @classmethod
    @checked
    def open(cls, path: str | Path, config: Any, *, resume: bool = False, overwrite: bool = False) -> "Run":
        """Claim the folder `path` for a run with the settings `config`, a dataclass, and write `config.json`.

        Args:
            path: The folder; it is created if it is not there.
            config: Settings of the run. `resume` and `overwrite` among them are not recorded.
            resume: Go on with the run in the folder; an empty folder starts a new one.
            overwrite: Move what is in the folder aside, to `path.1`, `path.2`, ...

        Raises:
            ConfigError: If the folder holds a run and neither is set, or a run with other settings is to be resumed, or
                if another process has claimed the folder.
            UntrustedFileError: If the settings of the run that is to be resumed cannot be read.
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
        """Refuse to write where the folder of this run no longer is.

        Raises:
            ResourceError: If the folder was moved or removed, with or without another one in its place.
        """
        with _writing(self.path):
            inode = self.path.stat().st_ino
        if inode != self._inode:
            raise ResourceError(
                f"Expected the folder of this run at {self.path}, found another one. Move the folders back, then go on "
                "with --resume."
            )

    def record_splits(self, splits: Splits) -> None:
        """Write which rows each split is made of to `splits.json`, counts and findings to `data_report.json`.

        Raises:
            ConfigError: If the run is resumed, and was started on other data.
        """
        examples = {name: splits[name] for name in ("train", "validation", "test")}
        contents = {name: concatenate(e.texts, e.pairs, e.labels) for name, e in examples.items()}
        digest = sha256_of(contents)
        before = _read(self.path / "data_report.json") if self.resume else {}
        if before.get("data_sha256", digest) != digest:
            raise ConfigError(
                f"Expected to resume the run in {self.path} on the data it was started with, found other texts or "
                "labels. Restore the data, or start a new run in another --output-dir."
            )
        on_main(lambda: _write_text(self.path / "splits.json", splits.rows_as_json()))
        sets = {name: label_sets(splits[name].labels, splits.task) for name in ("train", "validation", "test")}
        counts = {name: dict(Counter(label for labels in each for label in labels)) for name, each in sets.items()}
        findings = [dataclasses.asdict(finding) for finding in splits.findings]
        report = {
            "data_sha256": digest,
            "test_sha256": sha256_of({"test": contents["test"]}),
            "labels": counts,
            "findings": findings,
            "truncation": {},
        }
        self.write_json("data_report.json", report)

    def record_truncation(self, split: str, shares: Mapping[str, float]) -> None:
        """Add to `data_report.json` what `max_length` has cut off a split."""
        self._update("data_report.json", {"truncation": {split: dict(shares)}})

    def record_data(self, facts: Mapping[str, Any]) -> None:
        """Write `manifest.json`; on a resumed run, check that it is about to go on with what it was started with.

        Args:
            facts: Seed, hashes of data, encoder and splits, settings of the model, and settings that were derived.

        Raises:
            ConfigError: If something that learning depends on has changed since the run was started.
            UntrustedFileError: If there are checkpoints, and no manifest that says what they are of.
        """
        written = _read(self.path / "manifest.json") if self.resume else {}
        if self.resume and not written and saved_steps(self.checkpoints):
            raise UntrustedFileError(
                f"Expected {self.path / 'manifest.json'}, which says what the checkpoints in {self.path} are of, found "
                "none. Restore it from a copy, or start a new run in another --output-dir."
            )
        before, kept = translated(written), {key: value for key, value in facts.items() if key not in FREE}
        is_earlier = "identity" not in written  # of an earlier version, which did not know all of these facts
        compared = [key for key in translated(kept) if written and (key in before or not is_earlier)]
        changed = [key for key in compared if before.get(key) != facts[key]]
        if changed:
            differences = ", ".join(
                f"another {key}" if key.endswith("sha256") else f"{key} was {before.get(key)!r} and is {facts[key]!r}"
                for key in changed
            )
            raise ConfigError(
                f"Expected to resume the run in {self.path} on the same data, encoder and settings, found others: "
                f"{differences}. Restore them, or start a new run in another --output-dir."
            )
        if is_earlier:
            own = {key: value for key, value in (written or kept).items() if key not in (*FREE, *SURROUNDINGS)}
            self.identity = sha256_of({"facts": json.dumps(own, sort_keys=True).encode()})
        else:
            self.identity = written["identity"]
        self.write_json("manifest.json", {**facts, "identity": self.identity, **_surroundings()})
        if self.resume:  # with more epochs than before, now that nothing else has changed
            self.write_json("config.json", _settings_file(self.config))

    def write_json(self, name: str, values: Any) -> None:
        """Write a JSON file into the folder, whole or not at all.

        Raises:
            ResourceError: If the folder cannot be written.
        """
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
            seconds: What `fit` took.
            peak_memory: Bytes at once, at most; None: unknown.
            counts: Of parameters.
            is_continued: Whether the training has gone on from a checkpoint. The seconds up to it are added where the
                training that wrote it came to its end; of one that was interrupted they are unknown, and so is the sum.
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
        """Add to `costs.json` what the model took for the texts of test; None: it was read from the cache."""
        rate = num_texts / seconds if seconds else None
        self._update("costs.json", {"test_seconds": seconds, "test_texts_per_second": rate})

    def write_predictions(self, examples: Examples, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
        """Write `predictions.csv`: a row per example, with its target and what was predicted.

        Raises:
            ResourceError: If the folder cannot be written.
        """
        table = {"row": examples.rows, "label": examples.labels, **columns}
        on_main(lambda: write_table(self.path / "predictions.csv", [table]))

    def write_model(self, model: Classifier) -> None:
        """Write the folder `model/`.

        Raises:
            ResourceError: If the folder cannot be written.
        """
        on_main(lambda: self._remove_left_behind(".model-*"))
        on_main(lambda: model.save(self.path / "model"))

    def remove_checkpoints(self) -> None:
        """Remove all checkpoints."""
        if self.checkpoints.is_dir():
            on_main(lambda: prune_checkpoints(self.checkpoints, keep=()))

    def write_adapter(self, model: Classifier) -> None:
        """Write the low-rank updates of `model` as a peft adapter into the folder `adapter/`.

        Raises:
            ResourceError: If the folder cannot be written.
        """
        on_main(lambda: self._remove_left_behind(".adapter-*"))
        on_main(lambda: model.save_adapter(self.path / "adapter"))

    def _remove_left_behind(self, pattern: str) -> None:
        """Remove what a killed process has left of a save; no other one writes into this folder."""
        for path in self.path.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)

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
    """Lock the folder and make it ready, and return whether there is a run in it to go on with."""
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
            raise ConfigError(
                f"Expected a new or empty folder, or that of a run, found other files in {folder}. "
                "Pass another --output-dir."
            )
        if has_run and not overwrite:
            raise ConfigError(
                f"Expected a new or empty folder, found a run in {folder}. Pass --resume to go on with it, --overwrite "
                "to move it aside, or another --output-dir (resume= or overwrite= of Run.open in Python)."
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
    """Whether the folder holds nothing, or only what a run leaves that was refused before it began to train."""
    # Hidden files are what an interrupted start or a file browser leaves behind.
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
            f"Expected to write into {path}, found: {error.strerror}. Mend the permissions, free space, or pass "
            "another --output-dir."
        ) from error


def _write(path: Path, values: Any) -> None:
    _write_text(path, (json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False), "\n"))


def _write_text(path: Path, pieces: Iterable[str]) -> None:
    def write(temporary: Path) -> None:
        # What UTF-8 cannot hold, as in the name of a file that is not UTF-8, is written as JSON escapes it.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(pieces)

    with _writing(path.parent):
        write_whole(path, write)


def _read(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; empty, if there is no such file."""
    return read_object(path, way_out="Restore the file, or start a new run in another --output-dir.")


def _settings_file(config: Any) -> dict[str, Any]:
    return {"format": CONFIG_FORMAT, **to_json(config)}


def _settings_before(path: Path, config: Any) -> dict[str, Any]:
    """Return the settings that a run was started with, all on one level."""
    written = _read(path)
    if not written:
        return {}
    number = written.get("format", 1)
    check_format(number, CONFIG_FORMAT, path)
    settings = current_settings(written, path)
    if number < CONFIG_FORMAT:  # what was not there yet is as if it were left out
        settings = to_json(from_json(type(config), settings, source=str(path)))
    return flat(translated(settings))


def _check_same_config(folder: Path, config: Any) -> None:
    before, now = _settings_before(folder / "config.json", config), flat(translated(to_json(config)))
    if not before:
        raise ConfigError(
            f"Expected a run to resume in {folder}, found a folder without config.json. Pass another --output-dir."
        )
    changed = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k) and k != "output_dir"]
    had, wanted = before.get("num_epochs"), now["num_epochs"]
    # With layers unfrozen epoch by epoch, more epochs would train layers that the checkpoints do not hold.
    if "num_epochs" in changed and isinstance(had, int) and wanted > had and not now["unfreeze_every_epochs"]:
        changed.remove("num_epochs")
        if not changed:
            line = "going on to %d epochs; the run had %d, and from here on the learning rate takes the course of %d"
            logger.info(line, wanted, had, wanted)
    if changed:
        differences = ", ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in changed)
        raise ConfigError(
            f"Expected the settings of the run in {folder}, found others: {differences}. Resume with the settings it "
            "was started with (--config with its config.json), or start a new run in another --output-dir."
        )


def _surroundings() -> dict[str, Any]:
    state = processes()
    commit = ""
    if shutil.which("git") is not None:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        commit = found.stdout.strip()
    return {
        "command": sys.argv,
        "git_commit": commit or None,
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
