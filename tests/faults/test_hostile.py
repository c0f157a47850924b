"""Whoever reaches Redis can send any message: it is refused or costs a row of the journal, never an army of slices."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from typing import Any

from devstack.deployment import ROOT
from tests.faults.world import SINCE, SLICES, UNTIL, World

FLOOD = 40
SEND = """\
import json, sys
from etl_tasks.celery import app
for kwargs in json.load(sys.stdin):
    app.send_task("etl_tasks.plan_interval", kwargs=kwargs)
"""


def send_plans(world: World, plans: list[dict[str, Any]]) -> None:
    """Plan messages, as anybody could send them."""
    done = subprocess.run(
        [sys.executable, "-c", SEND],
        cwd=ROOT,
        env=world.deployment.process_env,
        input=json.dumps(plans),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def slices(world: World) -> int:
    (row,) = world.deployment.journal("SELECT count(*) AS n FROM {j}_slices")
    return int(row.n)


def test_a_flood_of_plans_has_one_active_run_and_a_row_for_each_that_says_so(world: World) -> None:
    held = world.failpoints.arm("slice.claimed", "hold", times=None)
    before, known = slices(world), {run.id for run in world.deployment.runs()}
    plan = {"since": SINCE.isoformat(), "until": UNTIL.isoformat(), "manual": True}
    send_plans(world, [plan] * FLOOD)
    # Who plans is another than who loads, so that the first run stays active while the flood comes in.
    world.deployment.start_worker(queues="plan")
    world.deployment.start_worker(queues="backfill,publish")

    def arrived() -> list[Any]:
        return [run for run in world.deployment.runs() if run.id not in known]

    held.wait()
    world.deployment.until(lambda: len(arrived()) == FLOOD, "every message has been answered in the journal", 90)
    active = [run for run in arrived() if run.ts_end is None]
    skipped = [run for run in arrived() if run.status == "skipped"]
    assert (len(active), len(skipped)) == (1, FLOOD - 1)
    assert all("active run" in run.details["reason"] for run in skipped)
    assert slices(world) - before == SLICES, "one run's, whatever came"
    assert world.waiting("plan") == 0
    held.release()

    world.assert_exact(active[0].id)


def test_a_span_of_years_in_tiny_slices_is_refused_before_a_row_is_written(world: World) -> None:
    before, known = slices(world), len(world.deployment.runs())
    worker = world.deployment.start_worker(PHX_INITIAL_SLICE_MIN="1", STEP_MIN="1")
    send_plans(
        world,
        [
            {"since": "1971-01-01T00:00:00Z", "until": UNTIL.isoformat(), "manual": True},
            {"since": "1971-01-01T00:00:00Z", "until": UNTIL.isoformat()},
            {"since": "0002-01-01T00:00:00Z", "until": "9998-01-01T00:00:00Z", "manual": True},
            # What is not to be read yet is no slice: the far future of a plan costs nothing.
            {"since": (UNTIL + timedelta(days=3)).isoformat(), "until": "9998-01-01T00:00:00Z", "manual": True},
            {"since": f"{SINCE.isoformat()}'; DROP TABLE x; --", "until": UNTIL.isoformat(), "manual": True},
        ],
    )

    world.deployment.until(
        lambda: worker.log.read_text().count("task_gave_up") >= 4 and len(world.deployment.runs()) == known + 1,
        "the messages are refused",
        90,
    )

    said = worker.log.read_text()
    assert said.count("MAX_SLICES_PER_RUN") == 3
    assert slices(world) == before
    last = world.deployment.runs()[-1]
    assert (last.status, last.ts_end is not None) == ("skipped", True)
    assert "nothing to read yet" in last.details["reason"]
    assert "Traceback" not in said
