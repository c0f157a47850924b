"""Workers asked to stop: politely, again, for good, and one after another for a whole run."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from devstack.worker import Worker
from tests.faults.world import LEASE_S, SLICES, SWEEP_S, World

WORK_S = 50.0
"""What starting a worker, loading and publishing take at most on a busy machine; what is lost for good takes hours."""


@pytest.mark.parametrize("signals", [1, 2], ids=["once", "twice"])
def test_a_worker_asked_to_stop_while_loading_spends_no_attempt(world: World, signals: int) -> None:
    run_id = world.plan()
    leaving = world.deployment.start_worker()
    with world.frozen("pqs"):
        given_up = loading(world, run_id)
        for _ in range(signals):
            # Celery's second SIGTERM changes nothing: an impatient `docker stop` or `kill` does no harm.
            leaving.process.terminate()
            time.sleep(0.5)
        # Their reads would hang for PHX_READ_TIMEOUT_S, 300 s: a stop is heard all the same.
        assert leaving.process.wait(30) == 0
    held = {one.id: one for one in world.deployment.slices(run_id)}
    for was in given_up:
        assert (held[was.id].state, held[was.id].spent, held[was.id].error_kind) == ("planned", 0, "WorkerStopping")
    assert not [one for one in held.values() if one.state == "running"], "nobody has to wait for a lease"
    world.deployment.start_worker()

    slices = world.assert_exact(run_id)

    assert [one.spent for one in slices] == [1] * SLICES


def test_a_worker_asked_to_stop_while_its_inserts_hang_spends_no_attempt(world: World) -> None:
    inserting = world.failpoints.arm("slice.inserting", "hold", times=2)
    run_id = world.plan()
    leaving = world.deployment.start_worker()
    inserting.wait(times=2)
    with world.frozen("clickhouse2"):
        inserting.release()
        time.sleep(1)
        leaving.process.terminate()
        # ClickHouse's own time-outs are 300 s and more.
        assert leaving.process.wait(60) == 0
    held = {one.id: one for one in world.deployment.slices(run_id)}
    for hit in inserting.hits():
        one = held[int(hit["slice"])]
        assert (one.state, one.spent, one.error_kind) == ("planned", 0, "WorkerStopping")
    world.deployment.start_worker()

    slices = world.assert_exact(run_id)

    assert [one.spent for one in slices] == [1] * SLICES


def test_a_publisher_asked_to_stop_while_clickhouse_hangs_spends_no_attempt(world: World) -> None:
    held = world.failpoints.arm("publish.stage", "hold", stage="insert_dedup", when="before", shard=2)
    run_id = world.plan()
    leaving = world.deployment.start_worker()
    held.wait()
    with world.frozen("clickhouse2"):
        held.release()
        time.sleep(1)
        leaving.process.terminate()
        assert leaving.process.wait(90) == 0
    row = world.publish_row()
    assert (row.publish_state, row.spent, row.error_kind) == ("due", 0, "WorkerStopping")
    world.deployment.start_worker()

    world.assert_exact(run_id)


def test_a_worker_asked_to_stop_ends_what_is_nearly_done(world: World) -> None:
    held = world.failpoints.arm("slice.inserted", "hold", times=2)
    run_id = world.plan()
    leaving = world.deployment.start_worker()
    held.wait(times=2)
    leaving.process.terminate()
    world.deployment.until(lambda: warned(leaving), "the worker stops warmly")
    held.release()
    assert leaving.process.wait(30) == 0
    states = {one.id: one.state for one in world.deployment.slices(run_id)}
    assert all(states[int(hit["slice"])] == "done" for hit in held.hits()), "their rows were in RAW already"
    world.deployment.start_worker()

    slices = world.assert_exact(run_id)

    assert [one.attempt for one in slices] == [1] * SLICES


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGTERM, signal.SIGQUIT), (signal.SIGQUIT,), (signal.SIGINT, signal.SIGINT)],
    ids=["TERM, then QUIT", "QUIT", "Ctrl-C twice"],
)
def test_a_cold_stop_recovers_by_the_lease(world: World, numbers: tuple[signal.Signals, ...]) -> None:
    run_id = world.plan()
    leaving = world.deployment.start_worker()
    with world.frozen("pqs"):
        given_up = loading(world, run_id)
        *before, last = numbers
        for number in before:
            leaving.process.send_signal(number)
            # Two signals that nobody has taken yet would be one.
            world.deployment.until(lambda: warned(leaving), "the worker stops warmly")
        leaving.process.send_signal(last)
        assert leaving.process.wait(20) is not None
        stopped_at = time.monotonic()
        left = [one.id for one in world.running(run_id)]
        assert left == [one.id for one in given_up], "nobody was there to give them back"
    world.deployment.start_worker()

    slices = world.assert_exact(run_id)

    assert time.monotonic() - stopped_at < LEASE_S + SWEEP_S + WORK_S
    assert {one.id: one.attempt for one in slices} == {one.id: 2 if one.id in left else 1 for one in slices}


def test_a_publisher_asked_to_stop_once_all_agreed_to_replace_ends_its_publish(world: World) -> None:
    held = world.failpoints.arm("publish.stage", "hold", stage="replace_clean", when="before")
    run_id = world.plan()
    leaving = world.deployment.start_worker()
    token = int(held.wait()["token"])
    leaving.process.terminate()
    time.sleep(6)
    held.release()
    assert leaving.process.wait(30) == 0
    row = world.publish_row()
    # All had agreed to replace when the stop came: then it is done, never half.
    assert (row.publish_state, row.token) == ("idle", token)
    world.deployment.start_worker()

    world.assert_exact(run_id)


def test_a_rolling_restart_through_a_whole_run_spends_no_attempt(world: World) -> None:
    run_id = world.plan(PHX_INITIAL_SLICE_MIN="6")
    restarts = 0
    with world.deployment.supervise(workers=2) as supervisor:
        world.deployment.until(lambda: world.running(run_id), "it is being loaded")
        # Each of these finds slices in hand, whose reads hang: they are given back.
        with world.frozen("pqs"):
            for _ in range(3):
                world.deployment.until(lambda: world.running(run_id), "something is in hand")
                supervisor.restart(f"worker_s{restarts % 2 + 1}")
                restarts += 1
        with slow(world, "pqs"):
            while world.deployment.journal("SELECT ts_end FROM {j} WHERE id = %s", run_id)[0].ts_end is None:
                supervisor.restart(f"worker_s{restarts % 2 + 1}")
                restarts += 1
                time.sleep(4)
                assert restarts < 40, world.deployment.describe()

        slices = world.assert_exact(run_id)

    assert "slice_given_back" in world.deployment.worker_logs(4000)
    assert len(slices) == 40
    assert [one.spent for one in slices] == [1] * len(slices)


def loading(world: World, run_id: int, slices: int = 2) -> Any:
    """So many slices that are being loaded: one a child."""
    return world.deployment.until(
        lambda: len(now := world.running(run_id)) == slices and now, f"{slices} are being loaded"
    )


@contextmanager
def slow(world: World, part: str, share: float = 0.1, round_s: float = 0.5) -> Iterator[None]:
    """A part of the stack runs only this share of the time."""
    ended = threading.Event()

    def turn() -> None:
        while not ended.is_set():
            world.stack.pause(part)
            ended.wait(round_s * (1 - share))
            world.stack.resume(part)
            ended.wait(round_s * share)

    thread = threading.Thread(target=turn, daemon=True, name=f"slow {part}")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(10)
        world.stack.resume(part)


def warned(worker: Worker) -> bool:
    """Whether the worker has said that it stops when its tasks have ended."""
    return "Warm shutdown" in worker.log.read_text(errors="replace")
