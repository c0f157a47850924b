"""A month of five-minute slices: planned whole, sent two partitions at a time, and never one more."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import redis

from devstack.deployment import ROOT, Deployment, iso

Deploy = Callable[..., Deployment]
FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)  # long past, and no rows: nothing is clipped, nothing is read
PARTITIONS_IN_FLIGHT = 2


def _plan(deployment: Deployment, until: datetime) -> int:
    """Plan by hand through the product's own step, in a process of its own that follows nothing; the run's id."""
    code = (
        "import sys; from datetime import datetime; from etl_tasks.celery import wiring; "
        "from etl_tasks.pipeline.plan import PlanRequest, plan_interval; "
        "since, until = map(datetime.fromisoformat, sys.argv[1:]); "
        "print(plan_interval(PlanRequest(since, until, manual=True), wiring().plan_context()).run_id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, FIRST_DAY.isoformat(), until.isoformat()],
        cwd=ROOT,
        env=deployment.process_env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def _queued(deployment: Deployment, queue: str) -> int:
    with redis.Redis.from_url(deployment.settings["REDIS_URL"]) as client:
        return int(client.llen(queue))  # type: ignore[arg-type]


def test_a_month_is_planned_whole_and_only_two_partitions_are_sent(deploy: Deploy) -> None:
    deployment = deploy(
        "month",
        PHX_INITIAL_SLICE_MIN="5",
        PHX_QUERY_OVERLAP_MINUTES="0",
        PARTITIONS_IN_FLIGHT=str(PARTITIONS_IN_FLIGHT),
    )
    until = FIRST_DAY + timedelta(days=30)

    run_id = _plan(deployment, until)

    slices = deployment.slices(run_id)
    edges = [FIRST_DAY + timedelta(minutes=5 * i) for i in range(8_641)]
    assert [(s.window_from, s.window_to) for s in slices] == list(pairwise(edges)), "tiled"
    assert all(s.partition == int(f"{s.window_from:%Y%m%d}") and s.state == "planned" for s in slices)
    assert [s.step for s in slices] == [i // 2 for i in range(8_640)]  # steps of ten minutes
    partitions = deployment.journal("SELECT * FROM {j}_run_partitions WHERE run_id = %s ORDER BY partition", run_id)
    assert [(p.partition, p.slices, p.open_slices) for p in partitions] == [
        (int(f"{FIRST_DAY + timedelta(days=i):%Y%m%d}"), 288, 288) for i in range(30)
    ]
    first = [p.partition for p in partitions[:PARTITIONS_IN_FLIGHT]]
    assert [p.partition for p in partitions if p.state != "waiting"] == first
    assert {s.partition for s in slices if s.released_at is not None} == set(first)
    released = [s for s in slices if s.released_at is not None]
    assert len(released) == 288 * PARTITIONS_IN_FLIGHT
    assert [s.id for s in slices if s.enqueued_at is not None] == [s.id for s in released], "every one of them was sent"
    assert _queued(deployment, "backfill") == len(released)
    assert _queued(deployment, "extract") == 0, "a run by hand takes no place of the schedule's"


def test_a_finished_partition_releases_and_sends_the_next(deploy: Deploy) -> None:
    days = 4
    deployment = deploy(
        "next",
        PHX_INITIAL_SLICE_MIN="240",
        PHX_QUERY_OVERLAP_MINUTES="0",
        PARTITIONS_IN_FLIGHT=str(PARTITIONS_IN_FLIGHT),
        SWEEP_EVERY_S="60",  # no help from the sweeper within this test: finishing alone sends the next
    )
    run_id = _plan(deployment, FIRST_DAY + timedelta(days=days))
    deployment.start_worker(concurrency=2)

    in_flight: list[tuple[int, ...]] = []
    deadline = time.monotonic() + 60
    while deployment.journal("SELECT ts_end FROM {j} WHERE id = %s", run_id)[0].ts_end is None:
        assert time.monotonic() < deadline, f"{deployment.describe()}\n{deployment.worker_logs()}"
        rows = deployment.journal(
            "SELECT partition FROM {j}_run_partitions "
            "WHERE run_id = %s AND state IN ('loading', 'publishing') ORDER BY partition",
            run_id,
        )
        in_flight.append(tuple(row.partition for row in rows))
        time.sleep(0.02)

    (run,) = deployment.runs()
    assert (run.status, run.covered_until) == ("ok", FIRST_DAY + timedelta(days=days)), iso(run.covered_until)
    assert max(map(len, in_flight)) == PARTITIONS_IN_FLIGHT, in_flight
    # Not only when sampled: each partition but the first two was released when one before it had finished.
    partitions = deployment.journal("SELECT * FROM {j}_run_partitions WHERE run_id = %s ORDER BY released_at", run_id)
    assert [p.partition for p in partitions] == sorted(p.partition for p in partitions), "in order of time"
    assert len(partitions) == days
    finished = sorted(p.finished_at for p in partitions)
    for number, partition in enumerate(partitions[PARTITIONS_IN_FLIGHT:]):
        assert partition.released_at >= finished[number]
    slices = deployment.slices(run_id)
    assert len(slices) == 6 * days
    assert {s.state for s in slices} == {"done"}
    assert {s.sends for s in slices} == {1}, "all were sent, none by the sweeper"
    published = deployment.journal("SELECT partition FROM {j}_partitions WHERE published_gen = loaded_gen")
    assert len(published) == days
