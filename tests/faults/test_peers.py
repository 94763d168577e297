"""When one of several processes is lost, the others end too; what is left goes on from there."""

import json
from pathlib import Path

import pytest

from nlptl import ConfigError
from nlptl.training.peers import explained, peer_errors, peer_timeout

WORKER = Path(__file__).with_name("peer_worker.py")
NUM_STEPS, STEPS_PER_EPOCH, TRAIN = 12, 4, 96
LOST = "nlptl: error: Lost another process of this training: "


@pytest.fixture
def start(launch, tiny_bert, toy_csv, tmp_path):
    """Run the recipe with faults in several processes, in the same folder each time."""

    def run(faults, *flags, record="record", **options):
        data = ["--model", str(tiny_bert), "--dataset", str(toy_csv), "--output-dir", str(tmp_path / "run")]
        settings = ["--num-epochs", "3", "--batch-size", "24", "--eval-steps", "3"]
        return launch([str(WORKER), faults, str(tmp_path / record), *data, *settings, *flags], **options)

    return run


def steps_of(folder, record):
    """Return the texts of each step that the processes have recorded, all processes together."""
    steps = {}
    for path in folder.glob(f"{record}-*.jsonl"):
        for line in path.read_text().splitlines():
            step = json.loads(line)
            steps.setdefault(step["step"], []).extend(map(tuple, step["texts"]))
    return steps


@pytest.mark.multiprocess
def test_killed_process_ends_the_other_and_one_goes_on(start, tmp_path):
    codes, said = start("kill:1:5", record="before")
    assert codes == [7, -9], said[0]
    assert said[0].count("nlptl: error:") == said[0].count(LOST) == 1
    assert "Traceback" not in said[0]
    assert "start all processes again with --resume" in said[0]

    codes, said = start("none", "--resume", record="after", processes=1)
    assert codes == [0], said[0]
    assert "resuming after step 3" in said[0]
    before, after = steps_of(tmp_path, "before"), steps_of(tmp_path, "after")
    assert (sorted(before), sorted(after)) == (list(range(5)), list(range(3, NUM_STEPS)))
    steps = [before[step] if step < 3 else after[step] for step in range(NUM_STEPS)]
    epochs = [sum(steps[i : i + STEPS_PER_EPOCH], []) for i in range(0, NUM_STEPS, STEPS_PER_EPOCH)]
    assert [len(epoch) for epoch in epochs] == [TRAIN] * 3
    assert [len(set(epoch)) for epoch in epochs] == [TRAIN] * 3
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    # Steps that were taken twice are the same for any number of processes.
    assert all(sorted(before[step]) == sorted(after[step]) for step in (3, 4))


@pytest.mark.multiprocess
@pytest.mark.parametrize("lost", [pytest.param(0, marks=pytest.mark.nightly), 1])
def test_stopped_process_is_waited_for_no_longer_than_allowed(lost, start):
    """Rank 0 hosts the store, which does not answer either when it is stopped."""
    codes, said = start(f"stop:{lost}:5", leave=[lost], NLPTL_PEER_TIMEOUT="5")
    assert codes == ([-9, 7] if lost == 0 else [7, -9]), said
    assert f"{LOST}its connection is closed, or it gave no answer for 5 s" in said[1 - lost]
    assert "raise NLPTL_PEER_TIMEOUT" in said[1 - lost]


@pytest.mark.multiprocess
def test_error_of_one_process_is_reported_by_the_other(start):
    codes, said = start("refuse:1:5")
    assert codes == [7, 3], said
    assert "nlptl: error: Expected a file on this machine, found none." in said[1]
    assert LOST in said[0]
    assert "rank 1 said: DataError: Expected a file on this machine, found none. Copy it." in said[0]


@pytest.mark.multiprocess
def test_process_that_never_comes_is_not_waited_for(start):
    codes, said = start("none", processes=1, WORLD_SIZE="2", NLPTL_PEER_TIMEOUT="2")
    assert codes == [7], said[0]
    assert "Expected 2 processes to meet at 127.0.0.1:" in said[0]
    assert "within 2 s, found fewer" in said[0]


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", ""])
def test_timeout_that_is_no_number_of_seconds_is_refused(value, monkeypatch):
    monkeypatch.setenv("NLPTL_PEER_TIMEOUT", value)
    with pytest.raises(ConfigError, match=f"above 0 in NLPTL_PEER_TIMEOUT, found '{value}'"):
        peer_timeout()


def test_timeout_is_ten_minutes_where_nothing_is_set(monkeypatch):
    monkeypatch.delenv("NLPTL_PEER_TIMEOUT", raising=False)
    assert peer_timeout().total_seconds() == 600


def test_one_process_alone_has_errors_of_its_own():
    error = RuntimeError("gloo")
    assert explained(error) is error
    with pytest.raises(RuntimeError) as caught, peer_errors():
        raise error
    assert caught.value is error
