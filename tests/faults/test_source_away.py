"""The Query Server or HBase gone for a while, and a Query Server that comes back with the statement ids of before."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from phoenixdb.avatica.proto import common_pb2, responses_pb2

from devstack.deployment import ms
from devstack.errors import NotReady
from devstack.oracle import Late
from devstack.phoenix import connect
from devstack.query_server_proxy import Asked, QueryServerProxy
from tests.faults import worker_events
from tests.faults.worker_events import events
from tests.faults.world import SINCE, SLICES, SPEC, UNTIL, World

PATIENCE_S = 150.0
"""For what takes seconds on a quiet machine."""
QUEUED = 200
SETTINGS = {**worker_events.SETTINGS, "PHX_FETCHMANY_SIZE": "8"}
"""Frames of a few rows: a slice of these tests has several."""


def test_the_query_server_is_away_with_200_slices_queued(world: World) -> None:
    until = SINCE + timedelta(minutes=QUEUED)
    run_id = world.plan(SINCE, until, PHX_INITIAL_SLICE_MIN="1")
    world.stack.kill("pqs")
    world.deployment.start_worker()
    during = world.deployment.until(lambda: all_tried(world, run_id), "each has been tried", PATIENCE_S)
    start_query_server(world)

    slices = world.assert_exact(run_id, PATIENCE_S, SINCE, until)

    # A claim spends an attempt, and giving the slice back refunds it: some are being tried once more just then.
    assert [one.spent for one in during] == [int(one.state == "running") for one in during]
    assert {one.error_kind for one in during} == {"Unreachable"}
    assert all(one.not_before is not None and "PQS_URL" in one.last_error for one in during)
    assert [(one.state, one.spent) for one in slices] == [("done", 1)] * QUEUED
    assert sum(one.attempt for one in slices) >= 2 * QUEUED, "each was tried in vain at least once"
    cap_s = float(world.deployment.settings["OVERLOAD_BACKOFF_CAP_S"])
    failed = events(world, "slice_try_failed")
    assert {one["action"] for one in failed} == {"wait"}
    assert all(cap_s / 2 <= one["delay_s"] <= cap_s for one in failed), "however often: pauses do not grow"


def test_hbase_is_killed_in_the_middle_of_a_read(world: World) -> None:
    """Gone for longer than the read time-out: the Query Server takes requests all the while, and answers none."""
    held = world.failpoints.arm("slice.frame_read", "hold")
    run_id = world.plan()
    world.deployment.start_worker(PHX_READ_TIMEOUT_S="5")
    held.wait(timeout_s=PATIENCE_S)
    world.stack.kill("hbase")
    held.release()
    world.deployment.until(lambda: events(world, "slice_try_failed", action="wait"), "it is noticed", PATIENCE_S)
    world.stack.start("hbase")

    slices = world.assert_exact(run_id, PATIENCE_S)

    failed = events(world, "slice_try_failed")
    assert failed[0]["error_kind"] == "QueryTimedOut"
    assert [(one.state, one.spent) for one in slices] == [("done", 1)] * SLICES, "no window is to blame"
    world.deployment.reopen_seeder()


def test_statement_ids_collide_after_a_restart(world: World) -> None:
    """Both slices are in the middle of their reads; the second's new statement gets the id of the first's old one."""
    url = world.deployment.settings["PQS_URL"]
    world.deployment.seed(Late(SPEC, rows=300, since_ms=ms(SINCE), until_ms=ms(UNTIL), version=1000))
    with QueryServerProxy(url) as proxy, plain_cursor(url) as stale:
        stale.execute(f'SELECT "t" FROM {world.deployment.settings["HBASE_MAIN_TABLE"]} WHERE "t" < 50')
        run_id = world.plan(PHX_INITIAL_SLICE_MIN="120")
        first, second = world.deployment.slices(run_id)
        holds = [world.failpoints.arm("slice.frame_read", "hold", slice=one.id) for one in (first, second)]
        # The proxy keeps the workers' connections open over the restart, as a load balancer does.
        world.deployment.start_worker(PQS_URL=proxy.url)
        for hold in holds:
            hold.wait(timeout_s=PATIENCE_S)
        old, before = read_of(proxy, first), read_of(proxy, second)
        steps = [one for one in proxy.asked(connection=before.connection) if one.kind in ("CreateStatement", "Columns")]
        # What was asked ahead has been answered: a server that dies before that breaks the connection instead.
        for one in (old, before):
            world.deployment.until(partial(proxy.asked, "Fetch", connection=one.connection), "a frame came", PATIENCE_S)
        world.stack.kill("pqs")
        start_query_server(world)
        own = len(proxy.asked("Fetch", connection=old.connection))
        assert_danger_is_real(world, stale)
        # A reconnect makes as many statements as the first connect made, the read's being the last.
        with plain_cursor(url) as burner:
            burn_ids(burner, old.statement - len(steps))
        ahead = world.failpoints.arm("slice.frame_read", "hold", slice=second.id)
        holds[1].release()
        ahead.wait(timeout_s=PATIENCE_S)  # the frame that was asked for before the restart
        again = world.failpoints.arm("slice.frame_read", "hold", slice=second.id)
        ahead.release()
        again.wait(timeout_s=PATIENCE_S)
        new = read_of(proxy, second)
        assert (new.statement, new.connection != old.connection) == (old.statement, True), "the ids collide"
        holds[0].release()
        world.deployment.until(lambda: events(world, "slice_try_failed", slice=first.id), "it is noticed", PATIENCE_S)
        again.release()

        slices = world.assert_exact(run_id, PATIENCE_S)

        stolen = proxy.asked("Fetch", connection=old.connection)[own]
    assert rows_fetched(stolen) > 0, "the server did hand the second's rows to the first"
    (noticed,) = events(world, "slice_try_failed", slice=first.id)
    assert (noticed["error_kind"], noticed["action"]) == ("ShortRead", "reconnect")
    assert "outside the window" in noticed["reason"]
    missed = events(world, "slice_try_failed", slice=second.id)
    assert [one["error_kind"] for one in missed] == ["StatementLost", "ShortRead"]
    assert "a frame was lost" in missed[1]["reason"]
    for one in slices:
        rows = len(world.deployment.expected(one.window_from, one.window_to))
        assert (one.state, one.attempt, one.spent) == ("done", 1, 1)
        assert (one.rows_read, one.rows_inserted) == (rows, rows), "neither lost nor foreign"


def assert_danger_is_real(world: World, stale: Any) -> None:
    """With phoenixdb alone a cursor from before the restart is given another client's rows."""
    with plain_cursor(world.deployment.settings["PQS_URL"]) as other:
        burn_ids(other, stale._id - 1)
        other.execute(f'SELECT "t" FROM {world.deployment.settings["HBASE_MAIN_TABLE"]} WHERE "t" >= 50')
        assert other._id == stale._id
        own = [t for (t,) in itertools.islice(iter(stale.fetchone, None), stale.itersize)]
        foreign = [t for (t,) in stale.fetchmany(stale.itersize)]
    assert max(own) < 50
    assert len(foreign) > 0
    assert min(foreign) >= 50


@contextlib.contextmanager
def plain_cursor(url: str) -> Iterator[Any]:
    """A cursor of phoenixdb's own, which gets a few rows a frame; whether it can be closed at the end is all the
    same.
    """
    with contextlib.suppress(NotReady), connect(url) as run:
        cursor = run._connection.cursor(cursor_factory=run._cursor_factory)
        cursor.itersize = 8
        yield cursor


def burn_ids(cursor: Any, last: int) -> None:
    """Make statements until one has the id ``last``."""
    connection = cursor.connection
    made = 0
    while made < last:
        made = connection._client.create_statement(connection._id)
        connection._client.close_statement(connection._id, made)
    assert made == last, f"the server's ids are at {made} already, {last} was to be next"


def read_of(proxy: QueryServerProxy, one: Any) -> Asked:
    """The newest statement that read the slice's window."""
    asked = proxy.asked("PrepareAndExecute", sql=f">= TIMESTAMP '{edge(one.window_from)}")
    return [read for read in asked if "COUNT(" not in read.sql][-1]


def edge(moment: datetime) -> str:
    """As a statement has it."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def rows_fetched(asked: Asked) -> int:
    """Rows of the answer to a fetch."""
    wire = common_pb2.WireMessage.FromString(asked.answered.body)
    assert wire.name.endswith("$FetchResponse"), wire.name
    return len(responses_pb2.FetchResponse.FromString(wire.wrapped_message).frame.rows)


def all_tried(world: World, run_id: int) -> list[Any]:
    """The run's slices once each was tried in vain, else none."""
    slices = world.deployment.slices(run_id)
    return slices if all(one.error_kind for one in slices) else []


def start_query_server(world: World) -> None:
    """Start it, and forget the connections of ours that it does not know any more."""
    world.stack.start("pqs")
    world.deployment.reopen_seeder()
