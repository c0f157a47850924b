"""What the operators' commands read of the journal; nothing here writes, and no query walks over old slices."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from etl_tasks.adapters.journal.database import Database, Transaction
from etl_tasks.adapters.journal.runs import watermark_of
from etl_tasks.core.status import (
    FailedSlice,
    OwedPublish,
    PartitionProgress,
    ProcessView,
    RunProgress,
    RunView,
    SliceGroup,
    StatusReport,
)
from etl_tasks.core.windows import Window
from etl_tasks.errors import UsageError

_LAST_RUNS = 3


class StatusJournal:
    """Reads of the journal for ``status`` and ``run``; each one transaction. Raises what the database raises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(self, clean_table: str) -> StatusReport:
        """The state of everything that loads or publishes ``clean_table``."""
        with self._database.transaction() as transaction:
            now = transaction.now()
            rows = transaction.all("status_runs", clean_table=clean_table, last=_LAST_RUNS)
            processes = _processes(transaction, rows)
            run_ids = _runs_in_detail(processes)
            return StatusReport(
                now=now,
                processes=processes,
                slices=[_group(row) for row in transaction.all("status_slices", run_ids=run_ids)],
                owed=[_owed(row) for row in transaction.all("status_owed", clean_table=clean_table)],
                incomplete=[row.partition for row in transaction.all("status_incomplete", clean_table=clean_table)],
                rejected={
                    int(row.run_id): int(row.rejected_rows)
                    for row in transaction.all("status_rejected", run_ids=run_ids)
                },
            )

    def progress(self, run_id: int, settled: Collection[int] = ()) -> RunProgress:
        """The run as it is now; partitions in ``settled`` come without what has to be counted over their slices.

        Raises UsageError when there is no such run.
        """
        with self._database.transaction() as transaction:
            row = transaction.one("progress_run_row", run_id=run_id)
            if row is None:
                raise UsageError(f"the journal has no run {run_id}: see python -m etl_tasks status")
            partitions = transaction.all("progress_partitions", run_id=run_id)
            open_ones = [p.partition for p in partitions if p.partition not in settled and p.state != "waiting"]
            counts = {
                counted.partition: counted
                for counted in transaction.all("progress_slices", run_id=run_id, partitions=open_ones)
            }
            return RunProgress(
                run=_run(row),
                partitions=[_partition(p, counts.get(p.partition)) for p in partitions],
                publishing=any(p.publishing for p in partitions),
                waiting=_waiting(transaction, run_id) if any(c.waiting for c in counts.values()) else None,
            )

    def failed_slices(self, run_id: int, most: int) -> list[FailedSlice]:
        """The first ``most`` windows that the run could not load, in order of time."""
        with self._database.transaction() as transaction:
            return [_failed(row) for row in transaction.all("failed_slices_of_run", run_id=run_id, most=most)]

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
        ProcessView(name, tuple(_run(row) for row in found), watermark=watermark_of(transaction, name))
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


def _run(row: Any) -> RunView:
    return RunView(
        run_id=int(row.id),
        process=row.process_name,
        status=row.status,
        started_at=row.ts_start,
        ended_at=row.ts_end,
        since=row.since,
        until=row.until,
        covered_until=row.covered_until,
        heartbeat_at=row.heartbeat_at,
        details=row.details or {},
    )


def _group(row: Any) -> SliceGroup:
    return SliceGroup(
        run_id=int(row.run_id),
        state=row.state,
        error_kind=row.error_kind,
        slices=int(row.slices),
        rows=int(row.rows),
        overloads=int(row.overloads),
        deepest=int(row.deepest),
        window=Window(row.window_from, row.window_to) if row.window_from is not None else None,
        last_error=row.last_error,
    )


def _owed(row: Any) -> OwedPublish:
    return OwedPublish(
        partition=row.partition,
        state=row.publish_state,
        generations=int(row.generations),
        waiting_since=row.first_unpublished_at,
        not_before=row.not_before,
        attempts=row.spent,
        error_kind=row.error_kind,
        last_error=row.last_error,
    )


def _partition(row: Any, counts: Any) -> PartitionProgress:
    counted = (
        {name: int(getattr(counts, name)) for name in ("rows", "splits", "overloads", "running", "waiting")}
        if counts is not None
        else {}
    )
    return PartitionProgress(
        partition=row.partition,
        state=row.state,
        slices=row.slices,
        open_slices=row.open_slices,
        failed_slices=row.failed_slices,
        loaded=row.wanted_gen > 0,
        published=0 < row.wanted_gen <= row.published_gen,
        publish_failed=row.publish_failed,
        publish_state=row.publish_state,
        publish_waits=bool(row.publish_waits),
        publish_ms=row.last_duration_ms,
        publish_error=row.last_error,
        clean_rows=int(row.clean_rows) if row.clean_rows is not None else None,
        loading_s=float(row.loading_s) if row.loading_s is not None else None,
        **counted,
    )


def _waiting(transaction: Transaction, run_id: int) -> FailedSlice | None:
    row = transaction.one("waiting_slice_of_run", run_id=run_id)
    return _failed(row, row.not_before) if row is not None else None


def _failed(row: Any, not_before: Any = None) -> FailedSlice:
    window = Window(row.window_from, row.window_to)
    return FailedSlice(window, row.error_kind or "unknown", row.last_error or "no reason was written", not_before)
