"""``python -m devstack work``: supervised workers that come back, and leave nobody behind when they are ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.deployment import ROOT, Deployment, named_settings
from devstack.stack import Stack
from devstack.supervisor import STOP_PATIENCE_S

pytestmark = pytest.mark.integration
MARK = "ETL_TEST_OF_THE_SUPERVISOR"


@pytest.fixture
def deployment(stack: Stack, tmp_path: Path) -> Iterator[Deployment]:
    """Settings of its own; the journal comes by itself, tables are not needed."""
    made = Deployment(stack, tmp_path, {**named_settings(stack, "work"), "SWEEP_EVERY_S": "1"})
    made.destroy()
    yield made
    made.close()


def family() -> dict[int, str]:
    """Every process that carries the mark, and its command line: of nobody else, and also those without parents."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and f"{MARK}=1".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has just ended
    return {pid: line for pid, line in found.items() if line}


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []  # it has just ended


def mains(name: str) -> list[int]:
    """The main process of a worker: the one whose parent is no such worker."""
    like = [pid for pid, line in family().items() if f"--hostname {name}@" in line]
    below = {child for pid in like for child in children(pid)}
    return [pid for pid in like if pid not in below]


def until(condition: Callable[[], Any], what: str, log: Path, timeout_s: float = 90) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{what}: not in {timeout_s} s\n{family()}\n{log.read_text()[-3000:]}"
        time.sleep(0.2)
    return answer


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_killed_worker_comes_back_and_nobody_is_left_at_the_end(
    deployment: Deployment, stack: Stack, sig: signal.Signals
) -> None:
    said = deployment.scratch / "work.log"
    with said.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "devstack", "work", "--workers", "2", "--concurrency", "1", "--beat"],
            cwd=ROOT,
            env={**os.environ, **deployment.settings, MARK: "1"},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A shell that runs the tests in the background has SIGINT ignored, and a child would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    log = stack.config.state_dir / "log" / "worker1.log"
    try:
        until(lambda: any(" beat " in line for line in family().values()), "beat runs", said)
        (first,) = until(lambda: mains("worker1"), "worker1 runs", said)
        until(lambda: children(first) and mains("worker2"), "its children run, and worker2", said)
        orphans = children(first)
        os.kill(first, signal.SIGKILL)

        def came_back() -> list[int]:
            return [pid for pid in mains("worker1") if pid not in (first, *orphans) and children(pid)]

        (second,) = until(came_back, "worker1 comes back", said)
        assert second != first
        until(lambda: deployment.celery("call", "etl_tasks.sweep").returncode == 0, "a task is sent", said)

        process.send_signal(sig)
        assert process.wait(STOP_PATIENCE_S + 30) == 0, said.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        # What the supervisor has killed last may need a moment of CPU to be gone.
        deadline = time.monotonic() + 10
        while (left := family()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert left == {}, "nobody is left"
    text = said.read_text()
    assert re.search(r"^worker1, worker2, beat under a supervisor; logs in ", text, re.M)
    assert "what is in hand goes back to the journal" in text
    assert "Traceback" not in text
    assert "Traceback" not in log.read_text(errors="replace")[-20_000:]


def test_without_a_stack_it_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "devstack", "work"],
        cwd=ROOT,
        env={**os.environ, "DEVSTACK_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "python -m devstack up" in done.stderr
