"""A month of five-minute slices: planned in one transaction, sent, and drained to the end by two workers over no rows.

The bounds are the issues': 8,640 slices in 3 s, at most 3 ms to send one, and no released slice unsent for longer than
a sweep.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.report import Measure
from devstack.deployment import ROOT, Deployment, deployed
from devstack.stack import Stack

PHOENIX = True
MONTH_DAYS = 30
SLICES_A_DAY = 24 * 60 // 5
PLAN_BOUND_S = 3.0
DISPATCH_BOUND_MS = 3.0
SWEEP_EVERY_S = 10.0
SAMPLE_EVERY_S = 1.0
DRAIN_TIMEOUT_S = 3_600.0
FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)  # long past, so that nothing clips the interval

# What ought to be in the queue and was never said to be: how long the oldest has waited.
UNSENT = (
    "SELECT coalesce(extract(epoch FROM max(clock_timestamp() - greatest(released_at, not_before))), 0)::float AS age "
    "FROM {j}_slices WHERE run_id = %s AND state = 'planned' AND released_at IS NOT NULL AND enqueued_at IS NULL "
    "AND (not_before IS NULL OR not_before <= clock_timestamp())"
)
IN_FLIGHT = "SELECT count(*) AS n FROM {j}_run_partitions WHERE run_id = %s AND state IN ('loading', 'publishing')"


def add_options(parser: argparse.ArgumentParser) -> None:
    """How much of the month is drained; it is always planned whole."""
    parser.add_argument(
        "--days", type=int, default=MONTH_DAYS, metavar="D", help="plan: days that the workers drain to the end"
    )


def run(stack: Stack, scratch: Path, options: argparse.Namespace) -> tuple[Sequence[Measure], Sequence[str]]:
    """Plan the month, then drain ``--days`` of it. Raises AssertionError when a slice is not done in the end."""
    settings = {
        "PHX_INITIAL_SLICE_MIN": "5",
        "PHX_QUERY_OVERLAP_MINUTES": "0",
        "SWEEP_EVERY_S": f"{SWEEP_EVERY_S:.0f}",
        # A database of its own: another deployment of this stack may run beside this one.
        "REDIS_URL": stack.env()["REDIS_URL"].rsplit("/", 1)[0] + "/8",
    }
    with deployed(stack, "bench_plan", scratch, **settings) as deployment:
        month = _plan(deployment, MONTH_DAYS)
        planned = month
        if options.days != MONTH_DAYS:
            deployment.create()
            planned = _plan(deployment, options.days)
        drained = _drain(deployment, planned["run"])
        _assert_whole(deployment, planned["run"], options.days)
    slices = int(planned["slices"])
    measures = [
        Measure(
            f"{month['slices']:,} slices planned, one transaction",
            month["transaction_s"],
            "s",
            PLAN_BOUND_S,
            month["executemany_s"],
        ),
        Measure("transactions that wrote them", month["transactions"], "", 1),
        Measure("plan_interval as a whole, checks and first messages", month["total_s"], "s"),
        Measure(
            f"sending the first {month['sent']:,}, a slice",
            1000 * month["dispatch_s"] / month["sent"],
            "ms",
            DISPATCH_BOUND_MS,
        ),
        Measure("longest that a released slice was unsent", drained["unsent_s"], "s", SWEEP_EVERY_S),
        Measure("most partitions in flight", drained["in_flight"], "", 2),
        Measure(f"{slices:,} empty slices drained by two workers", drained["seconds"], "s"),
        Measure("slices a second", slices / drained["seconds"], "/s"),
        Measure("attempts a slice (1: none was tried or sent twice in vain)", drained["attempts"] / slices, ""),
    ]
    notes = (
        "baseline: the same rows by psycopg2's executemany, an INSERT each, one transaction, a table of the same form",
        f"drained: {options.days} of {MONTH_DAYS} days by two workers, a COUNT and a read a slice, no rows",
        f"{drained['messages']:,} sends of {slices:,} slices; every slice done, every partition published, the run ok",
    )
    return measures, notes


def _plan(deployment: Deployment, days: int) -> dict[str, Any]:
    until = FIRST_DAY + timedelta(days=days)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.planner", FIRST_DAY.isoformat(), until.isoformat()],
        cwd=ROOT,
        env=deployment.process_env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"the planner failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {facts}", flush=True)
    assert facts["slices"] == days * SLICES_A_DAY, f"{facts['slices']} slices were planned of {days} days"
    assert facts["sent"] == min(days, 2) * SLICES_A_DAY, f"{facts['sent']} slices were sent, not two partitions' worth"
    return facts


def _drain(deployment: Deployment, run_id: int) -> dict[str, float]:
    """Two workers to the end of the run, the journal asked every second."""
    for _ in range(2):
        deployment.start_worker(concurrency=1)
    began = time.monotonic()
    deadline = began + DRAIN_TIMEOUT_S
    unsent_s = in_flight = 0.0
    told_at = began
    while deployment.journal("SELECT ts_end FROM {j} WHERE id = %s", run_id)[0].ts_end is None:
        assert time.monotonic() < deadline, f"not drained in {DRAIN_TIMEOUT_S} s: {deployment.describe()}"
        unsent_s = max(unsent_s, deployment.journal(UNSENT, run_id)[0].age)
        in_flight = max(in_flight, deployment.journal(IN_FLIGHT, run_id)[0].n)
        if time.monotonic() - told_at > 60:
            told_at = time.monotonic()
            done = deployment.journal("SELECT count(*) AS n FROM {j}_slices WHERE state = 'done'")[0].n
            print(f"  {done:,} slices done after {told_at - began:.0f} s", flush=True)
        time.sleep(SAMPLE_EVERY_S)
    seconds = time.monotonic() - began
    (totals,) = deployment.journal(
        "SELECT sum(attempt)::int AS attempts, sum(sends)::int AS sends FROM {j}_slices WHERE run_id = %s", run_id
    )
    return {
        "seconds": seconds,
        "unsent_s": unsent_s,
        "in_flight": in_flight,
        "attempts": totals.attempts,
        "messages": totals.sends,
    }


def _assert_whole(deployment: Deployment, run_id: int, days: int) -> None:
    (run,) = [row for row in deployment.runs() if row.id == run_id]
    assert run.status == "ok", f"the run ended {run.status}: {deployment.describe()}"
    slices = deployment.slices(run_id)
    wrong = [piece for piece in slices if piece.state != "done" or piece.enqueued_at is None or piece.rows_read != 0]
    assert not wrong, f"{len(wrong)} slices are not done, sent and empty, the first: {wrong[0]}"
    assert len(slices) == days * SLICES_A_DAY
    unpublished = deployment.journal("SELECT partition FROM {j}_partitions WHERE published_gen < loaded_gen")
    assert not unpublished, f"not published: {unpublished}"
