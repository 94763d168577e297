"""Runs the network of a classifier in ONNX Runtime, in float32 or with weights of 8 bits; the rest stays as it is."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from torch import nn

from nlptl.errors import ConfigError, ResourceError

Engine = Literal["torch", "onnx", "onnx-int8"]

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What an export takes; to predict takes the last one."""

MAX_BYTES = 1536 * 2**20
"""Of larger networks torch keeps the weights out of the file."""

FILES = {"onnx": "onnx/model.onnx", "onnx-int8": "onnx/model_int8.onnx"}
"""Where an engine finds its network in a model folder."""


class OnnxNetwork:
    """A network in ONNX Runtime, on the CPU."""

    def __init__(self, path: Path) -> None:
        """Load it.

        Raises:
            ConfigError: If there is no such file, or no ONNX Runtime.
        """
        if not path.is_file():
            raise ConfigError(f"Expected {path}, which nlptl export writes, found none. Run: nlptl export --help")
        check_installed("onnxruntime")
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def __call__(self, **batch: torch.Tensor) -> torch.Tensor:
        """Return the logits of token ids, as the network in torch does."""
        (logits,) = self.session.run(None, {name: tensor.cpu().numpy() for name, tensor in batch.items()})
        return torch.from_numpy(logits)


def check_installed(*names: str) -> None:
    """Refuse what needs packages that are not installed.

    Raises:
        ConfigError: If one of them is missing.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"Expected the packages of the extra onnx, found no {', '.join(missing)} in this environment. Run: pip "
            "install 'nlptl[onnx]'"
        )


def write_onnx(network: nn.Module, path: Path, *, batch: dict[str, torch.Tensor], int8: bool) -> None:
    """Write a network as an ONNX file that takes any number of texts of any length.

    `network` is in eval mode, on the CPU; `batch` has token ids and what belongs to them, each [texts, tokens], two or
    more of either. With `int8`, the weights of linear layers are rounded to 8 bits, and their inputs as they come.

    Raises:
        ConfigError: If a package is missing, or the network too large for one file.
        ResourceError: If the file cannot be written.
    """
    check_installed(*PACKAGES)
    num_bytes = sum(tensor.nbytes for tensor in network.state_dict().values())
    if num_bytes > MAX_BYTES:
        raise ConfigError(
            f"Expected a network of at most {MAX_BYTES / 1e6:,.0f} MB for an ONNX file, found "
            f"{num_bytes / 1e6:,.0f} MB. Predict with torch, or train a smaller encoder."
        )
    try:
        path.parent.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as folder, _quiet():
            whole, small = Path(folder) / "whole.onnx", Path(folder) / "small.onnx"
            _export(network, whole, batch)
            if int8:
                from onnxruntime.quantization import QuantType, quantize_dynamic

                # Seven bits of eight: sums of two products of more overflow on CPUs without VNNI.
                quantize_dynamic(whole, small, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
            (small if int8 else whole).replace(path)
    except OSError as error:
        raise ResourceError(
            f"Expected to write {path}, found: {error.strerror or error}. Pass a folder that can be written."
        ) from error


def _export(network: nn.Module, path: Path, batch: dict[str, torch.Tensor]) -> None:
    texts, tokens = torch.export.Dim("texts"), torch.export.Dim("tokens")
    torch.onnx.export(
        network,
        (),
        path,
        kwargs=batch,
        dynamic_shapes={name: {0: texts, 1: tokens} for name in batch},
        output_names=["logits"],
        dynamo=True,
        external_data=False,
        verbose=False,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it, exporters say nothing of what they lack, nor of what they will do in their next version."""
    root = logging.getLogger()
    loggers = [root, logging.getLogger("torch.onnx"), logging.getLogger("onnxscript")]
    levels, handlers = [logger.level for logger in loggers], list(root.handlers)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        root.handlers[:] = handlers  # a line that they log to the root gives it one, and it would say all twice
