"""Two machines train together; one of them is killed, comes back, and the weights are those of an undisturbed run."""

import os
import select
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT, WORKER = ROOT / "recipes/launch/two_machines.sh", Path(__file__).with_name("peer_worker.py")
SETTINGS = "--num-epochs 3 --batch-size 24 --eval-steps 3 --logging-steps 1 --freeze nothing"

pytestmark = [pytest.mark.nightly, pytest.mark.multiprocess]


def popen(stack, words, environment):
    """Start a program that ends with `stack`."""
    process = stack.enter_context(
        subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    )
    stack.callback(process.kill)
    return process


class Loopback:
    """Two launchers on this machine."""

    addresses = ("127.0.0.1", "127.0.0.1")
    variables = {"GLOO_SOCKET_IFNAME": "lo"}

    def __init__(self, stack):
        self.stack, self.started = stack, [None, None]

    def start(self, machine, words, environment):
        """Start a program on a machine."""
        self.started[machine] = popen(self.stack, words, environment)
        self.stack.callback(self.kill, machine)
        return self.started[machine]

    def kill(self, machine):
        """Kill all that was started on a machine."""
        launcher = self.started[machine]
        if launcher.poll() is None:
            for process in [*psutil.Process(launcher.pid).children(recursive=True), launcher]:
                process.kill()


class Namespaces:
    """Two machines with network, processes and host name of their own, and a cable between them.

    The system ends all processes of a machine with its first one.
    """

    addresses = ("10.77.0.1", "10.77.0.2")
    variables = {"GLOO_SOCKET_IFNAME": "eth0"}

    def __init__(self, stack):
        self.stack = stack
        self.machines = [self._boot(0), None]
        self._connect()

    def _boot(self, machine):
        own = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        # The second one is made by the root of the first one, who may then put the cable in.
        how = [*own, "--user", "--map-root-user"] if machine == 0 else [*self._enter(0, "--user"), *own]
        first = f"echo machine-{machine} > /proc/sys/kernel/hostname && ip link set lo up && echo up && exec sleep 1000"
        holder = popen(self.stack, [*how, "sh", "-c", first], os.environ)
        said = holder.stdout.readline()
        if said != "up\n":
            raise OSError(" ".join((said + holder.communicate()[0]).split()))
        return holder

    def _connect(self):
        self.machines[1] = self._boot(1)
        self._run(0, f"ip link add eth0 type veth peer name eth0 netns {self._first(1)}")
        for machine, address in enumerate(self.addresses):
            self._run(machine, f"ip address add {address}/24 dev eth0")
            self._run(machine, "ip link set eth0 up")

    def _first(self, machine):
        return psutil.Process(self.machines[machine].pid).children(recursive=True)[-1].pid

    def _enter(self, machine, *what):
        return ["nsenter", "--target", str(self._first(machine)), *what, "--"]

    def _run(self, machine, line):
        words = [*self._enter(machine, "--user", "--net"), *line.split()]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"{line}: {done.stderr.strip()}")

    def start(self, machine, words, environment):
        """Start a program on a machine."""
        if self.machines[machine].poll() is not None:
            self._connect()
        return popen(self.stack, [*self._enter(machine, "--all"), *words], environment)

    def kill(self, machine):
        """Take the power off a machine."""
        psutil.Process(self._first(machine)).kill()
        self.machines[machine].wait()


@pytest.fixture
def machines():
    """Return two machines: network namespaces, or, where they may not be made, two addresses of this one."""
    with ExitStack() as stack:
        try:
            found = Namespaces(stack)
        except (OSError, psutil.Error):
            found = Loopback(stack)
        yield found


@pytest.fixture
def launch_on(machines, tiny_bert, toy_csv, free_port, feature_cache):
    """Start the recipe on both machines, one process on each."""

    def start(output, faults="none", *flags, **variables):
        words = [str(WORKER), faults, str(output.with_name("record")), "--output-dir", str(output)]
        words += ["--model", str(tiny_bert), "--dataset", str(toy_csv), *SETTINGS.split(), *flags]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
        environment |= {"MASTER_ADDR": machines.addresses[0], "MASTER_PORT": str(free_port), "NPROC_PER_NODE": "1"}
        environment |= {**machines.variables, **variables}
        return [
            machines.start(machine, ["bash", str(SCRIPT), *words], {**environment, "NODE_RANK": str(machine)})
            for machine in (0, 1)
        ]

    return start


def finish(launched):
    """Return the exit codes, and what was said."""
    said = [launcher.communicate()[0] for launcher in launched]
    return [launcher.returncode for launcher in launched], said


def test_machine_that_is_killed_comes_back(machines, launch_on, outcome, tmp_path):
    codes, said = finish(launch_on(tmp_path / "whole"))
    assert codes == [0, 0], said

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    launched = launch_on(tmp_path / "run", "wait:1:5", FIFO=str(fifo), NLPTL_PEER_TIMEOUT="15")
    try:
        assert select.select([reader], [], [], 600)[0], "rank 1 does not come to step 5"
    finally:
        os.close(reader)
    machines.kill(1)
    codes, said = finish(launched)
    assert codes[0] == 1
    assert "exitcode  : 7 " in said[0]
    assert "nlptl: error: Lost another process of this training" in said[0]

    codes, said = finish(launch_on(tmp_path / "run", "none", "--resume"))
    assert codes == [0, 0], said
    assert "resuming after step 3" in said[0]
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
