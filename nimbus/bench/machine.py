# SPDX-License-Identifier: Apache-2.0
"""What the machine is, and who used how much of its processors and memory; all from /proc."""

import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Of /proc/stat: user, nice, system and steal. Interrupts belong to the traffic that is measured.
BUSY_FIELDS = (1, 2, 3, 8)


@dataclass(frozen=True, slots=True)
class Cpu:
    """Processor time in seconds."""

    user: float
    system: float

    @property
    def total(self) -> float:
        return self.user + self.system

    def __sub__(self, earlier: "Cpu") -> "Cpu":
        return Cpu(self.user - earlier.user, self.system - earlier.system)


@dataclass(frozen=True, slots=True)
class Cores:
    """The core of the gateway under test, and the one of load, upstream, Redis and database."""

    gateway: int
    load: int


def choose_cores() -> Cores:
    """The first two processors that this process may use; one has to do where there is one."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[min(1, len(usable) - 1)])


def describe() -> dict[str, str]:
    """The machine in words, for the record."""
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": _system_name(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def tree_cpu(root: int) -> Cpu:
    """What a process and its descendants used so far, those that have ended included."""
    user = system = 0
    for pid in tree(root):
        fields = _stat(pid)
        if fields is not None:
            user += int(fields[11]) + int(fields[13])
            system += int(fields[12]) + int(fields[14])
    return Cpu(user / TICKS_PER_SECOND, system / TICKS_PER_SECOND)


def trees_cpu(roots: Iterable[int]) -> Cpu:
    """The same, of several."""
    found = [tree_cpu(root) for root in roots]
    return Cpu(sum(one.user for one in found), sum(one.system for one in found))


def machine_cpu_seconds() -> float:
    """What all processes of the machine used since it started, and what its host took away."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    return sum(int(fields[index]) for index in BUSY_FIELDS) / TICKS_PER_SECOND


def tree(root: int) -> list[int]:
    """A process and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def pin(root: int, cores: Iterable[int]) -> None:
    """Keep a process and its descendants on these cores; whoever ends meanwhile needs none."""
    for pid in tree(root):
        with suppress(ProcessLookupError):
            os.sched_setaffinity(pid, cores)


def memory_kib(pid: int, kind: str = "VmRSS") -> int:
    """A process's resident memory, or `RssAnon`: its own pages of it; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")), 0)


def _stat(pid: int) -> list[str] | None:
    """The fields after the name, from the state on; None when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()
