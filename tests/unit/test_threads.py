"""Jobs of a crew: what they return, fail with and keep alive; nothing runs on, wherever their owner is interrupted."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import structlog

from etl_tasks.adapters.clickhouse.stages import Stages
from etl_tasks.errors import Unreachable
from etl_tasks.pipeline.inserting import Inserter
from etl_tasks.threads import Crew, Flag, Job
from tests.unit.interruptions import Watched, interrupted_at
from tests.unit.test_inserting import MOST_BYTES, MOST_ROWS, batch

AT_LEAST_PLACES = 40
"""Fewer would mean that next to nothing was interrupted: every call and every loop of ours is a place."""


def test_a_flag_is_seen_whenever_it_was_set() -> None:
    flag = Flag()
    assert not flag.wait(0)
    assert not flag.wait(0.01)
    assert not flag.is_set()
    timer = threading.Timer(0.05, flag.set)
    timer.start()
    assert flag.wait(20)
    assert flag.wait(0)
    assert flag.wait()
    timer.join()


def test_a_flag_that_is_not_set_is_waited_for_no_longer_than_told() -> None:
    before = time.monotonic()
    assert not Flag().wait(0.2)
    assert 0.2 <= time.monotonic() - before < 10


def test_jobs_are_done_in_order_and_give_what_they_return_or_raise() -> None:
    def fail() -> int:
        raise Unreachable("away")

    with Crew(1, "test") as crew:
        done = Job(lambda: 7)
        failed = Job(fail)
        for job in (done, failed):
            crew.give(job)
        with pytest.raises(Unreachable, match="away"):
            failed.result()
        assert done.over
        assert done.result() == 7
        assert done.error is None
        assert isinstance(failed.error, Unreachable)


def test_a_job_has_the_log_context_of_whoever_made_it() -> None:
    with Crew(1, "test") as crew, structlog.contextvars.bound_contextvars(slice=118):
        job = Job(structlog.contextvars.get_contextvars)
        crew.give(job)
        assert job.result()["slice"] == 118


def test_a_crew_has_as_many_threads_as_it_was_told() -> None:
    meeting = threading.Barrier(3, timeout=20)
    with Crew(3, "test") as crew:
        jobs = [Job(meeting.wait) for _ in range(3)]
        for job in jobs:
            crew.give(job)
        assert sorted(job.result() for job in jobs) == [0, 1, 2]


def test_whoever_leaves_a_crew_finds_all_that_was_given_done() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.05)
        done.append(number)

    with Crew(2, "test") as crew:
        for number in range(4):
            crew.give(Job(lambda number=number: work(number)))  # type: ignore[misc]
    assert sorted(done) == [0, 1, 2, 3]
    assert crew.wait_until_ended(0)


def test_a_job_that_is_over_keeps_nothing_alive() -> None:
    class Block:
        """Rows, as if."""

        def insert(self) -> None:
            """Nothing."""

    block = Block()
    gone = weakref.ref(block)
    with Crew(1, "test") as crew:
        job = Job(block.insert)
        crew.give(job)
        job.result()
        del block
        gc.collect()
        assert gone() is None


@pytest.mark.timeout(240)
def test_no_block_is_on_its_way_when_a_slice_was_left_wherever_it_was_interrupted() -> None:
    def load(watched: Watched) -> None:
        with Inserter(lambda block: watched.work(block.rows), lambda: None, MOST_ROWS, MOST_BYTES) as inserter:
            inserter.add(batch(0, 60))
            inserter.add(batch(60, 30))
            inserter.finish()

    assert_nothing_goes_on(load, "insert", jobs=2)


@pytest.mark.timeout(240)
def test_no_shard_is_worked_on_when_a_publish_was_left_wherever_it_was_interrupted() -> None:
    def publish(watched: Watched) -> None:
        with Crew(2, "publish") as crew:
            stages: Stages[str] = Stages(crew, 20260101, lambda metric: None, [], lambda name: None)
            try:
                stages.run("insert_dedup", watched.work, ["one", "two"], lambda: None)
                stages.run("replace_clean", watched.work, ["one", "two"])
            except BaseException:
                stages.end(lambda name: None)
                raise

    assert_nothing_goes_on(publish, "publish", jobs=4)


def assert_nothing_goes_on(act: Callable[[Watched], None], name: str, jobs: int) -> None:
    """``act``, interrupted everywhere in turn, leaves no thread of that name at work; left alone, it does ``jobs``."""
    place, reached = 0, True
    while reached:
        place += 1
        watched = Watched()
        reached = interrupted_at(place, partial(act, watched))
        watched.leave()
        assert no_threads_of(name), f"interrupted at place {place}, a thread went on"
        assert watched.faults == [], f"interrupted at place {place}"
    assert watched.done == jobs
    assert place > AT_LEAST_PLACES


def no_threads_of(name: str) -> bool:
    """Whether all threads of that name end within a moment: they are idle at most."""
    for thread in threading.enumerate():
        # One whose start was interrupted before there was a thread stays listed, without an ident.
        if thread.name.startswith(f"{name}_") and thread.ident is not None:
            thread.join(20)
            if thread.is_alive():
                return False
    return True
