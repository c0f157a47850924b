"""What Redis, a child or a worker loses is made good by the journal and the sweeper; the run ends ok and exact."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import redis

from devstack.dataset import DatasetSpec
from devstack.deployment import ROOT, Deployment, Worker, iso, midnight, ms, named_settings
from devstack.oracle import Change, Rows
from devstack.stack import Stack

HOURS = 4
SINCE = midnight(1)
UNTIL = SINCE + timedelta(hours=HOURS)
PARTITION = int(f"{SINCE:%Y%m%d}")
SLICES = 2 * HOURS
SPEC = DatasetSpec(rows=2400, days=1, seed=91, until_ms=ms(midnight(0)))
LEASE_S = 6


@pytest.fixture(scope="module")
def loaded(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One deployment for all tests of this file, its source seeded; each test runs over it by hand once more."""
    settings = {
        **named_settings(stack, "recovery"),
        "PHX_INITIAL_SLICE_MIN": "30",
        "PHX_QUERY_OVERLAP_MINUTES": "0",
        "LEASE_S": str(LEASE_S),
        "SWEEP_EVERY_S": "1",
    }
    deployment = Deployment(stack, tmp_path_factory.mktemp("recovery"), settings)
    deployment.create()
    deployment.seed(Rows(SPEC))
    yield deployment
    deployment.close()


@pytest.fixture
def changed(loaded: Deployment, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """Rows have new values, so that only a run of the test's own can make CLEAN exact; no worker runs."""
    version = 1 + [item for item in request.session.items if item.path == request.path].index(request.node)
    loaded.seed(Change(SPEC, rows=160, since_ms=ms(SINCE), until_ms=ms(UNTIL), version=version))
    yield loaded
    loaded.stop_workers()
    # A test that failed must not have its run in the way of the next one's.
    loaded.journal("UPDATE {j} SET status = 'error', ts_end = clock_timestamp() WHERE ts_end IS NULL")
    redis.Redis.from_url(loaded.settings["REDIS_URL"]).flushdb()


def plan(deployment: Deployment, **settings: str) -> int:
    """Plan by hand through the product's own step, in a process of its own that follows nothing; the run's id."""
    code = (
        "import sys; from datetime import datetime; from etl_tasks.celery import wiring; "
        "from etl_tasks.pipeline.plan import PlanRequest, plan_interval; "
        "since, until = map(datetime.fromisoformat, sys.argv[1:]); "
        "print(plan_interval(PlanRequest(since, until, manual=True), wiring().plan_context()).run_id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, SINCE.isoformat(), UNTIL.isoformat()],
        cwd=ROOT,
        env={**deployment.process_env, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def broker(deployment: Deployment) -> redis.Redis:
    return redis.Redis.from_url(deployment.settings["REDIS_URL"])


def waiting(deployment: Deployment, queue: str) -> int:
    with broker(deployment) as client:
        return int(client.llen(queue))  # type: ignore[arg-type]


def until_true(condition: Callable[[], Any], what: str, deployment: Deployment, timeout_s: float = 40) -> Any:
    """The first true answer of ``condition``."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.1)
    raise AssertionError(f"{what}: not in {timeout_s} s\n{deployment.describe()}\n{deployment.worker_logs()}")


def running(deployment: Deployment, run_id: int) -> list[Any]:
    return [s for s in deployment.slices(run_id) if s.state == "running"]


@contextmanager
def frozen_source(stack: Stack) -> Iterator[None]:
    """The Query Server answers nothing, so that whoever reads stays in the middle of it."""
    stack.pause("pqs")
    try:
        yield
    finally:
        stack.resume("pqs")


def assert_run_is_exact(deployment: Deployment, run_id: int) -> list[Any]:
    """The run ended ok, CLEAN is exact and no row was published twice; its slices."""
    run = deployment.wait_for_run(run_id, timeout_s=60)
    assert run.status == "ok", f"{deployment.describe()}\n{deployment.worker_logs()}"
    deployment.assert_exact(SINCE, UNTIL)
    slices = deployment.slices(run_id)
    assert [s.state for s in slices] == ["done"] * SLICES
    return slices


def triple(deployment: Deployment, queue: str) -> int:
    """Put two more deliveries of every message that waits in ``queue`` behind it; how many messages there were."""
    with broker(deployment) as client:
        messages: list[bytes] = client.lrange(queue, 0, -1)  # type: ignore[assignment]
        for text in messages:
            for _ in range(2):
                message = json.loads(text)
                # Redis tells deliveries apart by this; the task's id stays what it was.
                message["properties"]["delivery_tag"] = str(uuid.uuid4())
                client.lpush(queue, json.dumps(message))
    return len(messages)


def test_queued_slices_lost_by_a_flushed_redis_are_sent_again(changed: Deployment) -> None:
    run_id = plan(changed)
    assert waiting(changed, "backfill") == SLICES
    with broker(changed) as client:
        client.flushall()
    changed.start_worker()

    slices = assert_run_is_exact(changed, run_id)

    assert all(s.sends >= 2 for s in slices), "each was sent at planning, and again by the sweeper"
    assert all(s.spent == 1 for s in slices), "a lost message spends no attempt"


def test_messages_left_unacknowledged_do_not_hide_that_others_are_lost(changed: Deployment) -> None:
    run_id = plan(changed)
    with broker(changed) as client:
        # As a worker leaves them whose host is gone: Redis hands them out again after the visibility time-out, 12 h.
        for text in client.lrange("backfill", 0, -1):  # type: ignore[union-attr]
            message = json.loads(text)
            tag = message["properties"]["delivery_tag"]
            client.hset("unacked", tag, json.dumps([message, "", "backfill"]))
            client.zadd("unacked_index", {tag: time.time()})
        client.delete("backfill")
        assert client.hlen("unacked") == SLICES
    changed.start_worker()

    assert_run_is_exact(changed, run_id)


def test_a_killed_child_costs_its_slice_one_attempt_and_no_row(changed: Deployment, stack: Stack) -> None:
    run_id = plan(changed)
    changed.start_worker()
    with frozen_source(stack):
        (victim, *_) = until_true(lambda: running(changed, run_id), "a slice is being loaded", changed)
        os.kill(int(victim.worker.rsplit(":", 1)[1]), signal.SIGKILL)

    slices = assert_run_is_exact(changed, run_id)

    (again,) = [s for s in slices if s.id == victim.id]
    assert (again.attempt, again.spent) == (2, 2)
    assert again.worker != victim.worker


def test_what_was_planned_while_redis_was_down_is_sent_by_the_sweeper(changed: Deployment, stack: Stack) -> None:
    stack.stop("redis")
    try:
        run_id = plan(changed)
        assert all(s.enqueued_at is None for s in changed.slices(run_id))
    finally:
        stack.start("redis")
    changed.start_worker()

    slices = assert_run_is_exact(changed, run_id)

    assert all(s.sends == 1 and s.spent == 1 for s in slices)


def test_a_chord_without_its_bookkeeping_is_published_all_the_same(changed: Deployment, stack: Stack) -> None:
    run_id = plan(changed)
    changed.start_worker()
    with frozen_source(stack):
        until_true(lambda: running(changed, run_id), "a slice is being loaded", changed)
        with broker(changed) as client:
            # The size and the results that the chord counts by: without them it never sends its body.
            bookkeeping: list[bytes] = [*client.scan_iter("celery-taskset-meta-*"), *client.scan_iter("*.s")]
            assert bookkeeping, f"no chord is under way: {client.keys('*')!r}"
            client.delete(*bookkeeping)

    assert_run_is_exact(changed, run_id)


def test_every_message_delivered_three_times_doubles_nothing(changed: Deployment) -> None:
    before = changed.runs()[-1].id if changed.runs() else 0
    kwargs = {"since": iso(SINCE), "until": iso(UNTIL), "manual": True}
    changed.celery("call", "etl_tasks.plan_interval", "--kwargs", json.dumps(kwargs))
    assert triple(changed, "plan") == 1
    planner = changed.start_worker(queues="plan")
    run_id = changed.wait_for_new_run(before)
    until_true(lambda: not waiting(changed, "plan"), "all three plans are taken", changed)
    planner.stop()
    assert [run.id for run in changed.runs() if run.id > before] == [run_id], "one run, however often it was told"
    queued = waiting(changed, "backfill")
    assert queued >= SLICES
    assert triple(changed, "backfill") == queued
    for task, argument in (("dedup_publish", PARTITION), ("finalize_run", run_id)):
        changed.celery("call", f"etl_tasks.{task}", "--args", json.dumps([argument]))
        triple(changed, {"dedup_publish": "publish", "finalize_run": "plan"}[task])
    changed.start_worker(concurrency=2)

    slices = assert_run_is_exact(changed, run_id)

    assert [s.attempt for s in slices] == [1] * SLICES, "a second delivery claims nothing"
    assert sum(s.rows_inserted for s in slices) == len(changed.expected(SINCE, UNTIL))
    until_true(lambda: not waiting(changed, "backfill"), "the rest of the messages is dropped", changed)
    assert [s.attempt for s in changed.slices(run_id)] == [1] * SLICES


def test_the_soft_time_limit_amid_a_read_splits_the_slice(changed: Deployment, stack: Stack) -> None:
    run_id = plan(changed)
    changed.start_worker(concurrency=1)
    with frozen_source(stack):
        (late,) = until_true(lambda: running(changed, run_id), "a slice is being loaded", changed)
        # What the worker's main sends when the limit has passed.
        os.kill(int(late.worker.rsplit(":", 1)[1]), signal.SIGUSR1)
        until_true(lambda: not [s for s in running(changed, run_id) if s.id == late.id], "it is split", changed)

    run = changed.wait_for_run(run_id, timeout_s=60)

    assert run.status == "ok", f"{changed.describe()}\n{changed.worker_logs()}"
    changed.assert_exact(SINCE, UNTIL)
    slices = changed.slices(run_id)
    (split,) = [s for s in slices if s.state == "split"]
    assert (split.id, split.error_kind) == (late.id, "QueryTimedOut")
    assert "TASK_SOFT_TIME_LIMIT_MIN" in split.last_error
    assert [s.spent for s in slices if s.parent_id == late.id] == [1, 1]


def test_a_worker_stopped_while_loading_spends_no_attempt(changed: Deployment, stack: Stack) -> None:
    run_id = plan(changed)
    leaving = changed.start_worker()
    with frozen_source(stack):
        given_up = until_true(
            lambda: len(now := running(changed, run_id)) == 2 and now, "two are being loaded", changed
        )
        leaving.process.terminate()
        # What ends within the grace of a stop may end; these are held up for longer.
        time.sleep(5.5)
    assert leaving.process.wait(20) == 0
    held = {s.id: s for s in changed.slices(run_id)}
    for was in given_up:
        assert (held[was.id].state, held[was.id].spent, held[was.id].error_kind) == ("planned", 0, "WorkerStopping")
    assert not [s for s in held.values() if s.state == "running"], "nobody has to wait for a lease"
    changed.start_worker()

    slices = assert_run_is_exact(changed, run_id)

    assert all(s.spent == 1 for s in slices)


def test_with_redis_away_from_the_start_a_worker_still_ends_what_does_not_move(
    changed: Deployment, stack: Stack
) -> None:
    run_id = plan(changed)
    stack.stop("redis")
    try:
        worker: Worker = changed.start_worker(SOURCE_PATIENCE_S="3")
        run = changed.wait_for_run(run_id, timeout_s=40)
    finally:
        stack.start("redis")

    assert run.status == "error"
    assert "SOURCE_PATIENCE_S" in run.details["error"]
    assert worker.process.poll() is None, "it waits for Redis"
