"""Messages lost, doubled and late, beats and planners side by side: one run a lane, every slice once, ok and exact."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import psycopg2

from devstack.deployment import ROOT, Deployment, iso, midnight
from devstack.worker import beat_command
from tests.faults.world import PARTITION, SINCE, SLICES, UNTIL, World

MANUAL = {"since": iso(SINCE), "until": iso(UNTIL), "manual": True}
# As a beat finds its state file that was away for an hour.
OVERDUE = (
    "import sys; from datetime import timedelta; from celery.beat import PersistentScheduler; "
    "from etl_tasks.celery import app; scheduler = PersistentScheduler(app, schedule_filename=sys.argv[1]); "
    "scheduler.schedule['incremental'].last_run_at -= timedelta(hours=1); scheduler.close()"
)


def test_messages_left_unacknowledged_do_not_hide_that_others_are_lost(world: World) -> None:
    run_id = world.plan()
    with world.broker() as client:
        # As a worker leaves them whose host is gone: Redis hands them out again after the visibility time-out, 12 h.
        for text in client.lrange("backfill", 0, -1):  # type: ignore[union-attr]
            message = json.loads(text)
            tag = message["properties"]["delivery_tag"]
            client.hset("unacked", tag, json.dumps([message, "", "backfill"]))
            client.zadd("unacked_index", {tag: time.time()})
        client.delete("backfill")
        assert client.hlen("unacked") == SLICES
    world.deployment.start_worker()

    slices = world.assert_exact(run_id)

    assert [one.spent for one in slices] == [1] * SLICES, "a lost message spends no attempt"


def test_every_message_delivered_three_times_doubles_nothing(world: World) -> None:
    before = world.deployment.runs()[-1].id
    call(world, "plan_interval", "--kwargs", json.dumps(MANUAL))
    assert world.triple("plan") == 1
    planner = world.deployment.start_worker(queues="plan")
    run_id = world.deployment.wait_for_new_run(before)
    world.deployment.until(lambda: not world.waiting("plan"), "all three plans are taken")
    planner.stop()
    assert runs_after(world, before) == [(run_id, "running")], "one run, however often it was told"
    queued = world.waiting("backfill")
    assert queued >= SLICES
    assert world.triple("backfill") == queued
    for task, argument, queue in (("dedup_publish", PARTITION, "publish"), ("finalize_run", run_id, "plan")):
        call(world, task, "--args", json.dumps([argument]))
        # (The sweeper may have told of the same.)
        assert world.triple(queue) >= 1
    tokens = publishes(world)
    world.deployment.start_worker(concurrency=2)

    slices = world.assert_exact(run_id)

    assert [one.attempt for one in slices] == [1] * SLICES, "a second delivery claims nothing"
    assert sum(one.rows_inserted for one in slices) == len(world.deployment.expected(SINCE, UNTIL))
    world.deployment.until(lambda: not world.waiting("backfill"), "the rest of the messages is dropped")
    assert [one.attempt for one in world.deployment.slices(run_id)] == [1] * SLICES
    assert publishes(world) == tokens + 1, "published once, whoever else was told to"


def test_a_plan_delivered_again_after_its_run_ended_returns_that_run(world: World) -> None:
    before = world.deployment.runs()[-1].id
    call(world, "plan_interval", "--kwargs", json.dumps(MANUAL))
    with world.broker() as client:
        (message,) = client.lrange("plan", 0, -1)  # type: ignore[misc]
    worker = world.deployment.start_worker()
    run_id = world.deployment.wait_for_new_run(before)
    slices = world.assert_exact(run_id)
    ended = world.deployment.journal("SELECT * FROM {j} WHERE id = %s", run_id)
    again = json.loads(message)
    with world.broker() as client:
        result = f"celery-task-meta-{again['headers']['id']}"
        world.deployment.until(lambda: client.get(result), "the first delivery has answered")
        client.delete(result)
        again["properties"]["delivery_tag"] = "a second delivery"
        client.lpush("plan", json.dumps(again))

        answer = json.loads(world.deployment.until(lambda: finished(client.get(result)), "the second one answers"))

    assert (answer["status"], answer["result"]) == ("SUCCESS", run_id)
    time.sleep(2)  # (sweeps that would send what it had planned anew)
    assert runs_after(world, before) == [(run_id, "ok")]
    assert world.deployment.journal("SELECT * FROM {j} WHERE id = %s", run_id) == ended
    assert world.deployment.slices(run_id) == slices
    assert worker.process.poll() is None


def test_a_chord_without_its_bookkeeping_is_published_all_the_same(world: World) -> None:
    held = world.failpoints.arm("slice.frame_read", "hold", times=2)
    run_id = world.plan()
    world.deployment.start_worker()
    held.wait(times=2)
    with world.broker() as client:
        # The size and the results that the chord counts by: without them it never sends its body.
        bookkeeping: list[bytes] = [*client.scan_iter("celery-taskset-meta-*"), *client.scan_iter("*.s")]
        assert bookkeeping, f"no chord is under way: {client.keys('*')!r}"
        client.delete(*bookkeeping)
    held.release()

    slices = world.assert_exact(run_id)

    assert [one.attempt for one in slices] == [1] * SLICES


def test_two_beats_that_fire_at_once_start_one_run(world: World) -> None:
    deployment = world.deployment
    deployment.settings.update(STEP_MIN="1", PHX_INITIAL_SLICE_MIN="240")
    deployment.start_worker()
    world.assert_exact(deployment.plan(SINCE, UNTIL, manual=False))  # (the schedule's watermark)
    before = deployment.runs()[-1].id
    with ExitStack() as beats:
        with planners_held(deployment, deployment.settings["PROCESS_NAME"]) as waiting:
            for number in (1, 2):
                beats.enter_context(beat(deployment, f"beat{number}"))
            deployment.until(lambda: waiting() == 2, "both beats' plans are at the journal")
        deployment.until(lambda: len(runs_after(world, before)) == 2, "both have got their answer")
        (ours,) = [run for run in deployment.runs() if run.id > before and run.status != "skipped"]

        world.assert_exact(ours.id, since=UNTIL, until=midnight(0))

    (other,) = [run for run in deployment.runs() if run.id > before and run.id != ours.id]
    assert (other.status, other.manual, ours.manual) == ("skipped", False, False)
    assert f"has an active run already: run {ours.id}" in other.details["reason"]
    assert deployment.slices(other.id) == []
    slices = deployment.slices(ours.id)
    assert [one.attempt for one in slices] == [1] * len(slices)
    assert sum(one.rows_inserted for one in slices) == len(deployment.expected(UNTIL, midnight(0) + timedelta(days=2)))


def test_planners_at_once_for_one_lane_make_one_run(world: World) -> None:
    deployment = world.deployment
    before = deployment.runs()[-1].id
    with planners_held(deployment, f"manual_{deployment.settings['PROCESS_NAME']}") as waiting:
        planners = [deployment.start_plan(SINCE, UNTIL) for _ in range(3)]
        deployment.until(lambda: waiting() == 3, "all are at the journal")
    told = {int(planner.communicate(timeout=60)[0].splitlines()[-1]) for planner in planners}
    found = dict(runs_after(world, before))
    assert told == set(found), "each was told a run of its own"
    assert sorted(found.values()) == ["running", "skipped", "skipped"]
    (run_id,) = [run for run, status in found.items() if status == "running"]
    assert world.waiting("backfill") == SLICES
    deployment.start_worker()

    slices = world.assert_exact(run_id)

    assert [one.attempt for one in slices] == [1] * SLICES
    assert sum(one.rows_inserted for one in slices) == len(deployment.expected(SINCE, UNTIL))
    for run in found.keys() - {run_id}:
        assert deployment.slices(run) == []


def call(world: World, task: str, *arguments: str) -> None:
    """Send a task as an operator does."""
    world.deployment.celery("call", f"etl_tasks.{task}", *arguments)


def finished(meta: Any) -> Any:
    """The stored result once it is more than "started", else None."""
    return meta if meta and json.loads(meta)["status"] != "STARTED" else None


def runs_after(world: World, before: int) -> list[tuple[int, str]]:
    """Id and status of the runs after ``before``."""
    return [(run.id, run.status) for run in world.deployment.runs() if run.id > before]


def publishes(world: World) -> int:
    """How many publishes the journal knows of."""
    return int(world.deployment.journal("SELECT count(*) FROM {j} WHERE process_name LIKE '%:dedup'")[0].count)


@contextmanager
def planners_held(deployment: Deployment, process_name: str) -> Iterator[Any]:
    """Whoever plans for the process waits at the journal until the block ends; yields a count of those that wait."""
    connection = psycopg2.connect(deployment.settings["PG_DSN"])
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (process_name,))
        yield (
            lambda: (
                deployment.journal("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")[0].count
            )
        )
    finally:
        connection.close()


@contextmanager
def beat(deployment: Deployment, name: str) -> Iterator[None]:
    """A beat of its own whose next plan is due at once."""
    state = deployment.scratch / f"{name}.state"
    made = subprocess.run(
        [sys.executable, "-c", OVERDUE, str(state)],
        cwd=ROOT,
        env=deployment.process_env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    with (deployment.scratch / f"worker_{name}.log").open("w") as log:
        process = subprocess.Popen(
            beat_command(state), cwd=ROOT, env=deployment.process_env, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield
    finally:
        assert process.poll() is None, "the beat has ended by itself"
        process.terminate()
        process.wait(20)
