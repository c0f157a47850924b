"""A detached process that can be found again, and only that one.

A pid alone may have been given to a stranger since, so the pidfile also holds the start time of the process from
/proc; a process is ours only while both agree.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.05


class _Outliving(subprocess.Popen[bytes]):
    """A child that is meant to outlive this interpreter, which at its end would warn of each one that still runs."""

    def __del__(self, *_: object, **__: object) -> None:
        """Leave it running."""


# Popen objects of processes that this interpreter itself started: they must be polled to be reaped, or a dead
# child would stay a zombie for as long as we live.
_children: dict[int, _Outliving] = {}


@dataclass(frozen=True)
class Identity:
    """A process: its pid and its start time in clock ticks since boot."""

    pid: int
    started: int

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        child = _children.get(self.pid)
        if child is not None and child.poll() is not None:
            del _children[self.pid]
        return _stat(self.pid) == self

    def send(self, sig: int) -> None:
        """Send a signal, unless the process is gone."""
        if self.alive():
            try:
                os.kill(self.pid, sig)
            except ProcessLookupError:
                return  # it ended between the look and the signal


class Daemon:
    """One named background process with a pidfile and a log."""

    def __init__(self, name: str, run_dir: Path, log_dir: Path) -> None:
        self.name = name
        self.pidfile = run_dir / f"{name}.pid"
        self.log = log_dir / f"{name}.log"

    def identity(self) -> Identity | None:
        """The running process, or None."""
        try:
            pid, started = self.pidfile.read_text().split()
            identity = Identity(int(pid), int(started))
        except (FileNotFoundError, ValueError):
            return None
        return identity if identity.alive() else None

    def start(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> Identity:
        """Start the process in a session of its own, its output in a fresh log (the last one is kept as `.1`)."""
        self.pidfile.parent.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("wb") as log:
            child = _Outliving(
                argv, env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        _children[child.pid] = child
        identity = _stat(child.pid) or Identity(child.pid, 0)
        scratch = self.pidfile.with_suffix(".tmp")
        scratch.write_text(f"{identity.pid} {identity.started}\n")
        scratch.replace(self.pidfile)
        return identity

    def forget(self) -> None:
        """Remove the pidfile of a process that has ended."""
        self.pidfile.unlink(missing_ok=True)

    def tail(self, lines: int = 15) -> str:
        """The last lines of the log."""
        if not self.log.exists():
            return "(no log)"
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 20_000))
            text = log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"


# Python's own way to set it, a function run between fork and exec, is not safe beside other threads.
_DIES_WITH_US = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, which outlives the exec
os.execv(sys.argv[1], sys.argv[1:])
"""


def dies_with_us(command: Sequence[str]) -> list[str]:
    """``command``, whose process gets SIGTERM when the thread that starts it ends, however that comes about."""
    return [sys.executable, "-c", _DIES_WITH_US, *command]


def identify(pid: int) -> Identity | None:
    """The process that has the pid now, or None."""
    return _stat(pid)


def family(identity: Identity) -> list[Identity]:
    """The process and all its descendants, as they are now."""
    if not identity.alive():
        return []
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            fields = _stat_fields(int(entry.name))
            if fields is not None:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [identity], [identity.pid]
    while queue:
        for pid in children.get(queue.pop(), []):
            member = _stat(pid)
            if member is not None:
                found.append(member)
                queue.append(pid)
    return found


def wait_gone(members: Sequence[Identity], timeout_s: float) -> list[Identity]:
    """Wait until the processes have ended; returns those that have not."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = [member for member in members if member.alive()]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(POLL_S)


def kill_now(members: Sequence[Identity], timeout_s: float = 5.0) -> list[Identity]:
    """SIGKILL the processes and wait for their end; returns those that have not ended."""
    for member in members:
        member.send(signal.SIGKILL)
    return wait_gone(members, timeout_s)


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()  # the name in parentheses may hold anything


def _stat(pid: int) -> Identity | None:
    fields = _stat_fields(pid)
    if fields is None or fields[0] == "X":
        return None
    if fields[0] == "Z" and int(fields[17]) <= 1:
        return None  # (with more threads only the first has ended; the others still hold the ports)
    return Identity(pid, int(fields[19]))


def resident_bytes(members: Sequence[Identity]) -> int:
    """Resident memory of the processes together."""
    total = 0
    for member in members:
        try:
            pages = int(Path(f"/proc/{member.pid}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        total += pages * os.sysconf("SC_PAGE_SIZE")
    return total


def unread_bytes(port: int) -> int:
    """What has arrived on connections to the TCP port (IPv4) and nobody has read yet.

    The columns are in the kernel's Documentation/networking/proc_net_tcp.rst.
    """
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues = line.split()[:5]
        if state == "01" and int(local.partition(":")[2], 16) == port:  # (ESTABLISHED)
            total += int(queues.partition(":")[2], 16)
    return total
