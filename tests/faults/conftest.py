"""One deployment a module, loaded once; every test of it gets new rows, a reader of CLEAN and clean failpoints."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
import redis

from devstack.deployment import Deployment, named_settings
from devstack.failpoints import Failpoints
from devstack.stack import Stack
from tests.faults import world as worlds

VERSIONS = count(1)


@pytest.fixture(scope="module")
def loaded(
    stack: Stack, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """The module's deployment. A module may set ``SETTINGS`` (ENV names) of its own."""
    name = request.module.__name__.rsplit(".", 1)[1].removeprefix("test_")
    more = getattr(request.module, "SETTINGS", {})
    settings = {**named_settings(stack, f"f_{name}"), **worlds.SETTINGS, **more}
    deployment = Deployment(stack, tmp_path_factory.mktemp(name), settings)
    worlds.make(deployment)
    _put_logs_away(deployment)
    yield deployment
    stack.up()
    deployment.close()


@pytest.fixture
def world(loaded: Deployment) -> Iterator[worlds.World]:
    """The deployment with rows that CLEAN does not have yet; no worker runs. What the test broke is mended after."""
    failpoints = loaded.failpoints = Failpoints(loaded.scratch / "failpoints")
    settings = dict(loaded.settings)
    with loaded.reader() as reader:
        world = worlds.World(loaded, failpoints, reader)
        world.change(next(VERSIONS))
        yield world
        failpoints.clear()
        loaded.stop_workers()
    loaded.settings = settings
    # What a test stopped and did not start again, for whatever reason, must not fail the next ones.
    loaded.stack.up()
    # A test that failed must not have its run in the way of the next one's.
    loaded.journal("UPDATE {j} SET status = 'error', ts_end = clock_timestamp() WHERE ts_end IS NULL")
    # Nor a publish that it left owing; every test loads all of the hours again.
    loaded.journal(
        "UPDATE {j}_partitions SET publish_state = 'idle', published_gen = loaded_gen, attempt = 0, spent = 0 "
        "WHERE publish_state <> 'idle' OR published_gen < loaded_gen"
    )
    redis.Redis.from_url(loaded.settings["REDIS_URL"]).flushdb()
    _put_logs_away(loaded)
    assert not reader.faults, "\n".join(reader.faults[:20])
    assert all(reader.looks[shard] for shard in (1, 2)), "the reader got no answer of a shard: it proves nothing"


def _put_logs_away(deployment: Deployment) -> None:
    """So that a test finds only what its own workers said."""
    for log in deployment.scratch.glob("worker*.log"):
        log.rename(log.with_suffix(".old"))
