"""A child that is stopped, passed over and goes on: the loader changes nothing that counts, the publisher nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from devstack.dataset import indexes_between
from devstack.deployment import ms
from devstack.oracle import Change, Late
from tests.faults.conftest import VERSIONS
from tests.faults.test_killed import no_buffers
from tests.faults.world import PARTITION, SINCE, SPEC, UNTIL, World

# A statement that the frozen one had half sent stays in ClickHouse, and is waited for, until ARRIVAL_S has passed.
pytestmark = pytest.mark.timeout(1500)
PATIENCE_S = 240.0
"""For what takes seconds on a quiet machine."""
LOADING = "plan,extract,backfill"
PUBLISH_PLACES: list[tuple[str, dict[str, Any]]] = [
    ("publish.stage", {"stage": "insert_dedup", "when": "before", "shard": 1}),
    ("publish.stage", {"stage": "optimize_buf", "when": "before", "shard": 2}),
    ("publish.before_replace", {}),
    ("publish.stage", {"stage": "replace_clean", "when": "before", "shard": 1}),
    ("publish.stage", {"stage": "replace_clean", "when": "before", "shard": 2}),
]


@pytest.mark.parametrize("place", ["slice.frame_read", "slice.inserting"])
def test_a_loader_that_wakes_with_older_rows_in_hand(world: World, place: str) -> None:
    stopped = world.failpoints.arm(place, "stop")
    run_id = world.plan()
    world.deployment.start_worker(queues=LOADING)
    hit = stopped.wait(timeout_s=PATIENCE_S)
    (held,) = [one for one in world.deployment.slices(run_id) if one.id == int(hit["slice"])]
    # What it has read gets newer values. Its successor reads those, and both versions wait in RAW for one publish: it
    # has to choose.
    change_all(world, held)
    world.deployment.until(lambda: world.publish_row().publish_state == "due", "all is loaded, by others", PATIENCE_S)
    with merges_stopped(world):
        newest = raw_rows(world, held)

        # A block on its way has a second before it is ended, which is too short on a busy machine: here it arrives.
        ids = {"slice": held.id, "attempt": int(hit["attempt"])}
        abandoning = world.failpoints.arm("slice.abandoning", "hold", **ids)

        stopped.resume()

        if place == "slice.inserting":
            world.deployment.until(lambda: raw_rows(world, held) > newest, "the older rows are there", PATIENCE_S)
        abandoning.release()
        world.deployment.until(lambda: "slice_lost" in log(world), "the woken one has noticed", PATIENCE_S)
        late = raw_rows(world, held) - newest
    # Amid its reading it asks whether it is still the owner. What it had begun to send arrives, and is older.
    assert late == 0 if place == "slice.frame_read" else late > 0
    world.deployment.start_worker(queues="plan,publish")
    slices = world.assert_exact(run_id, PATIENCE_S)
    (again,) = [one for one in slices if one.id == held.id]
    assert again.attempt >= 2
    # The same window once more: what the zombie left in RAW does not come back.
    world.assert_exact(world.plan(held.window_from, held.window_to), PATIENCE_S)


@pytest.mark.parametrize(("place", "where"), PUBLISH_PLACES)
def test_a_publisher_that_wakes_after_others_have_published_newer_rows(
    world: World, place: str, where: dict[str, Any]
) -> None:
    stopped = world.failpoints.arm(place, "stop", **where)
    run_id = world.plan()
    world.deployment.start_worker()
    hit = stopped.wait(timeout_s=PATIENCE_S)
    world.assert_exact(run_id, PATIENCE_S)
    # Newer rows than in the buffer that it goes on with: were it let, CLEAN would go back to the older ones.
    world.change(next(VERSIONS))
    world.assert_exact(world.plan(), PATIENCE_S)

    wakes_and_changes_nothing(world, int(hit["token"]), stopped.resume)


def test_a_publisher_stopped_while_clickhouse_works_for_it(world: World) -> None:
    run_id = world.plan()
    world.deployment.start_worker(queues=LOADING)
    world.deployment.until(lambda: world.publish_row().publish_state == "due", "all is loaded", PATIENCE_S)
    with world.frozen("clickhouse2"):
        world.deployment.start_worker(queues="plan,publish")
        world.deployment.until(
            lambda: world.publish_row().publish_state == "running", "the publish has begun", PATIENCE_S
        )
        (begun,) = world.deployment.journal(
            "SELECT details FROM {j} WHERE process_name LIKE '%:dedup' AND ts_end IS NULL"
        )
        zombie = int(begun.details["worker"].rsplit(":", 1)[1])
        os.kill(zombie, signal.SIGSTOP)
    try:
        world.assert_exact(run_id, PATIENCE_S)
    except BaseException:
        os.kill(zombie, signal.SIGCONT)
        raise

    wakes_and_changes_nothing(world, int(begun.details["token"]), lambda: os.kill(zombie, signal.SIGCONT))


def wakes_and_changes_nothing(world: World, token: int, wake: Callable[[], None]) -> None:
    """Wake the publisher under ``token``; AssertionError unless it gives up and CLEAN and journal stay as they are."""
    before = world.publish_row()
    assert before.token > token

    wake()

    world.deployment.until(
        lambda: any("publish_lost" in line and str(token) in line for line in log(world).splitlines()),
        "the woken one has noticed",
        PATIENCE_S,
    )
    world.deployment.assert_exact(SINCE, UNTIL)
    assert world.publish_row() == before
    assert no_buffers(world)
    (left,) = world.deployment.journal("SELECT * FROM {j} WHERE details ->> 'token' = %s", str(token))
    assert (left.status, "died" in left.details["error"]) == ("error", True)


def change_all(world: World, held: Any) -> None:
    """Every row of the slice's window gets new values, and one key is new."""
    window = {"since_ms": ms(held.window_from), "until_ms": ms(held.window_to)}
    rows = len(indexes_between(SPEC, window["since_ms"], window["until_ms"]))
    world.deployment.seed(Change(SPEC, rows=rows, version=next(VERSIONS), **window))
    world.deployment.seed(Late(SPEC, rows=1, version=next(VERSIONS), **window))


@contextmanager
def merges_stopped(world: World) -> Iterator[None]:
    """RAW keeps every version of a key for as long as the block runs."""
    raw = f"{world.deployment.settings['CH_DB']}.codes_raw"
    world.deployment.each_shard(f"SYSTEM STOP MERGES {raw}")
    try:
        yield
    finally:
        world.deployment.each_shard(f"SYSTEM START MERGES {raw}")


def raw_rows(world: World, held: Any) -> int:
    """RAW's rows of the slice's window, repeats and all."""
    ((count,),) = world.deployment.query(
        f"SELECT count() FROM {world.deployment.raw_all} WHERE toYYYYMMDD(opd) = {PARTITION} "
        "AND opd >= fromUnixTimestamp64Milli(%(since)s) AND opd < fromUnixTimestamp64Milli(%(until)s)",
        {"since": ms(held.window_from), "until": ms(held.window_to)},
    )
    return int(count)


def log(world: World) -> str:
    """What the workers have said."""
    return world.deployment.worker_logs(1000)
