"""ssh between two nodes, with keys of their own: for launchers that start the ranks of other nodes over ssh."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.cluster.nodes import Node

CLIENT = """
Host *
    User root
    IdentityFile {keys}/user
    UserKnownHostsFile /dev/null
    StrictHostKeyChecking no
    LogLevel ERROR
"""
SERVER = """
HostKey {keys}/host
AuthorizedKeysFile {keys}/user.pub
PasswordAuthentication no
PermitRootLogin yes
# the keys lie in a folder for temporary files
StrictModes no
PidFile none
"""


def ssh_settings(folder: Path) -> Callable[[Path], None]:
    """Make keys in `folder`; returns what fills a node's folder over /etc with settings that use them."""
    for name in ("user", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)

    def fill(etc: Path) -> None:
        (etc / "ssh").mkdir()
        (etc / "ssh" / "ssh_config").write_text(CLIENT.format(keys=folder))
        (etc / "ssh" / "sshd_config").write_text(SERVER.format(keys=folder))

    return fill


def serve_ssh(node: Node, log: Path) -> None:
    """Start a node's sshd, which ends with the node."""
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it
    node.start("/usr/sbin/sshd", "-D", "-e", log=log)
