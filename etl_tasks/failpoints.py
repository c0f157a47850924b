"""Named places in the code where a test makes this process die, freeze or wait. None of them does anything by itself.

A test names a directory in ``ETL_FAILPOINTS`` before the process starts, and arms a failpoint by putting a file there
at any time: ``<name>~<anything>.json`` with

    {"action": "kill" | "stop" | "hold", "times": 1, "where": {"shard": 2}}

``kill`` is SIGKILL and ``stop`` SIGSTOP for the whole process; ``hold`` keeps the thread that came by until the file
``<same name>.release`` is there. ``times`` says how often it goes off, over all processes (null: always); ``where``
asks for ids of the place. Every time leaves a file ``<same name>.hit-<n>`` with the pid.
"""

from __future__ import annotations

import json
import os
import signal
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

VARIABLE = "ETL_FAILPOINTS"
HOLD_AT_MOST_S = 300.0
_POLL_S = 0.02


class Failpoint(StrEnum):
    """The places, in the order in which a run comes by; beside each, the ids it tells."""

    PLAN_COMMITTED = "plan.committed"  # run: planned, and nothing sent yet
    SLICE_CLAIMED = "slice.claimed"  # run, slice, attempt
    SLICE_FRAME_READ = "slice.frame_read"  # run, slice, attempt: a frame has come, its rows are on no way yet
    SLICE_INSERTING = "slice.inserting"  # run, slice, attempt: a block is about to go to RAW, nothing is asked any more
    SLICE_ABANDONING = "slice.abandoning"  # run, slice, attempt: what it still waits for is about to be ended
    SLICE_INSERTED = "slice.inserted"  # run, slice, attempt: all rows are in RAW, the journal does not know
    SLICE_FINISHED = "slice.finished"  # run, slice, attempt: the journal knows, nobody was told
    SLICE_SPLIT = "slice.split"  # run, slice, attempt: the halves are in the journal and not sent
    PUBLISH_CLAIMED = "publish.claimed"  # partition, token
    PUBLISH_STAGE = "publish.stage"  # partition, token, shard, stage, when: "before" or "after"
    PUBLISH_BEFORE_REPLACE = "publish.before_replace"  # partition, token: all agreed, no shard has replaced yet
    PUBLISH_DONE = "publish.done"  # partition, token: CLEAN is new everywhere, the journal does not know
    PUBLISH_FINISHED = "publish.finished"  # partition, token: the journal knows, nobody was told
    FINALIZE = "finalize"  # run: nothing of it is open any more


_directory = os.environ.get(VARIABLE, "")


def reach(name: Failpoint, **ids: object) -> None:
    """The work has come to ``name``; returns at once unless a test has armed it."""
    if _directory:
        _go_off(Path(_directory), name, ids)


def _go_off(directory: Path, name: Failpoint, ids: dict[str, object]) -> None:
    for armed in sorted(directory.glob(f"{name}~*.json")):
        action = _take(armed, ids)
        if action is None:
            continue
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif action == "hold":
            _hold(armed.with_suffix(".release"))
        else:
            raise ValueError(f"{armed}: {action!r} is no action of a failpoint; write kill, stop or hold")


def _take(armed: Path, ids: dict[str, object]) -> str | None:
    """The action, if this failpoint is for these ids and its times are not used up; leaves the file of the hit."""
    try:
        order: dict[str, Any] = json.loads(armed.read_text())
    except FileNotFoundError:
        return None  # disarmed between the look and the reading
    if any(ids.get(key) != value for key, value in order.get("where", {}).items()):
        return None
    times = order.get("times", 1)
    place = 0
    while times is None or place < times:
        place += 1
        try:
            # Whoever makes the file has the hit: several processes come by at once.
            with armed.with_suffix(f".hit-{place}").open("x") as hit:
                json.dump(
                    {"pid": os.getpid(), "at": time.time(), **{key: str(value) for key, value in ids.items()}}, hit
                )
        except FileExistsError:
            continue
        return str(order["action"])
    return None


def _hold(release: Path) -> None:
    deadline = time.monotonic() + HOLD_AT_MOST_S
    while not release.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"a test has not made {release} for {HOLD_AT_MOST_S:g} s")
        time.sleep(_POLL_S)
