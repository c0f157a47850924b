"""What the operators' commands read of the journal; nothing here writes, and no query walks over old slices."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from etl_tasks.adapters.journal.database import Database, Transaction
from etl_tasks.adapters.journal.lock import reconcile_lock_name
from etl_tasks.adapters.journal.read_turns import source_reads
from etl_tasks.adapters.journal.runs import watermark_of
from etl_tasks.adapters.journal.status_rows import (
    failed_slice,
    open_work,
    owed_publish,
    pace_of,
    partition_progress,
    reconcile_view,
    reject_group,
    run_view,
    slice_group,
    split_tree,
    unloaded_windows,
    window_time,
)
from etl_tasks.core.run_report import RECENT_S, RunReport
from etl_tasks.core.states import lanes_of
from etl_tasks.core.status import (
    NEWEST_REJECTS,
    DifferingWindow,
    FailedSlice,
    Holes,
    ProcessView,
    RejectedRows,
    RejectGroup,
    RunProgress,
    StatusReport,
)
from etl_tasks.core.windows import Window
from etl_tasks.errors import UsageError

_LAST_RUNS = 3
_MOST_REJECTS = 50
_LAST_RECONCILES = 5
_MOST_WINDOWS = 10


class StatusJournal:
    """Reads of the journal for ``status`` and ``run``; each one transaction. Raises what the database raises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(self, clean_table: str, process: str, shift_min: int = 0) -> StatusReport:
        """The state of everything that loads or publishes ``clean_table``; ``process`` is the schedule's.

        ``shift_min`` is the shift of source time against business time.
        """
        with self._database.transaction() as transaction:
            now = transaction.now()
            rows = transaction.all("status_runs", clean_table=clean_table, last=_LAST_RUNS, lanes=lanes_of(process))
            processes = _processes(transaction, rows)
            run_ids = _runs_in_detail(processes)
            every = {"clean_table": clean_table, "run_id": None}
            return StatusReport(
                now=now,
                processes=processes,
                slices=[slice_group(row) for row in transaction.all("status_slices", run_ids=run_ids)],
                owed=[owed_publish(row) for row in transaction.all("status_owed", clean_table=clean_table)],
                incomplete=[row.partition for row in transaction.all("status_incomplete", clean_table=clean_table)],
                rejected={
                    int(row.run_id): int(row.rejected_rows)
                    for row in transaction.all("status_rejected", run_ids=run_ids)
                },
                work=open_work(transaction.one("status_work", **every)),
                unloaded=[unloaded_windows(row) for row in transaction.all("status_unloaded", **every)],
                rejects=_rejects(transaction, every),
                rejected_rows=_rejected_rows(transaction, clean_table),
                holes=_holes(transaction, clean_table, watermark_of(transaction, process), shift_min),
                reconciles=[
                    reconcile_view(row)
                    for row in transaction.all(
                        "status_reconciles",
                        clean_table=clean_table,
                        most=_LAST_RECONCILES,
                        lock=reconcile_lock_name(self._database.config, clean_table),
                    )
                ],
                differing=[
                    DifferingWindow(Window(row.window_from, row.window_to), row.by_hash, row.mendable)
                    for row in transaction.all("status_differing", clean_table=clean_table)
                ],
                reads=source_reads(transaction),
            )

    def progress(self, run_id: int, settled: Collection[int] = ()) -> RunProgress:
        """The run as it is now; partitions in ``settled`` come without what has to be counted over their slices.

        Raises UsageError when there is no such run.
        """
        with self._database.transaction() as transaction:
            return _progress(transaction, _run_row(transaction, run_id), settled)

    def run_report(self, run_id: int) -> RunReport:
        """One run whole. Its cost grows with the run's slices, not with the journal.

        Raises UsageError when there is no such run.
        """
        with self._database.transaction() as transaction:
            row = _run_row(transaction, run_id)
            now = transaction.now()
            key = {"clean_table": row.clean_table, "run_id": run_id}
            slowest = transaction.all("slowest_windows_of_run", run_id=run_id, most=_MOST_WINDOWS)
            most_split = transaction.all("most_split_windows_of_run", run_id=run_id, most=_MOST_WINDOWS)
            return RunReport(
                now=now,
                clean_table=row.clean_table,
                shift_min=row.shift_min,
                progress=_progress(transaction, row, ()),
                groups=[slice_group(each) for each in transaction.all("status_slices", run_ids=[run_id])],
                work=open_work(transaction.one("status_work", **key)),
                slowest=[window_time(each) for each in slowest],
                most_split=[split_tree(each) for each in most_split],
                rejected_rows=int(transaction.one("rejected_rows_of_run", run_id=run_id).rejected_rows),
                rejects=_rejects(transaction, key),
                unloaded=sum(int(each.windows) for each in transaction.all("status_unloaded", **key)),
                pace=pace_of(transaction.one("pace_of_run", run_id=run_id, recent_s=RECENT_S), RECENT_S),
            )

    def failed_slices(self, run_id: int, most: int) -> list[FailedSlice]:
        """The first ``most`` windows that the run could not load, in order of time."""
        with self._database.transaction() as transaction:
            return [failed_slice(row) for row in transaction.all("failed_slices_of_run", run_id=run_id, most=most)]

    def columns(self) -> dict[str, int | None]:
        """The journal's tables, as quoted names, and how many columns each has; None for one that is not there."""
        with self._database.transaction() as transaction:
            rows = transaction.all("journal_columns")
        return {row.name.replace('"', ""): int(row.columns) if row.found else None for row in rows}


def _processes(transaction: Transaction, rows: Sequence[Any]) -> list[ProcessView]:
    by_name: dict[str, list[Any]] = {}
    for row in rows:
        by_name.setdefault(row.process_name, []).append(row)
    return [
        ProcessView(name, tuple(run_view(row) for row in found), watermark=watermark_of(transaction, name))
        for name, found in by_name.items()
    ]


def _runs_in_detail(processes: Sequence[ProcessView]) -> list[int]:
    """Active runs, and the last one of each process that was not refused: only their slices are looked at."""
    chosen: set[int] = set()
    for process in processes:
        runs = [run for run in process.runs if not run.is_publish]
        chosen.update(run.run_id for run in runs if run.active)
        chosen.update(run.run_id for run in [run for run in runs if run.status != "skipped"][:1])
    return sorted(chosen)


def _rejects(transaction: Transaction, key: Mapping[str, Any]) -> list[RejectGroup]:
    rows = transaction.all("status_rejects", **key, newest=NEWEST_REJECTS, most=_MOST_REJECTS)
    return [reject_group(row) for row in rows]


def _rejected_rows(transaction: Transaction, clean_table: str) -> RejectedRows:
    row = transaction.one("status_rejected_rows", clean_table=clean_table, newest=NEWEST_REJECTS)
    return RejectedRows(int(row.rows), row.run_id)


def _holes(transaction: Transaction, clean_table: str, watermark: datetime | None, shift_min: int) -> Holes | None:
    """What is missing below the watermark: above it the schedule comes by, and how far it is behind is its lag."""
    until = watermark + timedelta(minutes=shift_min) if watermark is not None else None
    row = transaction.one("status_holes", clean_table=clean_table, until=until)
    return Holes(int(row.holes), float(row.seconds), row.window_from, row.window_to) if row.holes else None


def _run_row(transaction: Transaction, run_id: int) -> Any:
    row = transaction.one("progress_run_row", run_id=run_id)
    if row is None:
        raise UsageError(f"the journal has no run {run_id}: see python -m etl_tasks status")
    return row


def _progress(transaction: Transaction, row: Any, settled: Collection[int]) -> RunProgress:
    run_id = int(row.id)
    partitions = transaction.all("progress_partitions", run_id=run_id)
    open_ones = [p.partition for p in partitions if p.partition not in settled and p.state != "waiting"]
    counted = transaction.all("progress_slices", run_id=run_id, partitions=open_ones)
    counts = {each.partition: each for each in counted}
    return RunProgress(
        run=run_view(row),
        partitions=[partition_progress(p, counts.get(p.partition)) for p in partitions],
        publishing=any(p.publishing for p in partitions),
        waiting=_waiting(transaction, run_id) if any(c.waiting for c in counted) else None,
    )


def _waiting(transaction: Transaction, run_id: int) -> FailedSlice | None:
    row = transaction.one("waiting_slice_of_run", run_id=run_id)
    return failed_slice(row, row.not_before) if row is not None else None
