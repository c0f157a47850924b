"""A shard that dies, hangs, has no memory or ends a statement of a publish: CLEAN stays whole, another one follows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from devstack import clickhouse
from devstack.deployment import Deployment
from devstack.relay import Relay
from tests.faults.shards import (
    JSON_LOG,
    Watch,
    address_of,
    away_for_5_s,
    bring_back,
    clean,
    clean_volume,
    events,
    name_of,
    publish_rows,
    raw_volume,
)
from tests.faults.test_killed import no_buffers, shard_rows
from tests.faults.world import LEASE_S, PARTITION, SINCE, SWEEP_S, UNTIL, World

SETTINGS = JSON_LOG
WORK_S = 60.0
"""What the next publish and its pause before take at most on a busy machine, once the fault is over."""
PATIENCE_S = 6
TAG = "etl-publish-"
SLOW_STAGES = [("insert_dedup", "INSERT INTO"), ("optimize_buf", "OPTIMIZE TABLE")]
# REPLACE waits for a mutation of the partition to stop; this one changes nothing and cannot stop sooner.
SLEEPING_MUTATION = "ALTER TABLE {clean} UPDATE b = b WHERE NOT ignore(sleep(2.5)) SETTINGS mutations_sync = 0"
LITTLE_MEMORY = "<max_memory_usage>10000000<"


@pytest.fixture
def volumes(loaded: Deployment) -> Iterator[None]:
    """So many rows on shard 2 that a statement of a publish lasts; asked for before ``world``, whose reader they must
    not leave under.
    """
    with raw_volume(loaded, 2), clean_volume(loaded, 2):
        yield


@pytest.mark.parametrize(("stage", "words"), SLOW_STAGES)
def test_a_shard_killed_amid_a_statement_of_a_publish(volumes: None, world: World, stage: str, words: str) -> None:
    with Watch(world, 2) as watch:
        run_id = world.plan()
        world.deployment.start_worker()
        assert watch.wait_for(TAG, words)
        back_at = away_for_5_s(world, 2)

    assert_published_again(world, run_id, back_at, broken_in=stage, away=True)


def test_a_shard_killed_right_before_replace(world: World) -> None:
    held = world.failpoints.arm("publish.before_replace", "hold")
    run_id = world.plan()
    world.deployment.start_worker()
    held.wait()
    old = shard_rows(world, 0)
    world.stack.kill(name_of(2))
    held.release()
    world.deployment.until(lambda: events(world, "publish_failed"), "the publish has failed")
    # Each shard for itself: the one that is there is new, the other comes back old and whole.
    assert shard_rows(world, 0) != old
    time.sleep(5)
    back_at = bring_back(world, 2)

    assert_published_again(world, run_id, back_at, broken_in="replace_clean", away=True)


def test_a_shard_killed_amid_replace(world: World) -> None:
    held = world.failpoints.arm("publish.stage", "hold", stage="replace_clean", when="before", shard=2)
    run_id = world.plan()
    world.deployment.start_worker()
    held.wait()
    world.deployment.query(SLEEPING_MUTATION.format(clean=clean(world)), shard=1)
    with Watch(world, 2) as watch:
        wait_for_mutation(world)
        held.release()
        assert watch.wait_for(TAG, "REPLACE PARTITION")
        back_at = away_for_5_s(world, 2)

    assert_published_again(world, run_id, back_at, broken_in="replace_clean", away=True)


def test_a_replace_whose_answer_is_lost_is_done_again(world: World) -> None:
    held = world.failpoints.arm("publish.stage", "hold", stage="replace_clean", when="before", shard=2)
    old = shard_rows(world, 1)
    ports = [port for _, port in world.deployment.endpoints]
    with Relay(ports[0]) as first, Relay(ports[1]) as second:
        run_id = world.plan()
        world.deployment.start_worker(CH_HOSTS=f"127.0.0.1:{first.port},127.0.0.1:{second.port}")
        held.wait()
        world.deployment.query(SLEEPING_MUTATION.format(clean=clean(world)), shard=1)
        wait_for_mutation(world)
        with Watch(world, 2) as watch:
            held.release()
            watch.wait_for(TAG, "REPLACE PARTITION")
            second.mute()
        world.deployment.until(lambda: shard_rows(world, 1) != old, "the shard has replaced its partition")
        assert world.publish_row().publish_state == "running", "nobody has heard of it"
        applied = shard_rows(world, 1)
        second.cut()
        second.restore()
        cut_at = time.time()

        assert_published_again(world, run_id, cut_at, broken_in="replace_clean", of=f"127.0.0.1:{second.port}")

    assert shard_rows(world, 1) == applied, "the second REPLACE came to the same rows"


def test_a_shard_away_for_longer_than_the_patience_while_publishing(world: World) -> None:
    held = world.failpoints.arm("publish.claimed", "hold")
    run_id = world.plan()
    patient = world.deployment.start_worker()
    held.wait()
    assert {one.state for one in world.deployment.slices(run_id)} == {"done"}
    world.stack.kill(name_of(2))
    try:
        held.release()
        world.deployment.until(lambda: world.publish_row().error_kind == "Unreachable", "the publish has failed")
        impatient = world.deployment.start_worker(SOURCE_PATIENCE_S=str(PATIENCE_S))
        run = world.deployment.wait_for_run(run_id, timeout_s=PATIENCE_S + 60)

        assert run.status == "error"
        assert f"no progress for {PATIENCE_S} s (SOURCE_PATIENCE_S)" in run.details["error"]
        row = world.publish_row()
        assert address_of(world, 2) in row.last_error
        assert row.publish_state in ("due", "running"), "what is loaded is still owed"
        patient.stop()
        impatient.stop()
    finally:
        bring_back(world, 2)

    # No window is left to load: the publish that is owed becomes due, and that is all.
    said = world.deployment.cli("resume", str(run_id)).stdout
    assert str(PARTITION) in said
    world.deployment.start_worker()

    world.deployment.until(lambda: world.publish_row().publish_state == "idle", "it is published", timeout_s=60)
    world.deployment.assert_exact(SINCE, UNTIL)


@pytest.mark.parametrize("stage", ["insert_dedup", "replace_clean"])
def test_clickhouse_frozen_for_longer_than_a_lease_while_publishing(world: World, stage: str) -> None:
    held = world.failpoints.arm("publish.stage", "hold", stage=stage, when="before", shard=2)
    run_id = world.plan()
    world.deployment.start_worker()
    token = held.wait()["token"]
    with world.frozen(name_of(2)):
        held.release()
        time.sleep(2 * LEASE_S)
        row = world.publish_row()
        assert (row.publish_state, str(row.token)) == ("running", token)
    woken_at = time.time()

    world.assert_exact(run_id, timeout_s=120)

    assert finished_in_time(world, run_id, woken_at)
    assert str(world.publish_row().token) == token, "whoever waited for the answer has published"
    assert no_buffers(world)


@pytest.mark.parametrize(("stage", "words"), SLOW_STAGES)
def test_a_statement_of_a_publish_killed_by_somebody(volumes: None, world: World, stage: str, words: str) -> None:
    with Watch(world, 2) as watch:
        run_id = world.plan()
        world.deployment.start_worker()
        (statement, *_) = watch.wait_for(TAG, words)
        watch.kill(statement)
        killed_at = time.time()

    assert_published_again(world, run_id, killed_at, broken_in=stage, code="(394)")


def test_too_little_memory_for_a_publish_for_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = world.plan()
    world.deployment.start_worker(queues="plan,extract,backfill")
    world.deployment.until(lambda: world.publish_row().publish_state == "due", "all is loaded")
    with raw_volume(world.deployment, 2), little_memory(world, monkeypatch):
        publishing = world.deployment.start_worker(queues="publish")
        (failed, *_) = world.deployment.until(lambda: events(world, "publish_failed"), "the publish has failed")
        publishing.stop()  # it must not try again at a shard that is being started
    world.deployment.start_worker(queues="publish")
    back_at = time.time()

    assert failed["error_kind"] == "ResourceExhausted"
    assert_published_again(world, run_id, back_at, broken_in="insert_dedup", code="MEMORY_LIMIT_EXCEEDED (241)")


def test_too_little_memory_for_good_ends_the_run_with_the_reason(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = world.plan()
    loading = world.deployment.start_worker(queues="plan,extract,backfill")
    world.deployment.until(lambda: world.publish_row().publish_state == "due", "all is loaded")
    loading.stop()
    before = world.publish_row()
    with raw_volume(world.deployment, 2), little_memory(world, monkeypatch):
        publishing = world.deployment.start_worker(PUBLISH_MAX_ATTEMPTS="2")
        run = world.deployment.wait_for_run(run_id, timeout_s=180)
        publishing.stop()

    row = world.publish_row()
    assert run.status == "error"
    assert (row.publish_state, row.spent, row.attempt - before.attempt) == ("error", 2, 2)
    assert f"{address_of(world, 2)}: MEMORY_LIMIT_EXCEEDED (241)" in row.last_error
    assert row.published_gen == before.published_gen
    again = world.plan()
    world.deployment.start_worker()

    world.assert_exact(again, timeout_s=120)


@contextlib.contextmanager
def little_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shard 2 gives a statement 10 MB: enough for small questions, too little to read RAW with its repeats."""
    with monkeypatch.context() as patch:
        patch.setattr(clickhouse, "USERS", clickhouse.USERS.replace("<max_memory_usage>3000000000<", LITTLE_MEMORY))
        assert LITTLE_MEMORY in clickhouse.USERS
        world.stack.stop(name_of(2))
        world.stack.start(name_of(2))
        try:
            yield
        finally:
            patch.undo()
            world.stack.stop(name_of(2))
            world.stack.start(name_of(2))


def wait_for_mutation(world: World) -> None:
    """Wait until shard 2 is at its sleep."""
    world.deployment.until(
        lambda: world.deployment.query(
            "SELECT 1 FROM system.merges WHERE is_mutation AND database = %(database)s",
            {"database": world.deployment.settings["CH_DB"]},
            1,
        ),
        "the mutation runs",
    )


def finished_in_time(world: World, run_id: int, over_at: float) -> bool:
    """Whether the run ended within lease, sweep and work after the fault was over."""
    (run,) = world.deployment.journal("SELECT * FROM {j} WHERE id = %s", run_id)
    return bool(run.ts_end.timestamp() - over_at < LEASE_S + SWEEP_S + WORK_S)


def assert_published_again(
    world: World,
    run_id: int,
    over_at: float,
    *,
    broken_in: str,
    away: bool = False,
    code: str = "",
    of: str = "",
) -> None:
    """The publish broke in the stage ``broken_in``, with the shard's name and ``code`` said; a later one was right."""
    world.assert_exact(run_id, timeout_s=120)

    assert finished_in_time(world, run_id, over_at)
    # While the shard is away, it is asked for again and again.
    failed, *asked, published = publish_rows_since(world, run_id)
    assert [row.status for row in (failed, *asked, published)] == ["error"] * (1 + len(asked)) + ["ok"]
    assert away or not asked, "one publish broke, the next was right"
    (said, *_) = events(world, "publish_failed")
    assert (of or address_of(world, 2)) in said["error"], said["error"]
    assert code in said["error"], said["error"]
    assert broken_in not in [stage["stage"] for stage in failed.details.get("stages", [])], "this stage did not end"
    row = world.publish_row()
    assert (row.publish_state, row.spent) == ("idle", 0)
    assert no_buffers(world)


def publish_rows_since(world: World, run_id: int) -> list[Any]:
    """The journal rows of publishes that began after the run was planned."""
    return [row for row in publish_rows(world) if row.id > run_id]
