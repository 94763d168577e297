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
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from nlptl.config import save_config, to_json
from nlptl.data.splits import Splits
from nlptl.errors import ConfigError, ResourceError
from nlptl.evaluation.metrics import Scores

logger = logging.getLogger(__name__)

PACKAGES = ("nlptl", "torch", "transformers", "tokenizers", "accelerate", "datasets", "safetensors", "numpy")
COMMANDS = ("resume", "overwrite")
"""Settings that say what to do with the folder; they are not part of what a run is."""


class Run:
    """An `output_dir`, claimed for one run: a folder that holds another run is refused.

    Only the main process writes into it.
    """

    def __init__(self, path: Path, *, resume: bool, is_main_process: bool) -> None:
        self.path = path
        self.resume = resume
        self.is_main_process = is_main_process
        self.checkpoints = path / "checkpoints"

    @classmethod
    def open(cls, path: str | Path, config: Any, *, resume: bool = False, overwrite: bool = False) -> "Run":
        """Claim the folder `path` for a run with the settings `config`, a dataclass, and write `config.json`.

        Args:
            path: The folder; it is created if it is not there.
            config: Settings of the run. `resume` and `overwrite` among them are not recorded.
            resume: Go on with the run in the folder; an empty folder starts a new one.
            overwrite: Move what is in the folder aside, to `path.1`, `path.2`, ...

        Raises:
            ConfigError: If the folder holds a run and neither is set, or a run with other settings is to be resumed.
            ResourceError: If the folder cannot be written.
        """
        folder = Path(path)
        state = PartialState()
        names = {field.name for field in dataclasses.fields(config)} & set(COMMANDS)
        recorded = dataclasses.replace(config, **dict.fromkeys(names, False))
        if resume and overwrite:
            raise ConfigError("Expected --resume or --overwrite, found both. Pass one of the two.")
        if state.is_main_process:
            resume = _claim(folder, recorded, resume=resume, overwrite=overwrite)
        state.wait_for_everyone()
        return cls(folder, resume=resume, is_main_process=state.is_main_process)

    def record_splits(self, splits: Splits) -> None:
        """Write which rows each split is made of to `splits.json`, counts and findings to `data_report.json`."""
        self.write_json("splits.json", splits.row_ids())
        counts = {name: dict(Counter(splits[name].labels)) for name in ("train", "validation", "test")}
        findings = [dataclasses.asdict(finding) for finding in splits.findings]
        self.write_json("data_report.json", {"labels": counts, "findings": findings, "truncation": {}})

    def record_truncation(self, split: str, shares: Mapping[str, float]) -> None:
        """Add to `data_report.json` what `max_length` has cut off a split."""
        path = self.path / "data_report.json"
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        values.setdefault("truncation", {})[split] = dict(shares)
        self.write_json("data_report.json", values)

    def record_data(self, facts: Mapping[str, Any]) -> None:
        """Write `manifest.json`; on a resumed run, check that data and encoder are those it was started with.

        Args:
            facts: Seed, hashes of data, encoder and splits, settings that were derived.

        Raises:
            ConfigError: If data or encoder have changed since the run was started.
        """
        old = self.path / "manifest.json"
        if self.resume and old.is_file():
            before = json.loads(old.read_text(encoding="utf-8"))
            changed = [key for key in facts if key.endswith("sha256") and before.get(key) != facts[key]]
            if changed:
                raise ConfigError(
                    f"Expected to resume the run in {self.path} on the same data and encoder, found another "
                    f"{', '.join(changed)}. Restore them, or start a new run in another --output-dir."
                )
        self.write_json("manifest.json", {**facts, **_surroundings()})

    def write_json(self, name: str, values: Any) -> None:
        """Write a JSON file into the folder, whole or not at all."""
        if self.is_main_process:
            temporary = self.path / f".{name}.tmp"
            temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            temporary.replace(self.path / name)

    def write_scores(self, split: str, scores: Scores, baseline: Scores | None) -> None:
        """Add the scores of a split, and those of the majority baseline on it, to `scores.json`."""
        path = self.path / "scores.json"
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        values[split] = scores.to_json()
        if baseline is not None:
            values.setdefault("majority_baseline", {})[split] = baseline.to_json()
        self.write_json("scores.json", values)


def sha256_of(parts: Mapping[str, bytes]) -> str:
    """Return one hash over named bytes."""
    digest = hashlib.sha256()
    for name, content in parts.items():
        digest.update(f"{name}\x1f{len(content)}\x1f".encode())
        digest.update(content)
    return digest.hexdigest()


def _claim(folder: Path, config: Any, *, resume: bool, overwrite: bool) -> bool:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"Expected a folder at {folder}, found a file. Pass another --output-dir.")
    has_run = folder.is_dir() and any(folder.iterdir())
    if has_run and resume:
        _check_same_config(folder, config)
        return True
    if has_run and not overwrite:
        raise ConfigError(
            f"Expected a new or empty folder, found a run in {folder}. Pass --resume to go on with it, --overwrite to "
            "move it aside, or another --output-dir."
        )
    try:
        if has_run:
            number = next(n for n in range(1, 1_000_000) if not Path(f"{folder}.{n}").exists())
            shutil.move(folder, f"{folder}.{number}")
            logger.info("moved the run in %s to %s.%d", folder, folder, number)
        folder.mkdir(parents=True, exist_ok=True)
        save_config(config, folder / "config.json")
    except OSError as error:
        raise ResourceError(
            f"Expected to write into {folder}, found: {error.strerror}. Mend the permissions, free space, or pass "
            "another --output-dir."
        ) from error
    if resume:
        logger.info("nothing to resume in %s: starting a new run", folder)
    return False


def _check_same_config(folder: Path, config: Any) -> None:
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(
            f"Expected a run to resume in {folder}, found a folder without config.json. Pass another --output-dir."
        )
    before, now = json.loads(path.read_text(encoding="utf-8")), to_json(config)
    before, now = _flat(before), _flat(now)
    changed = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k) and k != "output_dir"]
    if changed:
        differences = ", ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in changed)
        raise ConfigError(
            f"Expected the settings of the run in {folder}, found others: {differences}. Resume with the settings it "
            "was started with (--config with its config.json), or start a new run in another --output-dir."
        )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value) if isinstance(value, dict) else {key: value}
    return flat


def _surroundings() -> dict[str, Any]:
    state = PartialState()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "command": sys.argv,
        "git_commit": commit.stdout.strip() or None,
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
