"""What Redis, a child or a worker loses is made good by the journal and the sweeper; the run ends ok and exact."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import redis

from devstack.dataset import DatasetSpec
from devstack.deployment import ROOT, Deployment, midnight, ms, named_settings
from devstack.oracle import Change, Rows
from devstack.stack import Stack
from devstack.worker import Worker

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


def test_the_soft_time_limit_amid_a_read_splits_the_slice(changed: Deployment, stack: Stack) -> None:
    run_id = plan(changed)
    changed.start_worker(concurrency=1)
    with frozen_source(stack):
        until_true(lambda: stack.unread_bytes("pqs"), "the source has been asked", changed)
        (late,) = running(changed, run_id)
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
