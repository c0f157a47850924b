"""A shard that dies, hangs, has no room or ends a statement while slices are loaded: waited for, repeated, or said."""

from __future__ import annotations

import time
from typing import Any

import pytest

from devstack.relay import Relay
from tests.faults.shards import (
    JSON_LOG,
    TOO_MANY_PARTS,
    Watch,
    address_of,
    away_for_5_s,
    bring_back,
    events,
    name_of,
    raw,
    raw_merges_stopped,
    slow_inserts,
    table_settings,
)
from tests.faults.world import LEASE_S, SLICES, SWEEP_S, World

SETTINGS = JSON_LOG
WORK_S = 60.0
"""What the rest of the work takes at most on a busy machine, once the fault is over."""
PATIENCE_S = 6


@pytest.mark.parametrize("shard", [1, 2])
def test_a_shard_killed_amid_an_insert_into_raw(world: World, shard: int) -> None:
    # Shard 1 is the head of CH_HOSTS, to whom inserts are sent; shard 2 gets its rows from shard 1.
    with slow_inserts(world, shard), Watch(world, shard) as watch:
        run_id = world.plan()
        world.deployment.start_worker()
        assert watch.wait_for(tag(run_id), "INSERT INTO")
        back_at = away_for_5_s(world, shard)

    slices = world.assert_exact(run_id, timeout_s=120)

    assert finished_in_time(world, run_id, back_at)
    broken = [one for one in slices if one.attempt > 1]
    assert broken, "somebody had to wait for the shard"
    assert all(one.error_kind == "Unreachable" and address_of(world, shard) in one.last_error for one in broken)
    assert [one.spent for one in slices] == [1] * SLICES, "an outage spends no attempt"


def test_a_shard_away_for_longer_than_the_patience_while_loading(world: World) -> None:
    world.stack.kill(name_of(2))
    try:
        run_id = world.plan()
        patient = world.deployment.start_worker()
        world.deployment.until(
            lambda: [one for one in world.deployment.slices(run_id) if one.last_error], "it is tried"
        )
        impatient = world.deployment.start_worker(SOURCE_PATIENCE_S=str(PATIENCE_S))
        run = world.deployment.wait_for_run(run_id, timeout_s=PATIENCE_S + 40)
        patient.stop()
        impatient.stop()
    finally:
        bring_back(world, 2)

    assert run.status == "error"
    assert f"no progress for {PATIENCE_S} s (SOURCE_PATIENCE_S)" in run.details["error"]
    slices = world.deployment.slices(run_id)
    assert {(one.state, one.error_kind) for one in slices} == {("error", "RunEnded")}
    told = [one for one in slices if address_of(world, 2) in one.last_error]
    assert told, "the last error of a slice names the shard"
    assert all("SOURCE_PATIENCE_S" in one.last_error for one in slices)
    world.deployment.start_worker()

    world.deployment.cli("resume", str(run_id))

    world.assert_exact(world.deployment.runs()[-1].id)
    assert world.deployment.runs()[-1].details["resumes"] == run_id


def test_an_insert_whose_answer_is_lost_is_repeated_and_clean_has_each_key_once(world: World) -> None:
    ports = [port for _, port in world.deployment.endpoints]
    with (
        Relay(ports[0]) as first,
        Relay(ports[1]) as second,
        raw_merges_stopped(world),
        Watch(world, 1) as watch,
        Watch(world, 2) as behind,
    ):
        with slow_inserts(world, 2):
            run_id = world.plan()
            hosts = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
            world.deployment.start_worker(concurrency=1, CH_HOSTS=hosts)
            # Shard 1 passes rows on only when it has them all: from then on nothing but the answer is to come.
            behind.wait_for(tag(run_id), "INSERT INTO")
            (insert,) = watch.running(tag(run_id), "INSERT INTO")
            first.mute()
            watch.wait_gone(insert)
        # All rows are there, and nobody has heard of it.
        (slice_id, attempt) = map(int, insert.removeprefix(tag(run_id)).split("-")[:2])
        (victim,) = [one for one in world.deployment.slices(run_id) if one.id == slice_id]
        assert (victim.state, victim.attempt) == ("running", attempt)
        assert repeats(world) == 0
        first.cut()
        first.restore()

        slices = world.assert_exact(run_id, timeout_s=120)

        (victim,) = [one for one in slices if one.id == slice_id]
        assert repeats(world) == victim.rows_inserted > 0, "its block came twice"
        assert [(one.attempt, one.spent) for one in slices] == [(1, 1)] * SLICES, "a repeat of a statement, no attempt"


def test_too_many_parts_for_a_while_spend_no_attempt(world: World) -> None:
    with raw_merges_stopped(world), table_settings(world, 2, raw(world), TOO_MANY_PARTS):
        run_id = world.plan()
        # Back-off is inside an attempt: it holds its worker slot, which is the back-pressure.
        world.deployment.start_worker(PHX_OVERLOAD_MAX_ATTEMPTS="50")
        tries = world.deployment.until(lambda: len(found := refused(world)) >= 6 and found, "inserts are refused")
        assert {one["action"] for one in tries} == {"retry"}
        assert {one.state for one in world.deployment.slices(run_id)} <= {"planned", "running"}
    gone_at = time.time()

    slices = world.assert_exact(run_id, timeout_s=120)

    assert finished_in_time(world, run_id, gone_at)
    assert [(one.attempt, one.spent) for one in slices] == [(1, 1)] * SLICES


def test_too_many_parts_that_stay_end_the_run_with_the_reason(world: World) -> None:
    published = world.publish_row().published_gen
    with raw_merges_stopped(world), table_settings(world, 2, raw(world), TOO_MANY_PARTS):
        run_id = world.plan()
        worker = world.deployment.start_worker(PHX_OVERLOAD_MAX_ATTEMPTS="2", SLICE_MAX_ATTEMPTS="2")
        run = world.deployment.wait_for_run(run_id, timeout_s=180)
        worker.stop()

    assert (run.status, run.details["failed_slices"]) == ("error", SLICES)
    slices = world.deployment.slices(run_id)
    assert [(one.state, one.spent, one.error_kind) for one in slices] == [("error", 2, "ResourceExhausted")] * SLICES
    assert all(f"{address_of(world, 1)}: TOO_MANY_PARTS (252)" in one.last_error for one in slices)
    assert len(refused(world)) == SLICES * 2 * 2, "two tries of each attempt, two attempts of each slice"
    assert world.publish_row().published_gen == published
    again = world.plan()
    world.deployment.start_worker()

    world.assert_exact(again, timeout_s=120)


@pytest.mark.parametrize("shard", [1, 2])
def test_an_insert_killed_by_somebody_is_tried_again(world: World, shard: int) -> None:
    with slow_inserts(world, shard), Watch(world, shard) as watch:
        run_id = world.plan()
        world.deployment.start_worker()
        (insert, *_) = watch.wait_for(tag(run_id), "INSERT INTO")
        watch.kill(insert)
        (failed, *_) = world.deployment.until(lambda: events(world, "slice_try_failed"), "the insert has failed")

    slices = world.assert_exact(run_id, timeout_s=120)

    assert "QUERY_WAS_CANCELLED (394)" in failed["reason"]
    assert failed["action"] == "reconnect"
    assert [(one.attempt, one.spent) for one in slices] == [(1, 1)] * SLICES, "tried again within its attempt"


@pytest.mark.parametrize("shard", [1, 2])
def test_clickhouse_frozen_for_longer_than_a_lease_while_loading(world: World, shard: int) -> None:
    with slow_inserts(world, shard), Watch(world, shard) as watch:
        run_id = world.plan()
        world.deployment.start_worker()
        assert watch.wait_for(tag(run_id), "INSERT INTO")
        with world.frozen(name_of(shard)):
            held = {one.id for one in world.running(run_id)}
            time.sleep(2 * LEASE_S)
            # Whoever waits for an answer still owns its slice: nobody else may read the window meanwhile.
            assert held
            assert held <= {one.id for one in world.running(run_id)}
        woken_at = time.time()

    slices = world.assert_exact(run_id, timeout_s=120)

    assert finished_in_time(world, run_id, woken_at)
    assert [(one.attempt, one.spent) for one in slices] == [(1, 1)] * SLICES


def tag(run_id: int) -> str:
    """What the query ids of the run's inserts begin with."""
    return f"etl-run-{run_id}-slice-"


def finished_in_time(world: World, run_id: int, over_at: float) -> bool:
    """Whether the run ended within lease, sweep and work after the fault was over."""
    (run,) = world.deployment.journal("SELECT * FROM {j} WHERE id = %s", run_id)
    return bool(run.ts_end.timestamp() - over_at < LEASE_S + SWEEP_S + WORK_S)


def refused(world: World) -> list[dict[str, Any]]:
    """The tries that ClickHouse refused because of its parts."""
    return [one for one in events(world, "slice_try_failed") if "TOO_MANY_PARTS (252)" in one["reason"]]


def repeats(world: World) -> int:
    """Rows of RAW that are there once more, in the same version."""
    ((rows,),) = world.deployment.query(
        f"SELECT count() - uniqExact(c, t, opd, ingested_at) FROM {world.deployment.raw_all}"
    )
    return int(rows)
