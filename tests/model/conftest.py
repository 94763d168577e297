"""Copies of tiny models, to be damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch


@pytest.fixture
def altered(tiny_bert: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a copy of a model folder, by default the tiny BERT, with other settings in one of its JSON files."""

    def copy(source: Path = tiny_bert, *, file: str = "config.json", **settings: object) -> Path:
        folder = tmp_path / f"altered-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(source, folder)
        values = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(values | settings))
        return folder

    return copy


@pytest.fixture
def change_weights() -> Callable[..., None]:
    """Return a function that rewrites model.safetensors: `change(name, tensor)` gives the new tensor, None drops it."""

    def rewrite(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor | None]) -> None:
        path = folder / "model.safetensors"
        changed = {name: change(name, tensor) for name, tensor in safetensors.torch.load(path.read_bytes()).items()}
        kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
        safetensors.torch.save_file(kept, path, metadata={"format": "pt"})

    return rewrite
