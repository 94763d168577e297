"""When one of several processes is lost, the others say which and end too; what is left goes on from there."""

import json
import re
import threading
import time
from pathlib import Path

import pytest

from nlptl import ConfigError, PeerLostError
from nlptl.training import peers
from nlptl.training.peers import explained, peer_timeout, together

WORKER = Path(__file__).with_name("peer_worker.py")
NUM_STEPS, STEPS_PER_EPOCH, TRAIN = 12, 4, 96


@pytest.fixture
def start(launch, tiny_bert, toy_csv, tmp_path):
    """Run the recipe with faults in several processes, in the same folder each time."""

    def run(faults, *flags, record="record", launcher=(), **options):
        data = ["--model", str(tiny_bert), "--dataset", str(toy_csv), "--output-dir", str(tmp_path / "run")]
        settings = ["--num-epochs", "3", "--batch-size", "24", "--eval-steps", "3"]
        return launch([*launcher, str(WORKER), faults, str(tmp_path / record), *data, *settings, *flags], **options)

    return run


def found_lost(said, rank, fate):
    """Return whether a message names a process and what became of it, once."""
    lost = re.findall(rf"found rank (\d) \(host \S+, pid \d+\) {fate}", said)
    return lost == [str(rank)] and said.count("nlptl: error:") == 1 and "Traceback" not in said


def steps_of(folder, record):
    """Return the texts of each step that the processes have recorded, all processes together."""
    steps = {}
    for path in folder.glob(f"{record}-*.jsonl"):
        for line in path.read_text().splitlines():
            step = json.loads(line)
            steps.setdefault(step["step"], []).extend(map(tuple, step["texts"]))
    return steps


@pytest.mark.slow
@pytest.mark.multiprocess
def test_killed_process_ends_the_other_and_one_goes_on(start, tmp_path):
    codes, said = start("kill:1:5", record="before")
    assert codes == [7, -9], said[0]
    assert found_lost(said[0], 1, "gone")
    assert "start all of them again with --resume" in said[0]

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
    # What was trained twice is the same, over any number of processes.
    assert all(sorted(before[step]) == sorted(after[step]) for step in (3, 4))


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("fault", "lost", "codes", "words"),
    [
        ("kill:0:5", 0, [-9, 7], ""),
        ("refuse:1:5", 1, [7, 3], "; rank 1 said: DataError: Expected a file on this machine, found none"),
        # As with a backend that does not notice: nothing in the training itself would ever end the other process.
        ("kill:1:5,hang:0:5", 1, [7, -9], ""),
    ],
)
def test_others_name_the_process_that_is_lost(fault, lost, codes, words, start):
    found, said = start(fault)
    assert found == codes, said
    assert found_lost(said[1 - lost], lost, f"gone{words}")


@pytest.mark.slow
@pytest.mark.multiprocess
def test_stopped_process_is_waited_for_no_longer_than_allowed(start):
    codes, said = start("stop:1:5", leave=[1], NLPTL_PEER_TIMEOUT="5")
    assert codes == [7, -9], said[0]
    assert found_lost(said[0], 1, "stopped")
    assert "or raise NLPTL_PEER_TIMEOUT from 5 seconds" in said[0]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_others_name_the_process_though_torchrun_ends_them(start):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3"]
    codes, said = start("kill:1:5", launcher=torchrun, processes=1)
    assert codes == [1]
    assert len(re.findall(r"nlptl: error: .* found rank 1 \(host \S+, pid \d+\) gone", said[0])) == 2
    assert len(re.findall(r"exitcode  : 7 ", said[0])) == 2


@pytest.mark.slow
@pytest.mark.multiprocess
def test_process_that_never_comes_is_not_waited_for(start):
    codes, said = start("none", processes=1, WORLD_SIZE="2", NLPTL_PEER_TIMEOUT="2")
    assert codes == [7], said[0]
    assert re.search(r"Expected 2 processes to meet at 127.0.0.1:\d+ within 2 s, found fewer", said[0])


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
    with pytest.raises(RuntimeError) as caught, together():
        raise error
    assert caught.value is error


def test_no_thread_is_left_behind_that_asks_the_store(monkeypatch):
    # One that is answered when Python has ended would abort the process, with a code of its own.
    is_asked = threading.Event()

    class SlowStore:
        def check(self, keys):
            is_asked.set()
            time.sleep(0.5)
            return False

    monkeypatch.setattr(peers, "_peers", [peers.Peer(0, "here", 1, peers._machine())])
    monkeypatch.setattr(peers, "_store", SlowStore)
    before = threading.active_count()
    with together():
        assert is_asked.wait()
    assert threading.active_count() == before


def test_connection_that_is_lost_between_processes_that_are_there(monkeypatch):
    here = peers.Peer(0, "here", 1, peers._machine())
    monkeypatch.setattr(peers, "_peers", [here])
    with pytest.raises(PeerLostError, match="processes that reach each other, found a connection lost"):
        raise peers._lost([], "not answering")
