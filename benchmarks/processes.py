"""What Linux says of a process: its children, the CPU it used, and the most memory it ever held."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

KILOBYTE = 1024
MEGABYTE = 1_000_000
PATIENCE_S = 60.0


def cpu_s(pid: int) -> float:
    """Seconds of CPU, user and system, of all threads of the process so far."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()  # the name in parentheses may hold anything
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int | str) -> float:
    """VmHWM, the most resident memory so far, in MB; ``self`` is this process."""
    return _status_mb(pid, "VmHWM")


def resident_mb(pid: int | str) -> float:
    """VmRSS, the resident memory now, in MB."""
    return _status_mb(pid, "VmRSS")


def only_child(pid: int, patience_s: float = PATIENCE_S) -> int:
    """The one child of a process, as soon as it has one; raises TimeoutError."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        children = children_of(pid)
        if len(children) == 1:
            return children[0]
        time.sleep(0.1)
    raise TimeoutError(f"process {pid} has {len(children_of(pid))} children instead of one after {patience_s} s")


def children_of(pid: int) -> list[int]:
    """Children of every thread of the process."""
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def _status_mb(pid: int | str, name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"process {pid} has no {name}: it has ended")
    return int(found[1]) * KILOBYTE / MEGABYTE
