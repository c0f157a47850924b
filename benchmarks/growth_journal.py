"""What the journal's statements cost as a run has more slices, and as the journal has more of them behind it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import psycopg2

from etl_tasks.adapters.journal import Journal, JournalConfig
from etl_tasks.adapters.journal.queries import render_names
from etl_tasks.adapters.journal.status import StatusJournal
from etl_tasks.core.cadence import CadenceRules
from etl_tasks.core.records import NewRun, SliceResult
from etl_tasks.core.slicing import PlannedSlice, SlicePlan
from etl_tasks.core.windows import Window, partition_of

if TYPE_CHECKING:
    from devstack.stack import Stack

CLEAN = "stg.codes"
LANE = "codes"
FIRST = datetime(2024, 1, 1, tzinfo=UTC)
SLICE = timedelta(minutes=5)
SLICES_A_DAY = 24 * 60 // 5
CLAIMS = 500
"""Slices that are claimed and finished for a measurement, spread over the run."""
SWEEP: dict[str, Any] = {"grace_s": 10, "resend_after_s": 120, "queue_empty": False, "max_attempts": 5, "most": 5000}
AT_END = CadenceRules(every_minutes=0, every_slices=0, always_at_end=True)
# Eleven years of days, a generation a slice: a journal that has been kept.
OLD_SLICES = (
    "INSERT INTO public.inc_processing_slices (run_id, clean_table, partition, window_from, window_to, step, state, "
    "released_at, attempt, spent, enqueued_at, sends, generation, rows_distinct, finished_at) "
    "SELECT 1 + i / 1000, %s, 20150101 + i %% 4000, '2014-01-01'::timestamptz + i * interval '5 min', "
    "'2014-01-01'::timestamptz + (i + 1) * interval '5 min', 0, 'done', clock_timestamp(), 1, 1, clock_timestamp(), 1, "
    "1 + i / 4000, 10, clock_timestamp() FROM generate_series(0, %s - 1) AS i"
)
OLD_RUNS = (
    "INSERT INTO public.inc_processing (process_name, status, ts_end, clean_table, watermark) "
    "SELECT 'codes', 'ok', clock_timestamp(), %s, '2023-08-01' FROM generate_series(0, %s / 1000)"
)
OLD_PARTITIONS = (
    "INSERT INTO public.inc_processing_partitions (clean_table, partition, loaded_gen, published_gen) "
    "SELECT %s, 20150101 + i, %s / 4000 + 1, %s / 4000 + 1 FROM generate_series(0, 3999) AS i"
)


class OwnJournal:
    """A journal in a schema of its own; a context manager removes it."""

    def __init__(self, stack: Stack) -> None:
        dsn = stack.env()["PG_DSN"]
        self._schema = f"bench_{uuid.uuid4().hex[:8]}"
        self._direct = psycopg2.connect(dsn)
        self._direct.autocommit = True
        self._config = JournalConfig(dsn=dsn, table=f"{self._schema}.inc_processing")
        self.journal = Journal(self._config, CLEAN, AT_END)

    def __enter__(self) -> OwnJournal:
        self.journal.ensure()
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()
        self.execute(f'DROP SCHEMA "{self._schema}" CASCADE')
        self._direct.close()

    def execute(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement written for public.inc_processing."""
        with self._direct.cursor() as cursor:
            cursor.execute(render_names(sql, self._config.table), parameters or None)
            return list(cursor.fetchall()) if cursor.description else []

    def age(self, slices: int) -> None:
        """So many done slices of ended runs."""
        self.execute(OLD_RUNS, CLEAN, slices)
        self.execute(OLD_SLICES, CLEAN, slices)
        self.execute(OLD_PARTITIONS, CLEAN, slices, slices)
        for name in ("", "_slices", "_partitions"):
            self.execute(f"ANALYZE public.inc_processing{name}")

    def plan(self, slices: int) -> tuple[int, float]:
        """A run by hand of so many slices; its number, and the seconds of the transaction that wrote it."""
        windows = [Window(FIRST + number * SLICE, FIRST + (number + 1) * SLICE) for number in range(slices)]
        planned = tuple(PlannedSlice(window, partition_of(window.start), step) for step, window in enumerate(windows))
        plan = SlicePlan(
            since=windows[0].start,
            until=windows[-1].end,
            slices=planned,
            partitions=tuple(sorted({each.partition for each in planned})),
            steps=slices,
            notices=(),
            source_windows=tuple(windows),
        )
        new = NewRun(f"manual_{LANE}", CLEAN, True, True, 0, plan, plan.until, None)
        began = time.perf_counter()
        run_id = self.journal.runs.plan(new, len(plan.partitions)).run_id
        return run_id, time.perf_counter() - began

    def work(self, run_id: int, most: int = CLAIMS) -> tuple[float, float]:
        """Median milliseconds of a claim and of a finish, over slices spread through the run."""
        ids = self.execute("SELECT id FROM public.inc_processing_slices WHERE run_id = %s ORDER BY id", run_id)
        step = max(1, len(ids) // most)
        claims, finishes = [], []
        for (slice_id,) in ids[::step][:most]:
            began = time.perf_counter()
            claim = self.journal.slices.claim(slice_id, worker="bench", lease_s=600, max_attempts=5)
            claimed = time.perf_counter()
            assert claim is not None, f"slice {slice_id} could not be claimed"
            self.journal.slices.finish(claim, SliceResult(10, 10, 10, 10, 0, {"fetch": 1}))
            claims.append(1000 * (claimed - began))
            finishes.append(1000 * (time.perf_counter() - claimed))
        return median(claims), median(finishes)


def by_slices(stack: Stack, sizes: Sequence[int], rounds: int) -> dict[str, list[float]]:
    """Seconds to plan a run of each size, and to claim and finish its slices (of many, a part is measured)."""
    series: dict[str, list[float]] = {"plan a run, s": [], "claim and finish all of its slices, s": []}
    for size in sizes:
        plans, works = [], []
        for _ in range(rounds):
            with OwnJournal(stack) as own:
                run_id, seconds = own.plan(size)
                claim_ms, finish_ms = own.work(run_id)
            plans.append(seconds)
            works.append(size * (claim_ms + finish_ms) / 1000)
        series["plan a run, s"].append(median(plans))
        series["claim and finish all of its slices, s"].append(median(works))
        print(f"  {size:,} slices: planned in {median(plans):.3f} s, worked in {median(works):.2f} s", flush=True)
    return series


def by_journal(stack: Stack, sizes: Sequence[int], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the statements of a day's run, over a journal that holds so many slices of earlier ones."""
    series: dict[str, list[float]] = {}
    for size in sizes:
        with OwnJournal(stack) as own:
            own.age(size)
            run_id, plan_s = own.plan(SLICES_A_DAY)
            claim_ms, finish_ms = own.work(run_id, SLICES_A_DAY)
            status = StatusJournal(own.journal.database)
            taken = {
                "plan a day, ms": 1000 * plan_s,
                "a claim, ms": claim_ms,
                "a finish, ms": finish_ms,
                "a sweep's questions, ms": _milliseconds(partial(_sweep, own.journal), rounds),
                "status, ms": _milliseconds(partial(status.report, CLEAN, LANE), rounds),
            }
        shown = ", ".join(f"{name.replace(', ms', '')} {ms:.1f} ms" for name, ms in taken.items())
        print(f"  {size:,} slices behind: {shown}", flush=True)
        for name, value in taken.items():
            series.setdefault(name, []).append(value)
    return series


def _sweep(journal: Journal) -> None:
    """What the sweeper asks at every turn."""
    journal.sweeps.due_slices(**SWEEP)
    journal.sweeps.queue_beliefs()
    journal.slices.fail_spent(CLEAN, 5)


def _milliseconds(work: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(max(3, rounds)):
        began = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - began))
    return median(taken)
