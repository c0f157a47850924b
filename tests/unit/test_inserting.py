"""Blocks on their way: what is sent when, what a failure stops, and what happens to a block when its slice is over."""

from __future__ import annotations

import threading

import pytest

from etl_tasks.core.batch import ColumnBatch
from etl_tasks.errors import Unreachable
from etl_tasks.pipeline import inserting
from etl_tasks.pipeline.inserting import Inserter
from etl_tasks.threads import Crew

MOST_ROWS = 100
MOST_BYTES = 1_000


class SoftLimit(Exception):
    """What a worker raises, for these tests."""


class Slow:
    """An insert that takes as long as a test wants, and fails when it is interrupted for the ``heeds``-th time."""

    def __init__(self, heeds: int = 1) -> None:
        self.blocks: list[list[object]] = []
        self.may_end = threading.Event()
        self.may_end.set()
        self.begun = threading.Semaphore(0)
        self.interrupted = 0
        self._heeds = heeds

    def insert(self, block: ColumnBatch) -> None:
        self.blocks.append(list(block.columns[0]))
        self.begun.release()
        assert self.may_end.wait(20)
        if self.interrupted >= self._heeds:
            raise Unreachable("interrupted")

    def interrupt(self) -> None:
        self.interrupted += 1
        if self.interrupted >= self._heeds:
            self.may_end.set()


def batch(first: int, rows: int, row_bytes: int = 1) -> ColumnBatch:
    """Rows by number."""
    return ColumnBatch(("n",), [list(range(first, first + rows))], rows, rows * row_bytes)


def with_a_block_on_its_way(slow: Slow) -> Inserter:
    """The rows 0 to 49 are being inserted, for as long as the test wants."""
    slow.may_end.clear()
    inserter = Inserter(slow.insert, slow.interrupt, MOST_ROWS, MOST_BYTES).__enter__()
    inserter.add(batch(0, 50))
    assert slow.begun.acquire(timeout=10)
    return inserter


def test_half_a_block_goes_at_once_while_nothing_else_does() -> None:
    slow = Slow()
    with Inserter(slow.insert, slow.interrupt, MOST_ROWS, MOST_BYTES) as inserter:
        inserter.add(batch(0, 49))
        assert not slow.begun.acquire(timeout=0.1)
        inserter.add(batch(49, 1))
        assert slow.begun.acquire(timeout=10)
        inserter.add(batch(50, 7))
        inserter.finish()
    assert slow.blocks == [list(range(50)), list(range(50, 57))]
    assert inserter.rows == 57


def test_half_of_the_bytes_are_half_a_block() -> None:
    slow = Slow()
    with Inserter(slow.insert, slow.interrupt, MOST_ROWS, MOST_BYTES) as inserter:
        inserter.add(batch(0, 5, row_bytes=100))
        assert slow.begun.acquire(timeout=10)
        inserter.finish()
    assert slow.blocks == [[0, 1, 2, 3, 4]]


def test_behind_a_block_on_its_way_a_whole_one_is_gathered() -> None:
    slow = Slow()
    inserter = with_a_block_on_its_way(slow)
    inserter.add(batch(50, 60))
    inserter.add(batch(110, 40))
    assert not slow.begun.acquire(timeout=0.1)
    slow.may_end.set()
    inserter.finish()
    inserter.__exit__(None, None, None)
    assert slow.blocks == [list(range(50)), list(range(50, 150))]
    assert inserter.rows == 150


def test_a_batch_of_more_than_a_block_is_a_block_of_its_own() -> None:
    slow = Slow()
    inserter = with_a_block_on_its_way(slow)
    inserter.add(batch(50, 10))
    slow.may_end.set()
    inserter.add(batch(60, 300))
    inserter.finish()
    inserter.__exit__(None, None, None)
    assert slow.blocks == [list(range(50)), list(range(50, 60)), list(range(60, 360))]


def test_what_a_block_failed_with_is_raised_by_every_call_after_it() -> None:
    slow = Slow(heeds=0)
    inserter = Inserter(slow.insert, slow.interrupt, MOST_ROWS, MOST_BYTES)
    with inserter:
        inserter.add(batch(0, 50))
        assert slow.begun.acquire(timeout=10)
        inserter.add(batch(50, 40))
        with pytest.raises(Unreachable, match="interrupted"):
            inserter.add(batch(90, 100))
        with pytest.raises(Unreachable, match="interrupted"):
            inserter.finish()
    assert inserter.rows == 0


def test_whoever_leaves_waits_for_the_block_on_its_way() -> None:
    slow = Slow()
    timer = threading.Timer(0.2, slow.may_end.set)
    inserter = with_a_block_on_its_way(slow)
    timer.start()
    left_with = SoftLimit()
    inserter.__exit__(SoftLimit, left_with, None)
    timer.join()
    assert inserter.rows == 50
    assert slow.interrupted == 0


def first_wait_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first wait for a block raises, as it does when the worker's signal comes."""
    waits: list[object] = []
    really_wait = Crew.wait_until_ended

    def wait(crew: Crew, timeout_s: float | None = None) -> bool:
        waits.append(timeout_s)
        if len(waits) == 1:
            raise SoftLimit
        return really_wait(crew, timeout_s)

    monkeypatch.setattr(Crew, "wait_until_ended", wait)


def test_a_block_that_is_nearly_done_when_the_wait_is_broken_off_may_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inserting, "INTERRUPT_EVERY_S", 20.0)
    first_wait_broken_off(monkeypatch)
    slow = Slow()
    inserter = with_a_block_on_its_way(slow)
    timer = threading.Timer(0.1, slow.may_end.set)
    timer.start()
    with pytest.raises(SoftLimit):
        inserter.__exit__(None, None, None)
    timer.join()
    assert (inserter.rows, slow.interrupted) == (50, 0)


def test_a_wait_that_is_broken_off_ends_the_block_before_it_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target is closed next: by then no thread may wait for it."""
    monkeypatch.setattr(inserting, "INTERRUPT_EVERY_S", 0.5)
    first_wait_broken_off(monkeypatch)
    slow = Slow(heeds=3)
    inserter = with_a_block_on_its_way(slow)
    with pytest.raises(SoftLimit):
        inserter.__exit__(None, None, None)
    assert slow.interrupted == 3
    assert inserter.rows == 0
    latest = inserter._latest
    assert latest is not None
    assert latest.over
    assert isinstance(latest.error, Unreachable)
