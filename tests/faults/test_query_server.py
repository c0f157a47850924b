"""The Query Server restarted, hung, out of memory, forgetful or cut off in the middle of a read: nothing is lost."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from devstack.phoenix import connect
from devstack.query_server_proxy import HEAP_GONE, QueryServerProxy
from devstack.relay import Relay
from tests.faults import worker_events
from tests.faults.worker_events import events
from tests.faults.world import SINCE, SLICES, UNTIL, World

READ_TIMEOUT_S = 2
PATIENCE_S = 150.0
"""For what takes seconds on a quiet machine."""
SETTINGS = {**worker_events.SETTINGS, "PHX_FETCHMANY_SIZE": "8"}
"""Frames of a few rows: a slice of these tests has several."""


def test_the_server_is_restarted_in_the_middle_of_a_read(world: World) -> None:
    held = world.failpoints.arm("slice.frame_read", "hold")
    run_id = world.plan()
    world.deployment.start_worker()
    hit = held.wait(timeout_s=PATIENCE_S)
    # The frame that is asked ahead is to be answered: a server that dies before that is away, and nothing is lost.
    time.sleep(1)
    world.stack.kill("pqs")
    world.deployment.until(lambda: given_back(world, run_id), "the other child finds nobody", PATIENCE_S)
    start_query_server(world)
    held.release()

    slices = world.assert_exact(run_id, PATIENCE_S)

    (lost,) = events(world, "slice_try_failed", slice=int(hit["slice"]))
    assert (lost["error_kind"], lost["action"]) == ("StatementLost", "reconnect")
    (victim,) = [one for one in slices if one.id == int(hit["slice"])]
    assert victim.attempt == 1, "it reads again under the same lease"
    assert [one.spent for one in slices] == [1] * SLICES, "waiting for the server spends no attempt"


def test_a_server_hung_for_longer_than_the_read_time_out(world: World) -> None:
    held = world.failpoints.arm("slice.frame_read", "hold", times=2)
    run_id = world.plan()
    world.deployment.start_worker(PHX_READ_TIMEOUT_S=str(READ_TIMEOUT_S))
    held.wait(times=2, timeout_s=PATIENCE_S)
    with world.frozen("pqs"):
        held.release()
        began = time.monotonic()
        world.deployment.until(lambda: len(events(world, "slice_try_failed")) >= 2, "both notice", PATIENCE_S)
        noticed_s = time.monotonic() - began
        # A hang of many time-outs: whoever comes again finds nobody, and no window is blamed for it.
        world.deployment.until(lambda: len(events(world, "slice_try_failed")) >= 8, "others try as well", PATIENCE_S)

    slices = world.assert_exact(run_id, PATIENCE_S)

    first, second = events(world, "slice_try_failed")[:2]
    assert {first["error_kind"], second["error_kind"]} == {"QueryTimedOut"}
    assert noticed_s >= READ_TIMEOUT_S / 2
    assert [one.state for one in slices] == ["done"] * SLICES, "a narrower window cures no hung server"
    assert [one.spent for one in slices] == [1] * SLICES


@pytest.mark.parametrize("times", [1, 2])
def test_the_server_s_heap_is_gone(world: World, times: int) -> None:
    with QueryServerProxy(world.deployment.settings["PQS_URL"]) as proxy:
        proxy.answer_instead("Fetch", HEAP_GONE, times)
        run_id = world.plan()
        # One child, so that the same slice gets every such answer.
        world.deployment.start_worker(concurrency=1, PQS_URL=proxy.url)

        slices = world.assert_exact(run_id, PATIENCE_S)

        assert len([one for one in proxy.asked("Fetch") if one.answered is HEAP_GONE]) == times
    failed = events(world, "slice_try_failed")
    assert [(one["error_kind"], one["action"]) for one in failed] == [
        ("SourceHeapExhausted", action) for action in ("retry", "split")[:times]
    ]
    (victim,) = [one for one in slices if one.overloads]
    assert (victim.overloads, victim.error_kind) == (times, "SourceHeapExhausted")
    assert "no memory" in victim.last_error or "without heap" in victim.last_error
    # The first is cured by another try, the second by a narrower window.
    assert victim.state == ("done" if times == 1 else "split")
    assert [one.depth for one in slices if one.parent_id == victim.id] == ([] if times == 1 else [1, 1])
    assert {one.spent for one in slices} == {1}


def test_a_server_whose_heap_stays_gone_is_waited_for(world: World) -> None:
    with QueryServerProxy(world.deployment.settings["PQS_URL"]) as proxy:
        broken = 12
        proxy.answer_instead("OpenConnection", HEAP_GONE, broken)
        run_id = world.plan()
        world.deployment.start_worker(PQS_URL=proxy.url)

        slices = world.assert_exact(run_id, PATIENCE_S)

    failed = events(world, "slice_try_failed")
    assert [(one["error_kind"], one["action"]) for one in failed] == [("Unreachable", "wait")] * broken
    assert [(one.state, one.spent) for one in slices] == [("done", 1)] * SLICES


@pytest.mark.parametrize("answered_bytes", [60, 3000])
def test_an_answer_is_cut_off(world: World, answered_bytes: int) -> None:
    """By a reset in its head, and in the catalog's answer."""
    with Relay(urlsplit(world.deployment.settings["PQS_URL"]).port or 0) as relay:
        relay.cut_answer_after(answered_bytes)
        run_id = world.plan()
        world.deployment.start_worker(PQS_URL=f"http://127.0.0.1:{relay.port}/")

        slices = world.assert_exact(run_id, PATIENCE_S)

        assert relay.cuts == 1
    (failed,) = events(world, "slice_try_failed")
    # A head cut off looks to an HTTP client like a short one: an answer that is not the Query Server's.
    assert failed["error_kind"] in ("Unreachable", "GatewayRefused", "StatementLost")
    assert [one.spent for one in slices] == [1] * SLICES
    assert rows_read(slices) == len(world.deployment.expected(SINCE, UNTIL))


def test_frames_are_cut_off(world: World) -> None:
    with QueryServerProxy(world.deployment.settings["PQS_URL"]) as proxy:
        shares = [0.0, 0.01, 0.5, 0.999]
        for share in shares:
            proxy.cut_answer("Fetch", share)
        run_id = world.plan()
        # One slice may get all of them; more tries than that, and it is no attempt's end.
        world.deployment.start_worker(PQS_URL=proxy.url, PHX_OVERLOAD_MAX_ATTEMPTS=str(len(shares) + 1))

        slices = world.assert_exact(run_id, PATIENCE_S)

        cut = [one.answered for one in proxy.asked("Fetch") if one.answered.cut_at is not None]
    assert len(cut) == len(shares)
    assert all(one.cut_at is not None and one.cut_at < len(one.body) for one in cut)
    failed = events(world, "slice_try_failed")
    assert [(one["error_kind"], one["action"]) for one in failed] == [("StatementLost", "reconnect")] * len(shares)
    assert [(one.attempt, one.spent) for one in slices] == [(1, 1)] * SLICES
    assert rows_read(slices) == len(world.deployment.expected(SINCE, UNTIL)), "the rows before the cut count once"


def test_the_server_forgets_what_is_being_read(world: World) -> None:
    """As it does with what is idle for too long: a statement of one slice, the connection of another."""
    url = world.deployment.settings["PQS_URL"]
    run_id = world.plan()
    victims = [one.id for one in world.deployment.slices(run_id)[:2]]
    holds = [world.failpoints.arm("slice.frame_read", "hold", slice=one) for one in victims]
    with QueryServerProxy(url) as proxy, connect(url) as other:
        client = other._connection._client
        # One child, so that the last statement is the one it holds.
        world.deployment.start_worker(concurrency=1, PQS_URL=proxy.url)
        for held, forgotten in zip(holds, ("statement", "connection"), strict=True):
            held.wait(timeout_s=PATIENCE_S)
            reading = proxy.asked("PrepareAndExecute")[-1]
            assert "COUNT(" not in reading.sql
            if forgotten == "statement":
                client.close_statement(reading.connection, reading.statement)
            else:
                client.close_connection(reading.connection)
            held.release()

        slices = world.assert_exact(run_id, PATIENCE_S)

    lost = events(world, "slice_try_failed")
    assert [(one["slice"], one["error_kind"], one["action"]) for one in lost] == [
        (one, "StatementLost", "reconnect") for one in victims
    ]
    assert [(one.attempt, one.spent) for one in slices] == [(1, 1)] * SLICES
    assert rows_read(slices) == len(world.deployment.expected(SINCE, UNTIL))


def rows_read(slices: list[Any]) -> int:
    """Rows of all slices, as the journal has them."""
    return sum(one.rows_read for one in slices)


def given_back(world: World, run_id: int) -> bool:
    """Whether a slice was tried and waits."""
    return any(one.attempt and one.state == "planned" for one in world.deployment.slices(run_id))


def start_query_server(world: World) -> None:
    """Start it, and forget the connections of ours that it does not know any more."""
    world.stack.start("pqs")
    world.deployment.reopen_seeder()
