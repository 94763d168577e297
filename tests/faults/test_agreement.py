"""What happens to one of several processes is done by all of them: smaller micro-batches, an early end."""

from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("peer_worker.py")

pytestmark = pytest.mark.multiprocess


@pytest.fixture
def start(launch, tiny_bert, toy_csv, tmp_path):
    """Run the recipe in two processes, with faults, in the folder `name`."""

    def run(faults, name, *flags):
        data = ["--model", str(tiny_bert), "--dataset", str(toy_csv), "--output-dir", str(tmp_path / name)]
        settings = ["--freeze", "nothing", "--num-epochs", "2", "--batch-size", "24", "--eval-steps", "3"]
        return launch([str(WORKER), faults, str(tmp_path / "record"), *data, *settings, "--max-length", "16", *flags])

    return run


def test_memory_that_runs_out_on_one_and_a_signal_that_one_gets(start, tmp_path):
    codes, said = start("memory:1:0,end:1:4", "run", "--micro-batch-tokens", "64")
    assert codes == [143, 143], said
    assert all("out of memory: repeating the step with micro-batches of at most 32 tokens" in text for text in said)
    assert "interrupted after step " in said[0]
    codes, said = start("late:1:8", "run", "--micro-batch-tokens", "64", "--resume")
    assert codes == [143, 143], said
    assert "interrupted after step 8" in said[0]
    codes, said = start("none", "run", "--micro-batch-tokens", "64", "--resume")
    assert codes == [0, 0], said
    codes, said = start("none", "small", "--micro-batch-tokens", "32")
    assert codes == [0, 0], said
    for name in ("model/model.safetensors", "scores.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "small" / name).read_bytes()
