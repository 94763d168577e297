"""The files under recipes/launch: read by what they are for, and run as far as a CPU can run them."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes" / "launch"
CONFIGS, SCRIPTS = sorted(FOLDER.glob("*.yaml")), sorted(FOLDER.glob("*.sh"))

# What Slurm does with them, on this machine.
COMMANDS = {
    "scontrol": """
case "$1" in
    show) printf '127.0.0.1\\nother\\n' ;;
    requeue) echo "$2" > "$REQUEUED" ;;
esac
""",
    "srun": """
shift
for i in 0 1; do
    SLURM_PROCID=$i SLURM_LOCALID=$i "$@" &
    echo "$!" >> "$STARTED"
done
code=0
for pid in $(cat "$STARTED"); do
    wait "$pid" || code=$?
done
exit "$code"
""",
    "scancel": """
[ "$1 $2" = "--signal=TERM 7.0" ] && kill -TERM $(cat "$STARTED")
""",
}


def test_page_tells_of_every_file():
    files = sorted(path.name for path in FOLDER.iterdir() if path.name != "README.md")
    assert len(CONFIGS) >= 1
    assert len(SCRIPTS) >= 2
    assert files == sorted(path.name for path in (*CONFIGS, *SCRIPTS))
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"\]\((\S+?)\)", page))) == files


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_accelerate_reads_the_file(path):
    config = load_config_from_file(str(path))
    assert config.distributed_type == DistributedType.MULTI_GPU
    # What learning depends on is a flag of the recipe; processes are counted by who starts them.
    assert (config.mixed_precision, config.num_processes) == ("no", -1)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_is_valid(path):
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("missing", ["MASTER_ADDR", "NODE_RANK"])
def test_two_machines_need_to_know_each_other(missing):
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "NODE_RANK": "0"}
    del environment[missing]
    done = subprocess.run(
        ["bash", FOLDER / "two_machines.sh", "recipe.py"], env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert re.search(rf"{missing}: (number of this machine|address of the machine)", done.stderr)


@pytest.mark.nightly
@pytest.mark.multiprocess
def test_job_whose_time_is_up_goes_on_in_the_next(tiny_bert, toy_csv, tmp_path):
    for name, body in COMMANDS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        **{"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        **{"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"},
        **{"OMP_NUM_THREADS": "1", "REQUEUED": str(tmp_path / "requeued"), "PYTHONUNBUFFERED": "1"},
    }
    recipe = [ROOT / "recipes/sentiment.py", "--model", tiny_bert, "--dataset", toy_csv, "--freeze", "nothing"]
    recipe += ["--num-epochs", "30", "--batch-size", "8", "--output-dir", tmp_path / "run"]
    for attempt, code in (("first", 143), ("second", 0)):
        job = subprocess.Popen(
            ["bash", FOLDER / "slurm.sh", *recipe],
            env={**environment, "STARTED": str(tmp_path / attempt)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said = ""
            while attempt == "first" and not said.startswith("epoch 2:"):
                said = job.stdout.readline()
                assert said, "ended before the second epoch"
            if attempt == "first":
                job.send_signal(signal.SIGTERM)
            said = job.communicate()[0]
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
                job.communicate()
        assert job.returncode == code, said
        assert "Traceback" not in said
        assert ("resuming after step" in said) == (attempt == "second")
        assert (tmp_path / "requeued").read_text() == "7\n"
    assert (tmp_path / "run/scores.json").is_file()
