"""Jobs of a crew: what they return, fail with and keep alive; nothing runs on, wherever their owner is interrupted."""

from __future__ import annotations

import ast
import gc
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import structlog

from etl_tasks import threads
from etl_tasks.adapters.clickhouse.stages import Stages
from etl_tasks.core.batch import ColumnBatch
from etl_tasks.errors import LostOwnership, Unreachable
from etl_tasks.pipeline import stopping
from etl_tasks.pipeline.inserting import Inserter
from etl_tasks.pipeline.lease import Lease
from etl_tasks.pipeline.stopping import InterruptedByStop
from etl_tasks.threads import Crew, Flag, Job
from tests.unit.interruptions import Watched, interrupted_at
from tests.unit.test_inserting import MOST_BYTES, MOST_ROWS, batch


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


class Block:
    """Rows, as if."""

    def insert(self) -> None:
        """They are taken."""

    def fail(self) -> None:
        """They are not."""
        raise Unreachable("away")


@pytest.mark.parametrize("name", ["insert", "fail"])
def test_a_job_that_is_over_keeps_nothing_alive(name: str) -> None:
    block = Block()
    gone = weakref.ref(block)
    gc.disable()
    try:
        with Crew(1, "test") as crew:
            job = Job(getattr(block, name))
            crew.give(job)
            assert job.wait(20)
            assert (job.error is None) == (name == "insert")
            del block
            if job.error is not None:
                # The frames of a traceback are its owner's to forget; then nothing else holds them.
                job.error.__traceback__ = None
            del job
            assert gone() is None
    finally:
        gc.enable()


def test_a_failed_job_that_is_forgotten_takes_its_traceback_along() -> None:
    block = Block()
    gone = weakref.ref(block)
    gc.disable()
    try:
        with Crew(1, "test") as crew:
            job = Job(block.fail)
            crew.give(job)
            assert job.wait(20)
            del block, job
            # The thread lets go of it after it has said that it is over.
            until = time.monotonic() + 20
            while gone() is not None and time.monotonic() < until:
                time.sleep(0.01)
            assert gone() is None
    finally:
        gc.enable()


def test_a_crew_that_was_dismissed_takes_no_job() -> None:
    with Crew(1, "test") as crew:
        crew.dismiss()
        with pytest.raises(RuntimeError, match="'test' was dismissed"):
            crew.give(Job(lambda: None))
    with pytest.raises(RuntimeError, match="never started"):
        Crew(1, "test").give(Job(lambda: None))


def test_the_threads_of_a_forgotten_crew_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_LOOK_EVERY_S", 0.05)
    crew = Crew(2, "forgotten")
    crew.start()
    job = Job(lambda: 7)
    crew.give(job)
    assert job.result() == 7
    del crew
    assert no_threads_of("forgotten")


def load(watched: Watched, *, fails: bool = False) -> None:
    """Two blocks; or one, on whose way the read fails."""

    def insert(block: ColumnBatch) -> None:
        watched.work(block.rows)

    with Inserter(insert, lambda: None, MOST_ROWS, MOST_BYTES) as inserter, inserter:
        inserter.add(batch(0, 60))
        if fails:
            raise KeyError("the read")
        inserter.add(batch(60, 30))
        inserter.finish()


def load_in_part(watched: Watched) -> None:
    """The read fails while a block is on its way."""
    with suppress(KeyError):
        load(watched, fails=True)


def publish(watched: Watched) -> None:
    """Two stages on two shards."""
    with Crew(2, "publish") as crew, crew:
        stages: Stages[str] = Stages(crew, 20260101, lambda metric: None, [], lambda name: None)
        try:
            stages.run("insert_dedup", watched.work, ["one", "two"], lambda: None)
            stages.run("replace_clean", watched.work, ["one", "two"])
        except BaseException:
            stages.end(lambda name: None)
            raise


def stop(watched: Watched) -> None:
    """Work that is looked after, and is abandoned."""
    lost = threading.Event()

    def check() -> None:
        if lost.is_set():
            raise LostOwnership("cancelled")

    with InterruptedByStop(check, lambda: None, lambda: watched.work("abandon")) as looked_after, looked_after:
        lost.set()
        assert watched.once.wait(20)
    watched.done = 1  # however often


def keep(watched: Watched) -> None:
    """Work under a lease that is renewed."""

    def renew() -> bool:
        watched.work("renew")
        return True

    lease = Lease(lambda: (renew, lambda: None), 0.04, time.monotonic(), "a test's")
    with lease, lease:
        assert watched.once.wait(20)
    watched.done = 1  # however often


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("act", "name", "jobs", "at_least"),
    [
        (load, "insert", 2, 60),
        (load_in_part, "insert", 1, 30),
        (publish, "publish", 4, 100),
        (stop, "stop", 1, 10),
        (keep, "lease", 1, 10),
    ],
)
def test_nothing_goes_on_when_it_was_left_wherever_that_was_interrupted(
    act: Callable[[Watched], None], name: str, jobs: int, at_least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``at_least`` so many places, or next to nothing would have been interrupted."""
    monkeypatch.setattr(stopping, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(threads, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(stopping, "_ABANDON_EVERY_S", 0.01)
    place, reached = 0, True
    while reached:
        place += 1
        watched = Watched()
        reached = interrupted_at(place, partial(act, watched))
        watched.leave()
        assert no_threads_of(name), f"interrupted at place {place}, a thread went on"
        assert watched.faults == [], f"interrupted at place {place}"
    assert watched.done == jobs
    assert place > at_least


@pytest.mark.timeout(240)
def test_every_shard_that_was_begun_is_interrupted_wherever_a_stage_is_left() -> None:
    place = 0
    ended_by_themselves: list[str] = []
    while len(ended_by_themselves) < 2:  # until the stage is over before it is interrupted
        assert ended_by_themselves == [], f"interrupted at place {place}, the stage went on there"
        place += 1
        slow = SlowShards(("one", "two"))
        interrupted_at(place, slow.publish)
        ended_by_themselves = slow.ended_by_themselves
    assert place > 20


class SlowShards:
    """A stage that ends on all of them at once after some seconds, or on each when it is interrupted."""

    def __init__(self, names: Sequence[str]) -> None:
        self.ended_by_themselves: list[str] = []
        self._may_end = {name: threading.Event() for name in names}
        self._over = False

    def publish(self) -> None:
        """One stage, ended where it was left."""
        timer = threading.Timer(4, self._end_all)
        timer.start()
        try:
            with Crew(2, "publish") as crew, crew:
                stages: Stages[str] = Stages(crew, 20260101, lambda metric: None, [], lambda name: None)
                try:
                    stages.run("insert_dedup", self._work, list(self._may_end))
                except BaseException:
                    stages.end(lambda name: self._may_end[name].set())
                    raise
        finally:
            timer.cancel()

    def _work(self, name: str) -> None:
        assert self._may_end[name].wait(60)
        if self._over:
            self.ended_by_themselves.append(name)

    def _end_all(self) -> None:
        self._over = True
        for event in self._may_end.values():
            event.set()


def test_whatever_ends_a_thread_when_it_is_left_is_entered_twice() -> None:
    """In the product too; ``threads`` says why."""
    uses = []
    for path in sorted(Path(threads.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.With):
                expressions = [ast.unparse(item.context_expr) for item in node.items]
                for item, expression in zip(node.items, expressions, strict=True):
                    name = expression if item.optional_vars is None else ast.unparse(item.optional_vars)
                    if expression.split("(")[0] in {"Inserter", "Crew", "InterruptedByStop"} or expression == "lease":
                        uses.append((path.name, name, expressions.count(name) + (name != expression)))
    assert {(file, name) for file, name, _ in uses} == {
        ("load.py", "inserter"),
        ("publish.py", "crew"),
        ("extract.py", "stop"),
        ("extract.py", "lease"),
        ("publish.py", "lease"),
    }
    assert [use for use in uses if use[2] != 2] == []


def no_threads_of(name: str) -> bool:
    """Whether all threads of that name end within a moment: they are idle at most."""
    for thread in threading.enumerate():
        # One whose start was interrupted before there was a thread stays listed, without an ident.
        if thread.name.partition("_")[0] == name and thread.ident is not None:
            thread.join(20)
            if thread.is_alive():
                return False
    return True
