"""Turns to read the source, one at a time here: whoever waits hears everything, and nobody's turn is ever stuck."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.faults.world import LEASE_S, SLICES, SWEEP_S, World

SETTINGS = {"PHX_MAX_CONCURRENT_READS": "1"}
CHILDREN = 4
PATIENCE_S = 180.0
"""What starting a worker, loading and publishing take at most on a busy machine."""


def turns(world: World) -> list[Any]:
    """Everybody who reads or waits, readers first."""
    return world.deployment.journal("SELECT * FROM {j}_read_turns ORDER BY taken_at NULLS LAST, slice_id")


def all_wait_for_one(world: World) -> tuple[int, Any, list[Any]]:
    """A run one of whose slices is held amid its read: the run, the failpoint, and the turns of all four children."""
    held = world.failpoints.arm("slice.frame_read", "hold")
    run_id = world.plan()
    world.deployment.start_worker(concurrency=CHILDREN)
    held.wait()

    def everybody() -> list[Any]:
        found = turns(world)
        return found if len(found) == CHILDREN else []

    return run_id, held, world.deployment.until(everybody, "three children wait for the fourth")


def test_one_reads_the_others_wait_and_spend_nothing(world: World) -> None:
    run_id, held, found = all_wait_for_one(world)
    assert [turn.taken_at is not None for turn in found] == [True, False, False, False]
    # Longer than a lease: waiting, they renew it, and take nothing from the run's patience.
    moved = world.deployment.journal("SELECT progress_at FROM {j} WHERE id = %s", run_id)
    time.sleep(1.5 * LEASE_S)
    assert [turn.slice_id for turn in turns(world)] == [turn.slice_id for turn in found]
    assert world.deployment.journal("SELECT progress_at FROM {j} WHERE id = %s", run_id) == moved
    said = json.loads(world.deployment.cli("status", "--json").stdout)
    (reads,) = said["source_reads"]
    assert (reads["limit"], reads["in_use"], reads["waiting"]) == (1, 1, 3)
    held.release()

    slices = world.assert_exact(run_id, PATIENCE_S)

    assert [(one.attempt, one.spent, one.overloads) for one in slices] == [(1, 1, 0)] * SLICES
    waited_ms = {one.id: one.timings_ms.get("turn_wait", 0) for one in slices}
    first, *others = [turn.slice_id for turn in found]
    assert all(waited_ms[one] >= 1500 * LEASE_S for one in others)
    assert waited_ms[first] < min(waited_ms[one] for one in others)
    assert turns(world) == []


def test_who_waits_for_half_the_soft_time_limit_goes_back_and_spends_nothing(world: World) -> None:
    held = world.failpoints.arm("slice.frame_read", "hold")
    run_id = world.plan()
    world.deployment.start_worker(concurrency=2, TASK_SOFT_TIME_LIMIT_MIN="1", PHX_READ_TIMEOUT_S="20")
    held.wait()

    def gone_back() -> list[Any]:
        return [one for one in world.deployment.slices(run_id) if one.error_kind == "NoTurn"]

    (patient, *_) = world.deployment.until(gone_back, "it goes back after half a minute", timeout_s=50)
    assert (patient.spent, patient.overloads) == (0, 0)
    assert "no attempt is spent" in patient.last_error
    held.release()

    slices = world.assert_exact(run_id, PATIENCE_S)

    assert [one.spent for one in slices] == [1] * SLICES
    assert next(one.attempt for one in slices if one.id == patient.id) >= 2


def test_the_turn_of_a_killed_child_frees_itself_with_its_lease(world: World) -> None:
    armed = world.failpoints.arm("slice.frame_read", "kill", times=2)
    run_id = world.plan()
    world.deployment.start_worker(concurrency=CHILDREN)
    first = armed.wait()

    slices = world.assert_exact(run_id, PATIENCE_S)

    victims = {int(hit["slice"]) for hit in armed.hits()}
    assert sum(one.attempt for one in slices) == SLICES + 2
    assert {one.id for one in slices if one.attempt > 1} == victims
    (run,) = world.deployment.journal("SELECT ts_end FROM {j} WHERE id = %s", run_id)
    assert run.ts_end.timestamp() - float(first["at"]) < 2 * (LEASE_S + SWEEP_S) + PATIENCE_S
    assert turns(world) == []


def test_a_stop_is_heard_while_waiting_and_spends_no_attempt(world: World) -> None:
    run_id, _, found = all_wait_for_one(world)
    (leaving,) = world.deployment.workers
    leaving.process.terminate()
    assert leaving.process.wait(40) == 0
    rows = {one.id: one for one in world.deployment.slices(run_id)}
    for turn in found:
        one = rows[turn.slice_id]
        assert (one.state, one.spent, one.error_kind) == ("planned", 0, "WorkerStopping")
    world.failpoints.clear()
    world.deployment.start_worker(concurrency=CHILDREN)

    slices = world.assert_exact(run_id, PATIENCE_S)

    assert [one.spent for one in slices] == [1] * SLICES


def test_a_cancel_is_heard_while_waiting(world: World) -> None:
    run_id, held, found = all_wait_for_one(world)
    world.deployment.cli("cancel", str(run_id))

    waiting = {turn.slice_id for turn in found if turn.taken_at is None}

    def lost() -> bool:
        lines = world.deployment.worker_logs(lines=400).splitlines()
        return all(any("slice_lost" in line and f"slice={each} " in line for line in lines) for each in waiting)

    world.deployment.until(lost, "those that wait stop")
    held.release()
    again = world.plan()

    world.assert_exact(again, PATIENCE_S)


@pytest.mark.parametrize("away", ["postgres", "redis"])
def test_turns_outlive_the_services_that_keep_and_bring_them(world: World, away: str) -> None:
    """PostgreSQL restarts, or Redis forgets everything, while one reads and three wait."""
    run_id, held, _ = all_wait_for_one(world)
    if away == "postgres":
        world.stack.stop("postgres")
        world.stack.start("postgres")
    else:
        with world.broker() as client:
            client.flushall()
    held.release()

    slices = world.assert_exact(run_id, PATIENCE_S)

    assert len([one for one in slices if one.state == "done"]) == SLICES
    assert turns(world) == []
