"""Redis dies, forgets, fills, evicts, restarts: what it loses the journal and the sweeper make good."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from tests.faults.world import SLICES, SWEEP_S, UNTIL, World

FULL = {"maxmemory-policy": "noeviction", "maxmemory": "1"}


def test_killed_without_persistence_and_started_empty(world: World) -> None:
    held = world.failpoints.arm("slice.frame_read", "hold", times=2)
    run_id = world.plan()
    world.deployment.start_worker()
    held.wait(times=2)
    with world.broker() as client:
        assert client.hlen("unacked") >= 2
        lost = world.waiting("backfill")
        assert lost > 0
        client.set("remembered", 1)

    kill_and_forget(world)

    with world.broker() as client:
        assert not client.exists("remembered"), "Redis has kept what it was to lose"
    # Both children are held, so nothing that was sent is claimed.
    again = world.deployment.until(lambda: sent_again(world, run_id), "all that waited in Redis is sent again")
    assert again >= lost
    held.release()
    slices = world.assert_exact(run_id)
    assert [one.spent for one in slices] == [1] * SLICES, "what Redis loses spends no attempt"


def test_flushed_with_a_hundred_slices_queued(world: World) -> None:
    held = world.failpoints.arm("slice.frame_read", "hold", times=2)
    run_id = world.plan(PHX_INITIAL_SLICE_MIN="2")
    world.deployment.start_worker()
    held.wait(times=2)
    assert world.waiting("backfill") >= 100
    with world.broker() as client:
        client.flushall()
    flushed_at = time.monotonic()
    lost = world.deployment.until(lambda: sent_again(world, run_id), "all are sent again")
    # The believed shortfall is everything, and it is due as soon as the queue is seen to be empty: a few sweeps.
    assert time.monotonic() - flushed_at < 5 * SWEEP_S + 10
    held.release()

    slices = world.assert_exact(run_id)

    assert lost >= 100
    assert [one.spent for one in slices] == [1] * len(slices)


def test_down_while_a_run_is_planned(world: World) -> None:
    world.stack.stop("redis")
    try:
        run_id = world.plan()
        assert [one.enqueued_at for one in world.deployment.slices(run_id)] == [None] * SLICES
    finally:
        world.stack.start("redis")
    # Nobody takes the slices yet, so each is sent once and no more.
    world.deployment.start_worker(queues="plan")
    world.deployment.until(
        lambda: all(one.sends for one in world.deployment.slices(run_id)), "the sweeper sends what nobody had"
    )
    assert [one.sends for one in world.deployment.slices(run_id)] == [1] * SLICES
    world.deployment.start_worker()

    slices = world.assert_exact(run_id)

    assert [(one.attempt, one.spent) for one in slices] == [(1, 1)] * SLICES


def test_restarted_three_times_with_messages_unacknowledged(world: World) -> None:
    # Slices as they are being loaded keep their messages unacknowledged throughout.
    held = world.failpoints.arm("slice.frame_read", "hold", times=4)
    run_id = world.plan()
    with world.deployment.supervise(workers=2) as supervisor:
        held.wait(times=4)
        for _ in range(3):
            with world.broker() as client:
                assert client.hlen("unacked") >= 4
            world.stack.stop("redis")
            world.stack.start("redis")
            time.sleep(2)
        held.release()

        world.assert_exact(run_id)

        assert all(supervisor.pid(f"worker_s{number}") for number in (1, 2)), "who ends is started again"


def test_full_while_a_year_is_planned(world: World) -> None:
    since = UNTIL - timedelta(days=365)
    with redis_with(world, **FULL):
        refused = refusals(world)
        run_id = world.plan(since, UNTIL, PHX_INITIAL_SLICE_MIN="1440", PARTITIONS_IN_FLIGHT="100")
        assert refusals(world) > refused, "Redis has refused nothing"
        (run,) = world.deployment.journal("SELECT * FROM {j} WHERE id = %s", run_id)
        assert (run.status, run.ts_end) == ("planned", None)
        slices = world.deployment.slices(run_id)
        assert len(slices) == 366
        assert {one.enqueued_at for one in slices} == {None}
        world.deployment.start_worker(queues="plan")
        said = world.deployment.until(lambda: lines(world, "dispatch_failed"), "the sweeper is refused too")
        assert "Redis is full" in said[0], said[0]
    world.deployment.until(lambda: world.waiting("backfill") == 100, "the next sweep sends what is due")

    # A message is written down when it has been sent.
    sent = world.deployment.until(
        lambda: sum(one.sends for one in world.deployment.slices(run_id)), "the sweep says what it has sent"
    )
    assert sent == 100


def test_full_while_messages_are_under_way(world: World) -> None:
    held = world.failpoints.arm("slice.frame_read", "hold", times=2)
    run_id = world.plan()
    with world.deployment.supervise(workers=1) as supervisor:
        held.wait(times=2)
        pid = supervisor.pid("worker_s1")
        with redis_with(world, **FULL):
            refused = refusals(world)
            held.release()
            world.deployment.until(lambda: refusals(world) > refused + 3, "Redis refuses what it is sent")
            time.sleep(3)

        world.assert_exact(run_id)

        assert supervisor.pid("worker_s1") == pid, "the worker has gone on"


def test_evicting_whatever_it_holds(world: World) -> None:
    held = world.failpoints.arm("slice.frame_read", "hold", times=2)
    run_id = world.plan(PHX_INITIAL_SLICE_MIN="4")
    worker = world.deployment.start_worker()
    held.wait(times=2)
    with world.broker() as client:
        used = int(client.info("memory")["used_memory"])  # type: ignore[index]
        before = evicted(client)
    with redis_with(world, **{"maxmemory-policy": "allkeys-random", "maxmemory": str(used - 8000)}):
        held.release()
        with world.broker() as client:
            world.deployment.until(lambda: evicted(client) > before, "something is evicted")
        time.sleep(5)

    # With nothing left to evict Redis refuses whatever needs memory, so the run ends when there is room again.
    slices = world.assert_exact(run_id, timeout_s=120)

    assert len(slices) == 60
    assert [one.spent for one in slices] == [1] * len(slices)
    assert any(one.sends > 1 for one in slices), "no message has vanished"
    assert worker.process.poll() is None


def kill_and_forget(world: World) -> None:
    """``kill -9`` Redis and start it as one that persists nothing: empty."""
    world.stack.kill("redis")
    files = [path for path in (world.stack.config.state_dir / "redis").iterdir() if path.suffix in (".aof", ".rdb")]
    assert files, "Redis of the stack persists nothing as it is"
    for path in files:
        path.unlink()
    world.stack.start("redis")


@contextmanager
def redis_with(world: World, **settings: str) -> Iterator[None]:
    """Redis with other settings until the end of the block."""
    with world.broker() as client:
        before = {name: client.config_get(name)[name] for name in settings}  # type: ignore[index]
        for name, value in settings.items():
            client.config_set(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                client.config_set(name, value)


def refusals(world: World) -> int:
    """How often Redis has said that it is full."""
    with world.broker() as client:
        counts: dict[str, Any] = client.info("errorstats")  # type: ignore[assignment]
    return int(counts.get("errorstat_OOM", {}).get("count", 0))


def evicted(client: Any) -> int:
    """How many keys Redis has thrown away for want of memory."""
    return int(client.info("stats")["evicted_keys"])


def sent_again(world: World, run_id: int) -> int:
    """How many slices were sent twice, once all are that nobody has claimed; until then 0."""
    states = [one for one in world.deployment.slices(run_id) if one.state == "planned"]
    return len(states) if all(one.sends > 1 for one in states) else 0


def lines(world: World, event: str) -> list[str]:
    """Lines of the workers' logs with this event."""
    return [line for line in world.deployment.worker_logs(2000).splitlines() if event in line]
