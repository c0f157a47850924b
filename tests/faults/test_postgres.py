"""PostgreSQL restarted, killed, silent, its sessions ended at random or in the one wrong moment: the run ends exact."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from devstack.failpoints import Armed
from devstack.relay import Relay
from etl_tasks.adapters.journal import database
from etl_tasks.adapters.journal.database import Database, JournalConfig
from etl_tasks.errors import Unreachable
from tests.faults.shards import NOON, raw
from tests.faults.test_killed import no_buffers
from tests.faults.world import LEASE_S, SINCE, SLICES, UNTIL, World

PATIENCE_S = 120.0
"""For what takes seconds on a quiet machine."""
PUBLISH_LOCK = "application_name LIKE 'etl_tasks lock: publish%'"
OURS = "application_name LIKE 'etl_tasks%'"
COMMIT = b"COMMIT"


# -- sessions that are ended ------------------------------------------------------------------------------------------


def test_the_locks_session_is_ended_amid_a_publish(world: World) -> None:
    held = world.failpoints.arm("publish.stage", "hold", stage="insert_dedup", when="after", shard=1)
    run_id = world.plan()
    world.deployment.start_worker()
    token = int(held.wait(timeout_s=PATIENCE_S)["token"])

    assert end_sessions(world, PUBLISH_LOCK)
    held.release()

    world.assert_exact(run_id, PATIENCE_S)
    assert "the session of the lock" in line_of(world, "publish_lost", token)
    assert world.publish_row().token > token
    assert publish_status(world, token) == "error"
    assert no_buffers(world)


def test_another_publishes_while_clickhouse_still_inserts_for_one_whose_locks_session_was_ended(world: World) -> None:
    run_id = world.plan()
    world.deployment.start_worker(queues="plan,extract,backfill")
    world.deployment.until(lambda: world.publish_row().publish_state == "due", "all is loaded", PATIENCE_S)
    with slow_buffers(world):
        world.deployment.start_worker(queues="plan,publish")
        running = world.deployment.until(lambda: inserts(world), "ClickHouse fills the buffer", PATIENCE_S)
        token = int(running[0].split("-")[-2])
        (begun,) = world.deployment.journal("SELECT details FROM {j} WHERE details ->> 'token' = %s", str(token))
        zombie = int(begun.details["worker"].rsplit(":", 1)[1])
        os.kill(zombie, signal.SIGSTOP)
    try:
        assert end_sessions(world, PUBLISH_LOCK)
        assert inserts(world), "ClickHouse goes on"
        world.assert_exact(run_id, PATIENCE_S)
        assert not inserts(world)
        before = world.publish_row()
    finally:
        os.kill(zombie, signal.SIGCONT)

    world.deployment.until(lambda: line_of(world, "publish_lost", token), "the first one has noticed", PATIENCE_S)
    world.deployment.assert_exact(SINCE, UNTIL)
    assert world.publish_row() == before
    assert publish_status(world, token) == "error"
    assert no_buffers(world)


def test_sessions_are_ended_at_random_while_forty_slices_are_loaded(world: World) -> None:
    run_id = world.plan(PHX_INITIAL_SLICE_MIN="6")
    assert len(world.deployment.slices(run_id)) == 40
    world.deployment.start_worker()
    world.deployment.until(lambda: world.running(run_id), "loading has begun", PATIENCE_S)
    chosen = random.Random(5)
    ended = 0
    until = time.monotonic() + 8
    while time.monotonic() < until:
        pids = sorted(row.pid for row in world.deployment.journal(f"SELECT pid FROM pg_stat_activity WHERE {OURS}"))
        if pids:
            ended += end_sessions(world, f"pid = {chosen.choice(pids)}")
        time.sleep(0.2)
    assert ended > 5

    world.assert_exact(run_id, PATIENCE_S)

    assert len(world.deployment.slices(run_id)) == 40
    assert world.publish_row().published_gen == world.publish_row().loaded_gen
    assert "slice_crashed" not in log(world)
    assert "sweep_crashed" not in log(world)


# -- the server restarted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("when", ["loading", "publishing"])
def test_postgresql_is_restarted(world: World, how: str, when: str) -> None:
    held = hold_while(world, when)
    run_id = world.plan()
    world.deployment.start_worker()
    held.wait(timeout_s=PATIENCE_S)

    world.stack.stop("postgres") if how == "stop" else world.stack.kill("postgres")
    held.release()
    time.sleep(1.0)
    world.stack.start("postgres")

    world.assert_exact(run_id, PATIENCE_S)
    assert "PostgreSQL" in log(world), "nobody noticed: nothing was shown"
    assert no_buffers(world)


# -- a socket that has gone silent ------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["loading", "publishing"])
def test_the_journals_socket_is_silent_for_longer_than_the_lease(world: World, when: str) -> None:
    with relayed(world) as relay:
        held = hold_while(world, when)
        run_id = world.plan()
        world.deployment.start_worker(PG_DSN=relayed_dsn(world, relay))
        token = held.wait(timeout_s=PATIENCE_S).get("token")
        before = newest_in_raw(world), world.publish_row().published_gen
        relay.silence()
        time.sleep(LEASE_S + 1)
        held.release()
        if when == "loading":
            # Nobody answers, so it cannot know whether others own its slice by now: it stops before it writes.
            world.deployment.until(lambda: "slice_lost" in log(world), "the loader has stopped itself", PATIENCE_S)
            assert newest_in_raw(world) == before[0]
        relay.restore()

        world.assert_exact(run_id, PATIENCE_S)

        if when == "publishing":
            world.deployment.until(lambda: line_of(world, "publish_lost", token), "it has noticed", PATIENCE_S)
            assert publish_status(world, token) == "error"
        assert world.publish_row().published_gen > before[1]
        world.deployment.stop_workers()


def test_a_host_cut_off_amid_a_transaction_holds_nobody_up(world: World) -> None:
    with relayed(world) as relay:
        run_id = world.plan()
        # The run's and the partition's rows are locked, the slice's is to be next.
        relay.silence_at(b"SET loaded_gen = loaded_gen + 1")
        world.deployment.start_worker(PG_DSN=relayed_dsn(world, relay))
        world.deployment.until(lambda: silent(world), "a transaction stands still", PATIENCE_S)
        began = time.monotonic()
        world.deployment.start_worker()

        # The worker that is cut off takes messages as well, and holds each for the 30 s of its wait for the journal.
        world.assert_exact(run_id, PATIENCE_S)

        # Not the two hours after which PostgreSQL would ask by itself whether its client is still there.
        assert time.monotonic() - began < PATIENCE_S
        assert not silent(world)


def test_a_host_cut_off_amid_a_sweep_holds_nobody_up(world: World) -> None:
    with relayed(world) as relay:
        run_id = world.plan()
        with world.broker() as broker:
            broker.flushdb()  # so that nothing moves without a sweep
        relay.silence_at(b"pg_try_advisory_lock(hashtextextended('sweep ")
        world.deployment.start_worker(queues="plan", PG_DSN=relayed_dsn(world, relay))
        world.deployment.until(lambda: locks_of_sweeps(world), "the lock is held by a silent one", PATIENCE_S)
        began = time.monotonic()
        world.deployment.start_worker()

        world.assert_exact(run_id, PATIENCE_S)

        # 20 s until PostgreSQL ends the session; sweepers themselves bear a lock that is in the way for 120 s.
        assert time.monotonic() - began < 90


def test_no_wait_for_the_journal_is_without_an_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert database.WAIT_S <= 30
    monkeypatch.setattr(database, "WAIT_S", 1.0)
    with relayed(world) as relay:
        journal = Database(JournalConfig(relayed_dsn(world, relay), world.deployment.settings["JOURNAL_TABLE"]))
        with journal.transaction() as transaction:
            transaction.now()
        relay.silence()
        began = time.monotonic()
        with pytest.raises(Unreachable, match="has not answered"), journal.transaction() as transaction:
            transaction.now()
        with pytest.raises(Unreachable, match="does not answer"), journal.transaction() as transaction:
            transaction.now()
        assert time.monotonic() - began < 20
        journal.close()


# -- committed, and the answer lost -----------------------------------------------------------------------------------

LOST_ANSWERS = {
    "slice claimed": b"spent = s.spent + 1",
    "slice finished": b"SET state = 'done', finished_at",
    "publish claimed": b"target_gen = loaded_gen",
    "publish finished": b"published_gen = target_gen",
}


@pytest.mark.parametrize("step", LOST_ANSWERS)
def test_a_commits_answer_is_lost(world: World, step: str) -> None:
    generation = world.publish_row().loaded_gen
    tokens = world.deployment.journal("SELECT max(id) AS last FROM {j}")[0].last
    with relayed(world) as relay:
        run_id = world.plan()
        relay.cut_answer_to(LOST_ANSWERS[step], COMMIT)
        world.deployment.start_worker(PG_DSN=relayed_dsn(world, relay))

        slices = world.assert_exact(run_id, PATIENCE_S)

        assert relay.cuts == 1
        row = world.publish_row()
        # Each slice counts once, whoever asked twice.
        assert (row.loaded_gen, row.published_gen) == (generation + SLICES, generation + SLICES)
        extra = sum(one.attempt - 1 for one in slices)
        published = world.deployment.journal(
            "SELECT status FROM {j} WHERE process_name LIKE '%%:dedup' AND id > %s ORDER BY id", tokens
        )
        if step == "slice finished":
            world.deployment.until(lambda: "slice_lost" in log(world), "it has noticed", PATIENCE_S)
            assert world.deployment.journal("SELECT open_slices FROM {j}_run_partitions WHERE run_id = %s", run_id) == [
                (0,)
            ]
        elif step == "slice claimed":
            assert extra >= 1, "nobody knew of the claim: its lease ran out"
        elif step == "publish claimed":
            assert published[0].status == "error"
        else:
            world.deployment.until(lambda: "publish_lost" in log(world), "it has noticed", PATIENCE_S)
            assert published[0].status == "ok"
        world.deployment.stop_workers()


def test_a_plans_commit_whose_answer_is_lost_is_carried_out_all_the_same(world: World) -> None:
    last = world.deployment.runs()[-1].id
    with relayed(world) as relay:
        relay.cut_answer_to(b"unnest(", COMMIT)
        planner = world.deployment.start_plan(SINCE, UNTIL, PG_DSN=relayed_dsn(world, relay))
        _, said = planner.communicate(timeout=PATIENCE_S)
        assert planner.returncode == 1
        assert "Unreachable" in said
    (run,) = [run for run in world.deployment.runs() if run.id > last]
    assert world.waiting("backfill") == 0
    world.deployment.start_worker()

    world.assert_exact(run.id, PATIENCE_S)


# -- what the tests are made of ---------------------------------------------------------------------------------------


def hold_while(world: World, when: str) -> Armed:
    """A failpoint that holds the first slice with rows in hand, or the publish before it optimizes its buffer."""
    if when == "loading":
        return world.failpoints.arm("slice.frame_read", "hold", times=2)
    return world.failpoints.arm("publish.stage", "hold", stage="optimize_buf", when="before", shard=1)


@contextmanager
def relayed(world: World) -> Iterator[Relay]:
    """A relay before PostgreSQL."""
    with Relay(world.stack.config.port("postgres")) as relay:
        yield relay


def relayed_dsn(world: World, relay: Relay) -> str:
    """PG_DSN through the relay."""
    return world.deployment.settings["PG_DSN"].replace(f":{world.stack.config.port('postgres')}/", f":{relay.port}/")


def end_sessions(world: World, which: str) -> int:
    """End the PostgreSQL sessions for which ``which`` holds; how many there were."""
    ended = world.deployment.journal(f"SELECT pg_terminate_backend(pid) AS ended FROM pg_stat_activity WHERE {which}")
    return sum(row.ended for row in ended)


def silent(world: World) -> list[Any]:
    """Sessions of ours that hold a transaction open and have said nothing for a second."""
    return world.deployment.journal(
        f"SELECT pid FROM pg_stat_activity WHERE {OURS} AND state = 'idle in transaction' "
        "AND state_change < clock_timestamp() - interval '1 s'"
    )


def locks_of_sweeps(world: World) -> list[Any]:
    """Sessions that hold a lock for sweeps and have said nothing for a second."""
    return world.deployment.journal(
        "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted "
        "AND application_name LIKE 'etl_tasks lock: sweep%' AND state_change < clock_timestamp() - interval '1 s'"
    )


def publish_status(world: World, token: object) -> str:
    """How the publish under ``token`` ended, as the journal has it."""
    (row,) = world.deployment.journal("SELECT status FROM {j} WHERE details ->> 'token' = %s", str(token))
    return str(row.status)


@contextmanager
def slow_buffers(world: World) -> Iterator[None]:
    """A buffer that is made while the block runs takes a minute to be filled, row by row."""
    template = world.deployment.settings["CH_DEDUP_BUF_TABLE"]
    # A row of a window that no test loads: while RAW has such, a publish reads the rows and does not take whole parts.
    beside = f"SELECT 'beside', 1, toDateTime64('{NOON:%Y-%m-%d %H:%M:%S}', 3, 'UTC'), now64(3) - toIntervalHour(1)"
    world.deployment.each_shard(f"INSERT INTO {raw(world)} (c, t, opd, ingested_at) {beside}")
    names = [f"slow_{n}" for n in range(20)]
    slow = ", ".join(f"ADD CONSTRAINT {name} CHECK sleep(2.9) = 0" for name in names)
    world.deployment.each_shard(f"ALTER TABLE {template} {slow}")
    try:
        yield
    finally:
        quick = ", ".join(f"DROP CONSTRAINT {name}" for name in names)
        world.deployment.each_shard(f"ALTER TABLE {template} {quick}")
        world.deployment.each_shard(f"ALTER TABLE {raw(world)} DELETE WHERE c = 'beside' SETTINGS mutations_sync = 1")


def inserts(world: World) -> list[str]:
    """The query ids of publishes' INSERT SELECTs that run on the shards now."""
    answers = world.deployment.each_shard(
        "SELECT query_id FROM system.processes "
        "WHERE startsWith(query_id, 'etl-publish-') AND query ILIKE '%INSERT INTO%'"
    )
    return [query_id for rows in answers for (query_id,) in rows]


def newest_in_raw(world: World) -> Any:
    """The version of the rows that were read last, of those that are in RAW."""
    return world.deployment.query(f"SELECT max(ingested_at) FROM {world.deployment.raw_all}")


def log(world: World) -> str:
    """What the workers have said."""
    return world.deployment.worker_logs(2000)


def line_of(world: World, event: str, token: object) -> str:
    """The first line about this publish that tells of ``event``, else nothing."""
    return next((line for line in log(world).splitlines() if event in line and str(token) in line), "")
