"""Whoever is killed (SIGKILL), wherever it happens to be: the run ends ok and exact, and the next one takes over."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.faults.world import LEASE_S, PARTITION, SINCE, SLICES, SWEEP_S, UNTIL, World

STAGES = ["drop_buf", "attach_clean", "insert_dedup", "optimize_buf", "check", "replace_clean", "drop_buf_cleanup"]
STEPS = [*((stage, "before") for stage in STAGES), (STAGES[-1], "after")]
WORK_S = 50.0
"""What loading and publishing these rows takes at most on a busy machine, a worker's start included."""


@pytest.mark.parametrize("place", ["slice.claimed", "slice.frame_read", "slice.inserted", "slice.finished"])
def test_a_child_killed_at_a_slice(world: World, place: str) -> None:
    armed = world.failpoints.arm(place)
    run_id = world.plan()
    world.deployment.start_worker()

    slices = world.assert_exact(run_id)

    (hit,) = armed.hits()
    (victim,) = [one for one in slices if one.id == int(hit["slice"])]
    # Only what was not in the journal yet is done again.
    assert victim.attempt == (1 if place == "slice.finished" else 2)
    assert [one.attempt for one in slices if one.id != victim.id] == [1] * (SLICES - 1)
    assert recovered_in_s(world, run_id, hit) < LEASE_S + SWEEP_S + WORK_S


def test_a_child_killed_between_a_splits_commit_and_its_messages(world: World) -> None:
    armed = world.failpoints.arm("slice.split")
    run_id = world.plan()
    world.deployment.start_worker(concurrency=1)
    with world.frozen("pqs"):
        world.deployment.until(lambda: world.stack.unread_bytes("pqs"), "the source has been asked")
        (late, *_) = world.running(run_id)
        # The soft time limit amid a read, as the worker's main tells it: the slice is split.
        os.kill(int(late.worker.rsplit(":", 1)[1]), signal.SIGUSR1)
        assert int(armed.wait()["slice"]) == late.id

    slices = world.assert_exact(run_id)

    halves = [one for one in slices if one.parent_id == late.id]
    assert [one.state for one in slices if one.id == late.id] == ["split"]
    # The sweeper sent what nobody had; how often depends on how soon a worker says that it has taken it.
    assert [one.attempt for one in halves] == [1, 1]


@pytest.mark.parametrize(("stage", "when"), STEPS)
def test_a_publisher_killed_between_any_two_steps(world: World, stage: str, when: str) -> None:
    armed = world.failpoints.arm("publish.stage", stage=stage, when=when)
    run_id = world.plan()
    world.deployment.start_worker()

    world.assert_exact(run_id)

    (hit,) = armed.hits()
    assert recovered_in_s(world, run_id, hit) < LEASE_S + SWEEP_S + WORK_S
    assert world.publish_row().token > int(hit["token"])
    assert no_buffers(world)


@pytest.mark.parametrize("place", ["publish.claimed", "publish.before_replace", "publish.done", "publish.finished"])
def test_a_publisher_killed_around_its_steps(world: World, place: str) -> None:
    armed = world.failpoints.arm(place)
    run_id = world.plan()
    world.deployment.start_worker()

    world.assert_exact(run_id)

    assert len(armed.hits()) == 1
    assert no_buffers(world)


def test_a_publisher_killed_after_replace_on_one_shard_only(world: World) -> None:
    # Both are held before it, so that the second has come there when the first one replaces and dies.
    first = world.failpoints.arm("publish.stage", "hold", stage="replace_clean", when="before", shard=1)
    late = world.failpoints.arm("publish.stage", "hold", stage="replace_clean", when="before", shard=2)
    world.failpoints.arm("publish.stage", "kill", stage="replace_clean", when="after", shard=1)
    old = shard_rows(world, 0), shard_rows(world, 1)
    run_id = world.plan()
    world.deployment.start_worker()
    token = late.wait()["token"]
    first.wait()
    first.release()
    world.deployment.until(lambda: not alive(late.hits()[0]["pid"]), "the publisher is killed")
    # The half state is really there: shard 1 has the new rows, shard 2 the old ones, each of them whole.
    assert shard_rows(world, 0) != old[0]
    assert shard_rows(world, 1) == old[1]

    world.assert_exact(run_id)

    assert world.publish_row().token > int(token)
    assert no_buffers(world)


def test_the_last_step_of_a_run_killed_before_it_ends_it(world: World) -> None:
    armed = world.failpoints.arm("finalize")
    run_id = world.plan()
    # The sweeper may be the one that ends the run, and it lives in the worker's main process.
    with world.deployment.supervise(workers=1):
        world.assert_exact(run_id)

    assert len(armed.hits()) == 1


def test_a_planner_killed_between_its_commit_and_the_first_message(world: World) -> None:
    armed = world.failpoints.arm("plan.committed")
    planner = world.deployment.start_plan(SINCE, UNTIL)
    planner.communicate(timeout=60)
    assert planner.returncode == -signal.SIGKILL
    run_id = int(armed.hits()[0]["run"])
    assert world.waiting("backfill") == 0
    # Nobody takes the slices yet, so each is sent once and no more.
    world.deployment.start_worker(queues="plan")
    world.deployment.until(
        lambda: all(one.sends for one in world.deployment.slices(run_id)), "the sweeper sends what nobody had"
    )
    assert world.waiting("backfill") == SLICES
    assert [one.sends for one in world.deployment.slices(run_id)] == [1] * SLICES
    world.deployment.start_worker()

    slices = world.assert_exact(run_id)

    assert [one.attempt for one in slices] == [1] * SLICES


def test_a_planning_task_killed_between_its_commit_and_the_first_message(world: World) -> None:
    armed = world.failpoints.arm("plan.committed")
    world.deployment.start_worker()
    world.deployment.celery(
        "call",
        "etl_tasks.plan_interval",
        "--kwargs",
        f'{{"since": "{SINCE.isoformat()}", "until": "{UNTIL.isoformat()}", "manual": true}}',
    )
    run_id = int(armed.wait()["run"])

    world.assert_exact(run_id)

    later = [run for run in world.deployment.runs() if run.id > run_id]
    assert later == [], "the plan that Redis hands out again finds its run"


def test_a_worker_killed_whole_is_started_again_by_its_supervisor(world: World) -> None:
    run_id = world.plan()
    with world.deployment.supervise(workers=1) as supervisor:
        with world.frozen("pqs"):
            world.deployment.until(lambda: len(world.running(run_id)) == 2, "two slices are being loaded")
            killed = supervisor.pid("worker_s1")
            assert supervisor.signal("worker_s1", signal.SIGKILL)
            assert supervisor.wait_restarted("worker_s1", killed) != killed

        world.assert_exact(run_id)


def recovered_in_s(world: World, run_id: int, hit: dict[str, Any]) -> float:
    """Seconds from the kill to the run's end; one clock for both, it is one machine."""
    run = world.deployment.journal("SELECT extract(epoch FROM ts_end) AS ended FROM {j} WHERE id = %s", run_id)[0]
    return float(run.ended) - float(hit["at"])


def shard_rows(world: World, shard: int) -> list[Any]:
    """CLEAN's rows of the day on one shard, in order."""
    table = world.deployment.settings["CH_CLEAN_TABLE"]
    return world.deployment.query(
        f"SELECT * FROM {table} WHERE toYYYYMMDD(opd) = {PARTITION} ORDER BY ALL", None, shard
    )


def no_buffers(world: World) -> bool:
    """Whether no publish left a buffer behind."""
    database, _, table = world.deployment.settings["CH_DEDUP_BUF_TABLE"].partition(".")
    found = world.deployment.each_shard(
        f"SELECT name FROM system.tables WHERE database = '{database}' AND startsWith(name, '{table}_')"
    )
    return found == [[], []]


def alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
