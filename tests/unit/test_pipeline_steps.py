"""What the pipeline's small parts do by themselves: stops, settling, telling, expiry."""

from __future__ import annotations

import gc
import os
import time
import weakref
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from etl_tasks.adapters.clickhouse.ttl import ttl_seconds
from etl_tasks.core.expiry import expired_partitions, expiry_notice
from etl_tasks.core.records import Transition
from etl_tasks.errors import LostOwnership, TransientError, Unreachable
from etl_tasks.pipeline.lease import Lease
from etl_tasks.pipeline.ports import Dispatcher, Journal
from etl_tasks.pipeline.settle import forget_frames, settle
from etl_tasks.pipeline.stopping import StopFlag, WorkerStopping
from etl_tasks.pipeline.tell import tell


class SoftLimit(Exception):
    """What a worker raises, for these tests."""


# -- stop ---------------------------------------------------------------------------------------------------------


def test_a_stop_is_seen_in_a_child_that_was_forked_before_it() -> None:
    flag = StopFlag(grace_s=0.0)
    child = os.fork()
    if child == 0:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                flag.check()
            except WorkerStopping:
                os._exit(17)
            time.sleep(0.01)
        os._exit(1)
    flag.check()
    flag.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
    with pytest.raises(WorkerStopping, match="no attempt is spent"):
        flag.check()
    flag.clear()
    flag.check()


def test_what_is_nearly_done_may_end_within_the_grace() -> None:
    flag = StopFlag(grace_s=0.2)
    flag.set()
    flag.check()
    time.sleep(0.1)
    flag.set()  # asked again: the first time counts
    time.sleep(0.15)
    with pytest.raises(WorkerStopping):
        flag.check()


# -- settle -------------------------------------------------------------------------------------------------------


def lease_of(renew: Callable[[], bool] = lambda: True, lease_s: float = 30.0) -> Lease:
    return Lease(lambda: (renew, lambda: None), lease_s, time.monotonic(), "a test's")


def failing(*errors: BaseException) -> Callable[[], str]:
    left = list(errors)

    def transition() -> str:
        if left:
            raise left.pop(0)
        return "committed"

    return transition


@pytest.mark.parametrize(
    "error", [Unreachable("restarted"), TransientError("deadlock"), SoftLimit()], ids=["away", "deadlock", "soft limit"]
)
def test_a_transition_is_run_again_while_the_lease_holds(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etl_tasks.pipeline.settle._AGAIN_AFTER_S", 0.01)
    with lease_of() as lease:
        assert settle(failing(error, error), lease, SoftLimit) == "committed"


def test_a_transition_that_lost_its_object_is_not_run_again() -> None:
    with lease_of() as lease, pytest.raises(LostOwnership, match="no longer ours"):
        settle(failing(LostOwnership("no longer ours"), AssertionError("run again")), lease, SoftLimit)


def test_it_ends_when_the_lease_cannot_be_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etl_tasks.pipeline.settle._AGAIN_AFTER_S", 0.05)

    def renew() -> bool:
        raise Unreachable("away")

    with lease_of(renew, lease_s=0.3) as lease, pytest.raises(LostOwnership):
        settle(failing(*[Unreachable("away")] * 100), lease, SoftLimit)


class Batch:
    """Stands for rows: something whose life can be watched."""


def test_a_failed_try_leaves_no_batch_alive() -> None:
    alive: list[weakref.ref[Batch]] = []

    def insert() -> None:
        block = Batch()
        alive.append(weakref.ref(block))
        raise OSError("the socket")

    def load() -> None:
        frame = Batch()
        alive.append(weakref.ref(frame))
        try:
            insert()
        except OSError as error:
            raise Unreachable("ClickHouse broke off") from error

    error: Exception | None = None
    gc.disable()  # the collector would do it, minutes later
    try:
        try:
            load()
        except Unreachable as failure:
            error = failure
        assert len(alive) == 2
        assert all(ref() is not None for ref in alive), "else this shows nothing"
        assert error is not None
        forget_frames(error)
        assert [ref() for ref in alive] == [None, None]
    finally:
        gc.enable()


# -- tell ---------------------------------------------------------------------------------------------------------


class Broker:
    """A broker that is away from a certain message on."""

    def __init__(self, takes: int) -> None:
        self.asked: list[int] = []
        self._takes = takes

    def send_publish(self, partition: int) -> None:
        self.asked.append(partition)
        if len(self.asked) > self._takes:
            raise Unreachable("Redis is away")


def test_a_broker_that_is_away_is_not_asked_for_every_message() -> None:
    broker = Broker(takes=1)
    due = [Transition(1, partition, publish_due=True) for partition in range(20250101, 20250111)]
    tell(cast("Journal", None), cast("Dispatcher", broker), due)
    assert broker.asked == [20250101, 20250102]


# -- CLEAN's TTL --------------------------------------------------------------------------------------------------

DAY_S = 86_400
NOW = datetime(2025, 8, 8, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        ("toDateTime(opd) + toIntervalDay(5)", 5 * DAY_S),
        ("toDateTime(opd) + toIntervalDay(180) DELETE", 180 * DAY_S),
        ("opd + INTERVAL 36 HOUR", 36 * 3600),
        ("toDateTime(opd) + toIntervalDay(1) + toIntervalHour(6)", DAY_S + 6 * 3600),
        ("toDateTime(opd) + toIntervalDay(2) TO VOLUME 'cold', toDateTime(opd) + toIntervalDay(9)", 9 * DAY_S),
        ("toDateTime(opd) + toIntervalDay(9), toDateTime(opd) + toIntervalWeek(1)", 7 * DAY_S),
        ("toDateTime(ingested_at) + toIntervalDay(5)", None),
        ("toDateTime(opd) + toIntervalDay(5) WHERE t = 1", None),
        ("expires(opd)", None),
    ],
)
def test_a_ttl_is_read_from_the_table(ttl: str, seconds: int | None) -> None:
    engine = f"MergeTree PARTITION BY toYYYYMMDD(opd) ORDER BY (c, opd, t) TTL {ttl} SETTINGS index_granularity = 8192"
    assert ttl_seconds(engine, "opd") == seconds
    assert ttl_seconds(engine.partition(" SETTINGS ")[0], "opd") == seconds


def test_a_table_without_ttl_keeps_its_rows() -> None:
    assert ttl_seconds("MergeTree ORDER BY opd SETTINGS merge_with_ttl_timeout = 5", "opd") is None


def test_partitions_past_the_ttl_are_told() -> None:
    days = [20250801, 20250803, 20250804, 20250808]
    assert expired_partitions(days, 5 * DAY_S, NOW) == [20250801, 20250803]
    assert expired_partitions(days, None, NOW) == []
    notice = expiry_notice(days, 5 * DAY_S, NOW)
    assert notice is not None
    assert "5 days" in notice
    assert "20250801, 20250803" in notice
    assert expiry_notice([20250808], 5 * DAY_S, NOW) is None


def test_a_long_list_of_days_is_cut() -> None:
    days: Sequence[Any] = [int(f"{datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=i):%Y%m%d}") for i in range(40)]
    assert "20240105 and 35 more" in str(expiry_notice(days, DAY_S, NOW))
