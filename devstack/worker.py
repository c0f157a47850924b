"""Workers as processes: how they are started, and how a test ends one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from devstack.process import dies_with_us

ROOT = Path(__file__).parents[1]


def worker_command(
    name: str,
    concurrency: int = 2,
    queues: str = "plan,extract,backfill,publish",
    program: Sequence[str] = ("celery", "-A", "etl_tasks"),
) -> list[str]:
    """The command line of a worker; ``program`` is the module that makes one, with its first arguments."""
    return [
        *(sys.executable, "-m", *program, "worker", "--concurrency", str(concurrency)),
        *("--queues", queues, "--hostname", f"{name}@%h", "--loglevel", "INFO"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]


def beat_command(schedule: Path) -> list[str]:
    """The command line of beat; ``schedule`` is its state file."""
    return [sys.executable, "-m", "celery", "-A", "etl_tasks", "beat", "--schedule", str(schedule), "-l", "INFO"]


class Worker:
    """A real worker with its own process group."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._stream = log.open("ab")
        self.process = subprocess.Popen(
            dies_with_us(command),
            cwd=ROOT,
            env=dict(env),
            stdout=self._stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def stop(self) -> None:
        """Warm, then cold, then by force; only what this test started."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self._stream.close()

    def kill(self) -> None:
        """The worker and its children, as a crash of the host would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
