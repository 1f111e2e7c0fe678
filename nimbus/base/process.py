# SPDX-License-Identifier: Apache-2.0
"""How a process of Nimbus and the one that started it agree on life and death.

Readiness is the datagram `READY=1` on the socket that `NOTIFY_SOCKET` names: the protocol of
systemd's `Type=notify`, so a role that stands alone is supervised by systemd the same way.
"""

import ctypes
import os
import signal
import socket
import sys

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Let the kernel kill this process when `parent`, which started it, ends in any way.

    Nothing is lost by that: what a gateway answered is in its journal, what the others do is in
    database transactions. Raises SystemExit when the parent is gone already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        raise SystemExit(f"the supervisor {parent} is gone")


def announce_ready() -> None:
    """Tell whoever started this process that it now does its work; nobody listens: no effect."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address is None:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notice:
        notice.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        notice.send(b"READY=1")


def main() -> None:
    """`python -m nimbus.base.process PARENT COMMAND…`: become a command that dies with PARENT."""
    die_with(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command is the supervisor's


if __name__ == "__main__":
    main()
