"""One journal of a test's own, and short words for what tests do with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import psycopg2.extras

from etl_tasks.adapters.journal import Journal, JournalConfig
from etl_tasks.adapters.journal.queries import render_names
from etl_tasks.core.cadence import CadenceRules
from etl_tasks.core.records import NewRun, PlannedRun, PublishClaim, SliceClaim, SliceResult, Transition
from etl_tasks.core.slicing import PlannedSlice, SlicePlan
from etl_tasks.core.windows import Window, partition_of

CLEAN = "stg.codes"
LANE = "codes"
MANUAL_LANE = "manual_codes"
MIDNIGHT = datetime(2025, 8, 8, tzinfo=UTC)
DAY = 20250808
NEXT_DAY = 20250809
AT_END = CadenceRules(every_minutes=0, every_slices=0, always_at_end=True)
ATTEMPTS = 5


def at(hours: float) -> datetime:
    """Hours after the first midnight."""
    return MIDNIGHT + timedelta(hours=hours)


def hours(start: float, end: float) -> Window:
    return Window(at(start), at(end))


def plan_of(windows: Sequence[Window], since: datetime | None = None, until: datetime | None = None) -> SlicePlan:
    """A plan of exactly these windows, each a step of its own."""
    slices = tuple(PlannedSlice(window, partition_of(window.start), step) for step, window in enumerate(windows))
    return SlicePlan(
        since=since or windows[0].start,
        until=until or windows[-1].end,
        slices=slices,
        partitions=tuple(sorted({planned.partition for planned in slices})),
        steps=len(slices),
        notices=(),
        source_windows=tuple(windows),
    )


def even_windows(count: int, days: int = 1, first_hour: float = 0) -> list[Window]:
    """``count`` windows a day over whole days."""
    width = 24 / count
    return [
        hours(first_hour + day * 24 + index * width, first_hour + day * 24 + (index + 1) * width)
        for day in range(days)
        for index in range(count)
    ]


def result(rows: int = 10) -> SliceResult:
    return SliceResult(rows, rows, rows, rows, 0, {"fetch": 1})


def side_by_side(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """All ``works`` in threads that start together; their results, or the exception of one that failed."""
    barrier = threading.Barrier(len(works))
    outcomes: list[Any] = [None] * len(works)

    def run(index: int, work: Callable[[], Any]) -> None:
        try:
            barrier.wait(10)
            outcomes[index] = work()
        except BaseException as error:
            outcomes[index] = error

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return outcomes


class World:
    """The journal's tables in a schema of its own; ``journal`` is the test's, ``another()`` opens one more."""

    def __init__(self, dsn: str, schema: str) -> None:
        self.config = JournalConfig(dsn=dsn, table=f"{schema}.inc_processing")
        self.schema = schema
        self._direct = psycopg2.connect(dsn)
        self._direct.autocommit = True
        self._opened: list[Journal] = []
        self.journal = self.another()
        self.journal.ensure()

    def another(self, cadence: CadenceRules = AT_END) -> Journal:
        """A journal with a connection of its own, as another worker has it."""
        journal = Journal(self.config, CLEAN, cadence)
        self._opened.append(journal)
        return journal

    def drop(self) -> None:
        for journal in self._opened:
            journal.close()
        with self._direct.cursor() as cursor:
            cursor.execute(f'DROP SCHEMA IF EXISTS "{self.schema}" CASCADE')
        self._direct.close()

    # Behind the curtain.
    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """Rows of a statement written for public.inc_processing, in a session of its own."""
        with self._direct.cursor(cursor_factory=psycopg2.extras.NamedTupleCursor) as opened:
            cursor: Any = opened  # Its methods come without types.
            cursor.execute("SET TIME ZONE 'UTC'")
            cursor.execute(render_names(sql, self.config.table), parameters or None)
            return list(cursor.fetchall()) if cursor.description else []

    def one(self, sql: str, *parameters: Any) -> Any:
        rows = self.rows(sql, *parameters)
        assert len(rows) == 1, rows
        return rows[0]

    def run_row(self, run_id: int) -> Any:
        return self.one("SELECT * FROM public.inc_processing WHERE id = %s", run_id)

    def slice_row(self, slice_id: int) -> Any:
        return self.one("SELECT * FROM public.inc_processing_slices WHERE id = %s", slice_id)

    def partition_row(self, partition: int = DAY) -> Any:
        return self.one("SELECT * FROM public.inc_processing_partitions WHERE partition = %s", partition)

    def run_partition(self, run_id: int, partition: int = DAY) -> Any:
        return self.one(
            "SELECT * FROM public.inc_processing_run_partitions WHERE run_id = %s AND partition = %s", run_id, partition
        )

    def await_unlocked(self) -> None:
        """Until no session of ours holds a lock: PostgreSQL frees a session's a moment after its client has gone."""
        deadline = time.monotonic() + 30
        while self.one(
            "SELECT count(*) AS n FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory' AND granted AND application_name LIKE 'etl_tasks lock:%'"
        ).n:
            assert time.monotonic() < deadline, "a lock is still held"
            time.sleep(0.01)

    def expire_leases(self) -> None:
        """As if every holder had been silent for longer than its lease."""
        self.rows(
            "UPDATE public.inc_processing_slices SET lease_until = clock_timestamp() - interval '1 s' "
            "WHERE state = 'running'"
        )
        self.rows(
            "UPDATE public.inc_processing_partitions SET lease_until = clock_timestamp() - interval '1 s' "
            "WHERE publish_state = 'running'"
        )

    def make_due(self) -> None:
        """As if every back-off and pause had passed."""
        self.rows("UPDATE public.inc_processing_slices SET not_before = NULL WHERE state = 'planned'")
        self.rows(
            "UPDATE public.inc_processing_partitions SET not_before = clock_timestamp() WHERE publish_state = 'due'"
        )

    def age_run(self, run_id: int, minutes: float) -> None:
        """As if the run had begun, lived and moved last that long ago."""
        self.rows(
            "UPDATE public.inc_processing SET ts_start = ts_start - make_interval(secs => %s), "
            "heartbeat_at = heartbeat_at - make_interval(secs => %s), "
            "progress_at = progress_at - make_interval(secs => %s), ts_end = ts_end - make_interval(secs => %s) "
            "WHERE id = %s",
            *[minutes * 60] * 4,
            run_id,
        )

    # What workers do.
    def plan(
        self,
        windows: Sequence[Window],
        *,
        process: str = LANE,
        manual: bool = False,
        publish_at_end: bool = True,
        since: datetime | None = None,
        until: datetime | None = None,
        in_flight: int = 2,
        task_id: str | None = None,
        journal: Journal | None = None,
        shift_min: int = 0,
    ) -> PlannedRun:
        plan = plan_of(windows, since, until)
        new = NewRun(process, CLEAN, manual, publish_at_end, shift_min, plan, plan.until, task_id)
        return (journal or self.journal).runs.plan(new, in_flight)

    def slices(self, run_id: int, state: str | None = None) -> list[int]:
        """Ids of the run's slices in order of time."""
        rows = self.rows(
            "SELECT id FROM public.inc_processing_slices WHERE run_id = %s AND (%s::text IS NULL OR state = %s) "
            "ORDER BY window_from, id",
            run_id,
            state,
            state,
        )
        return [row.id for row in rows]

    def claim(self, slice_id: int, journal: Journal | None = None, lease_s: float = 60.0) -> SliceClaim | None:
        return (journal or self.journal).slices.claim(slice_id, worker="test", lease_s=lease_s, max_attempts=ATTEMPTS)

    def must_claim(self, slice_id: int, journal: Journal | None = None, lease_s: float = 60.0) -> SliceClaim:
        claim = self.claim(slice_id, journal, lease_s)
        assert claim is not None
        return claim

    def load(self, slice_id: int, journal: Journal | None = None, rows: int = 10) -> Transition:
        journal = journal or self.journal
        return journal.slices.finish(self.must_claim(slice_id, journal), result(rows))

    def load_all(self, run_id: int, journal: Journal | None = None) -> list[Transition]:
        """Every released slice that is planned now."""
        return [self.load(slice_id, journal) for slice_id in self.slices(run_id, "planned")]

    def claim_publish(self, partition: int = DAY, journal: Journal | None = None) -> PublishClaim | None:
        return (journal or self.journal).publishes.claim(
            CLEAN, partition, dedup_process="codes:dedup", worker="test", lease_s=60.0, max_attempts=3
        )

    def must_claim_publish(self, partition: int = DAY, journal: Journal | None = None) -> PublishClaim:
        claim = self.claim_publish(partition, journal)
        assert claim is not None
        return claim

    def finish_publish(
        self, claim: PublishClaim, journal: Journal | None = None, duration_ms: int = 1
    ) -> list[Transition]:
        return (journal or self.journal).publishes.finish(claim, duration_ms=duration_ms, pinned=["a:9000"], details={})

    def publish(self, partition: int = DAY, journal: Journal | None = None) -> list[Transition]:
        return self.finish_publish(self.must_claim_publish(partition, journal), journal)

    def load_publish_end(self, windows: Sequence[Window], **planning: Any) -> int:
        """A run from its plan to its end; its id."""
        run_id = self.plan(windows, **planning).run_id
        while planned := self.slices(run_id, "planned"):
            partition = self.slice_row(planned[0]).partition
            for slice_id in planned:
                if self.slice_row(slice_id).partition == partition:
                    self.load(slice_id)
            if self.run_row(run_id).publish_at_end:
                self.publish(partition)
        assert self.journal.runs.finalize(run_id) == "ok"
        return run_id
