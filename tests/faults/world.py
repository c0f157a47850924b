"""What the tests of faults share: a day's first hours in the source, new values for every test, what must hold."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import redis

from devstack.clean_reader import CleanReader
from devstack.dataset import DatasetSpec
from devstack.deployment import Deployment, midnight, ms
from devstack.failpoints import Failpoints
from devstack.oracle import Change, Late, Rows
from devstack.stack import Stack

HOURS = 4
SINCE = midnight(1)
UNTIL = SINCE + timedelta(hours=HOURS)
PARTITION = int(f"{SINCE:%Y%m%d}")
SLICE_MIN = 30
SLICES = HOURS * 60 // SLICE_MIN
SPEC = DatasetSpec(rows=2400, days=1, seed=91, until_ms=ms(midnight(0)))
LEASE_S = 4
SWEEP_S = 1
SETTINGS = {
    "PHX_INITIAL_SLICE_MIN": str(SLICE_MIN),
    "PHX_QUERY_OVERLAP_MINUTES": "0",
    "LEASE_S": str(LEASE_S),
    "SWEEP_EVERY_S": str(SWEEP_S),
}


class World:
    """A deployment whose source holds one day, CLEAN its first ``HOURS`` hours; every test changes and adds rows there.

    ``reader`` polls CLEAN for as long as the test runs. ``failpoints`` are cleared after it.
    """

    def __init__(self, deployment: Deployment, failpoints: Failpoints, reader: CleanReader) -> None:
        self.deployment = deployment
        self.failpoints = failpoints
        self.reader = reader
        self.stack: Stack = deployment.stack

    # -- the source -----------------------------------------------------------------------------------------------

    def change(self, version: int, since: datetime = SINCE, until: datetime = UNTIL) -> None:
        """160 rows get new values and 20 keys are new, so that only a run from now on can make CLEAN exact."""
        self.deployment.seed(Change(SPEC, rows=160, since_ms=ms(since), until_ms=ms(until), version=version))
        self.deployment.seed(Late(SPEC, rows=20, since_ms=ms(since), until_ms=ms(until), version=version))

    # -- the product ----------------------------------------------------------------------------------------------

    def plan(self, since: datetime = SINCE, until: datetime = UNTIL, **settings: str) -> int:
        """A run by hand over the hours; its id."""
        return self.deployment.plan(since, until, **settings)

    def running(self, run_id: int) -> list[Any]:
        """The run's slices that somebody works on."""
        return [one for one in self.deployment.slices(run_id) if one.state == "running"]

    def publish_row(self, partition: int = PARTITION) -> Any:
        """The partition's row of the journal."""
        return self.deployment.journal("SELECT * FROM {j}_partitions WHERE partition = %s", partition)[0]

    def broker(self) -> redis.Redis:
        """Redis, as the workers know it, whatever stands between them and it."""
        url = self.stack.env()["REDIS_URL"].rsplit("/", 1)[0]
        return redis.Redis.from_url(f"{url}/{self.deployment.settings['REDIS_URL'].rsplit('/', 1)[1]}")

    def waiting(self, queue: str) -> int:
        """Messages that wait in the queue."""
        with self.broker() as client:
            return int(client.llen(queue))  # type: ignore[arg-type]

    def triple(self, queue: str) -> int:
        """Put two more deliveries of every message that waits in ``queue`` behind it; how many messages there were."""
        with self.broker() as client:
            messages: list[bytes] = client.lrange(queue, 0, -1)  # type: ignore[assignment]
            for text in messages:
                for _ in range(2):
                    message = json.loads(text)
                    # Redis tells deliveries apart by this; the task's id stays what it was.
                    message["properties"]["delivery_tag"] = str(uuid.uuid4())
                    client.lpush(queue, json.dumps(message))
        return len(messages)

    @contextmanager
    def frozen(self, part: str) -> Iterator[None]:
        """A part of the stack answers nothing (SIGSTOP) for as long as the block runs."""
        self.stack.pause(part)
        try:
            yield
        finally:
            self.stack.resume(part)

    # -- what must hold -------------------------------------------------------------------------------------------

    def assert_exact(self, run_id: int, timeout_s: float = 60, since: datetime = SINCE, until: datetime = UNTIL) -> Any:
        """The run ended ok, CLEAN is exact in every column, nobody saw less in between; the run's slices."""
        run = self.deployment.wait_for_run(run_id, timeout_s)
        assert run.status == "ok", f"{self.deployment.describe()}\n{self.deployment.worker_logs()}"
        self.deployment.assert_exact(since, until)
        slices = self.deployment.slices(run_id)
        assert {one.state for one in slices} <= {"done", "split"}
        return slices


def make(deployment: Deployment) -> None:
    """Create the deployment, seed its source and load the hours once."""
    deployment.create()
    deployment.seed(Rows(SPEC))
    run_id = deployment.plan(SINCE, UNTIL)
    worker = deployment.start_worker()
    assert deployment.wait_for_run(run_id).status == "ok", deployment.describe()
    worker.stop()
    deployment.workers.clear()
