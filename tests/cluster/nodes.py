"""Two nodes on one machine: namespaces joined by a cable, with a host name, an address and processes of their own.

What runs on a node sees its own network, processes, host name, /etc/hosts and /etc/ssh, but the files of this machine,
as nodes of a cluster see a shared file system. Needs root.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

NAMES = ("chorus1", "chorus2")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "sshd", "ssh", "pdsh", "ip", "unshare", "nsenter")
OVERLAYS = Path("/etc/netns")
"""`ip netns exec NAME` puts what lies in the folder NAME here over /etc."""
INIT = 'hostname "$0"; ip link set lo up; while true; do sleep 3600 & wait; done'
"""The first process of a node: all others end with it, and it buries what they leave behind."""


class Node:
    """A node that is switched on by `boot` and off by `power_off`."""

    def __init__(self, name: str, address: str, environment: Mapping[str, str]):
        """`environment` is what every command finds besides the variables of this process."""
        self.name, self.address = name, address
        self._environment = {**os.environ, **environment}
        self._init: psutil.Process | None = None

    def boot(self) -> None:
        enter = ["ip", "netns", "exec", self.name, "unshare", "--uts", "--pid", "--fork", "--mount-proc"]
        outer = psutil.Popen([*enter, "bash", "-c", INIT, self.name], stderr=subprocess.DEVNULL)
        until(lambda: [child for child in outer.children() if child.name() == "bash"], f"{self.name} boots")
        (self._init,) = outer.children()
        until(lambda: self.run("hostname") == self.name, f"{self.name} has its name")

    def power_off(self) -> None:
        """Kill everything that runs on this node at once."""
        if self._init is not None:
            self._init.kill()
            self._init = None
        until(lambda: not self.processes(), f"{self.name} goes down", seconds=30)

    def start(self, *words: str | Path, log: Path, folder: Path = Path("/")) -> subprocess.Popen[bytes]:
        """Start a command on this node, in `folder`, with its output at the end of `log`."""
        with log.open("ab") as output:
            return subprocess.Popen(
                self._command(words, folder),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def run(self, *words: str | Path) -> str:
        """What a command on this node prints. Raises AssertionError when it fails."""
        command = self._command(words, Path("/"))
        done = subprocess.run(command, capture_output=True, text=True, env=self._environment)
        assert done.returncode == 0, f"{self.name}: {words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def _command(self, words: Sequence[str | Path], folder: Path) -> list[str]:
        assert self._init is not None, f"{self.name} is off"
        enter = ["nsenter", "--target", str(self._init.pid), "--net", "--uts", "--pid", "--mount"]
        return [*enter, "sh", "-c", 'cd "$0" && exec "$@"', str(folder), *map(str, words)]

    def processes(self) -> dict[int, str]:
        """Process id, as this machine sees it, -> command line of everything that runs on this node."""
        ids = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout.split()
        found = {}
        for number in map(int, ids):
            with suppress(OSError):  # it has ended since
                found[number] = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return found


def send_signal(started: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal what `Node.start` has started: the process itself is nsenter, which passes nothing on."""
    (process,) = psutil.Process(started.pid).children()
    process.send_signal(number)


def what_is_missing() -> str | None:
    """Why the tests of this folder cannot run here; None when they can."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        return f"{', '.join(missing)} not installed: run tests/cluster/install.sh"
    return None if os.geteuid() == 0 else "namespaces need root"


@contextmanager
def two_nodes(overlay: Callable[[Path], None], **environment: str) -> Iterator[tuple[Node, Node]]:
    """Two nodes that reach each other and nothing else; `overlay` fills the folder that each of them sees over /etc."""
    first, second = nodes = tuple(Node(name, f"10.99.7.{i}", environment) for i, name in enumerate(NAMES, start=1))
    _remove(nodes)
    try:
        for node in nodes:
            subprocess.run(["ip", "netns", "add", node.name], check=True)
            overlay(_overlay(node, nodes))
        cable = ["ip", "link", "add", "eth0", "netns", first.name, "type", "veth", "peer", "eth0", "netns", second.name]
        subprocess.run(cable, check=True)
        for node in nodes:
            ip = ["ip", "-netns", node.name]
            subprocess.run([*ip, "address", "add", f"{node.address}/24", "dev", "eth0"], check=True)
            subprocess.run([*ip, "link", "set", "eth0", "up"], check=True)
            node.boot()
        yield first, second
    finally:
        _remove(nodes)


def _overlay(node: Node, nodes: Sequence[Node]) -> Path:
    folder = OVERLAYS / node.name
    folder.mkdir(parents=True)
    hosts = "".join(f"{one.address} {one.name}\n" for one in nodes)
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
    return folder


def _remove(nodes: Sequence[Node]) -> None:
    """Remove the nodes, also those that a killed test has left behind."""
    for node in nodes:
        for number in node.processes():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        node.power_off()
        subprocess.run(["ip", "netns", "delete", node.name], capture_output=True)
        shutil.rmtree(OVERLAYS / node.name, ignore_errors=True)
    with suppress(OSError):
        OVERLAYS.rmdir()  # unless someone else uses it


def until(holds: Callable[[], object], what: str, seconds: float = 120.0) -> None:
    """Wait for a condition. Raises AssertionError when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.2)
