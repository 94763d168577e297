"""Two processes that share the weights by FSDP2 learn what one learns that has them all."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import FAMILIES, build_model
from tests.invariants import sharding_worker

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]


def launch(jobs, models, output, *, timeout=600):
    """Run the worker in two processes, started as on GPUs; return its exit code and what it said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"--use_fsdp --fsdp_version 2 --num_processes 2 --num_machines 1 --main_process_port {port}"
    launcher = subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.launch", *options.split(), "--mixed_precision", "no"]
        + ["--dynamo_backend", "no", sharding_worker.__file__, jobs, str(models), str(output)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = launcher.communicate(timeout=timeout)[0]
    finally:
        if launcher.poll() is None:
            for process in [*psutil.Process(launcher.pid).children(recursive=True), launcher]:
                process.kill()
            launcher.wait()
    return launcher.returncode, said


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return the folder with what one process and two processes have found."""
    models, output = (tmp_path_factory.mktemp(name) for name in ("models", "found"))
    for family in {family for family, *_ in sharding_worker.REGIMES.values()}:
        build_model(family, models / family, **FAMILIES[family])
    sharding_worker.main(["regimes", "undisturbed", "interrupted"], models, output)
    code, said = launch("regimes,resumed,interrupted,errors", models, output)
    assert code == 0, said
    sharding_worker.main(["resumed"], models, output)
    return output


@pytest.mark.parametrize("kind", ["gradients", "weights"])
@pytest.mark.parametrize("regime", sharding_worker.REGIMES)
def test_two_processes_learn_what_one_learns(regime, kind, found):
    one = load_file(found / f"{kind}-{regime}-0-of-1.safetensors")
    largest = max(tensor.abs().max() for tensor in one.values())
    assert largest > 1e-4
    precision = 1e-5 if regime == "hidden states" else 1e-10
    for rank in (0, 1):
        two = load_file(found / f"{kind}-{regime}-{rank}-of-2.safetensors")
        assert one.keys() == two.keys()
        for name, tensor in one.items():
            assert (two[name] - tensor).abs().max() <= precision * largest, name


@pytest.mark.parametrize("regime", sharding_worker.REGIMES)
def test_scores_are_those_of_one_process(regime, found):
    one, *two = (
        json.loads((found / f"scores-{regime}-{suffix}.json").read_text()) for suffix in ("0-of-1", "0-of-2", "1-of-2")
    )
    assert one["accuracy"]["n"] == 5
    assert two[0] == two[1]
    for metric, score in one.items():
        if metric != "per_class":
            assert two[0][metric] == pytest.approx(score, rel=1e-5 if regime == "hidden states" else 1e-9)


def test_losses_and_files_are_those_of_one_process(found):
    one, two = (found / f"run-full-{n}" for n in (1, 2))
    names = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in (one, two)]
    assert names[0] == names[1]
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)]
    for ours, theirs in zip(*lines, strict=True):
        assert ours.keys() == theirs.keys()
        for key in {"step", "loss", "gradient_norm", "validation_log_loss"} & ours.keys():
            assert theirs[key] == pytest.approx(ours[key], rel=1e-9)
    checkpoints = [max((run / "checkpoints").glob("step-*")) for run in (one, two)]
    for file in ("weights.safetensors", "optimizer.safetensors"):
        ours, theirs = (load_file(checkpoint / file) for checkpoint in checkpoints)
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert theirs[name].dtype == tensor.dtype
            torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=1e-9)


@pytest.mark.parametrize("regime", ["full", "regularizers"])
def test_estimate_knows_of_the_shares(regime, found):
    one, two = (json.loads((found / f"memory-{regime}-0-of-{n}.json").read_text()) for n in (1, 2))
    for part in ("optimizer", "copies"):
        assert two[part] == one[part] // 2
    assert one["optimizer"] > 0
    assert (one["copies"] > 0) == (regime == "regularizers")


@pytest.mark.parametrize("suffix", ["0-of-1", "0-of-2", "1-of-2"])
def test_training_goes_on_with_and_without_sharding(suffix, found):
    undisturbed, resumed = (load_file(found / f"{name}.safetensors") for name in ("undisturbed", f"resumed-{suffix}"))
    for name, weight in undisturbed.items():
        torch.testing.assert_close(resumed[name], weight, rtol=0, atol=1e-9)


def test_what_is_refused_and_what_fails(found):
    main, other = (json.loads((found / f"errors-{rank}-of-2.json").read_text()) for rank in (0, 1))
    assert main == other
    assert main["stages"][0] == "ConfigError"
    assert "Expected one stage under FSDP2" in main["stages"][1]
    assert "found 2. Leave --warm-head-epochs and --unfreeze-every-epochs out" in main["stages"][1]
    assert main["nan"][0] == "NonFiniteError"
