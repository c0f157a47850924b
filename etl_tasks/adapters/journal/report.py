"""One run whole, for its page."""

from __future__ import annotations

from typing import Any

from etl_tasks.adapters.journal.database import Database
from etl_tasks.core.report import DayCoverage, ErrorGroup, RejectedValue, RunRecord
from etl_tasks.core.report_timeline import ReportSlice
from etl_tasks.core.status import RunProgress
from etl_tasks.core.windows import Window

_MOST_ERRORS = 30
_MOST_REJECTS = 20


class ReportJournal:
    """Reads for ``report``; nothing is written. Raises what the database raises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, progress: RunProgress) -> RunRecord:
        """Everything about the run of ``progress``, errors and rejects bounded."""
        run = {"run_id": progress.run.run_id}
        with self._database.transaction() as transaction:
            rejects = transaction.all("report_rejects", **run, most=_MOST_REJECTS)
            return RunRecord(
                now=transaction.now(),
                progress=progress,
                slices=[_slice(row) for row in transaction.all("report_slices", **run)],
                coverage=[
                    DayCoverage(row.partition, float(row.loaded_s), float(row.published_s), row.incomplete)
                    for row in transaction.all("report_coverage", **run)
                ],
                errors=[_error(row) for row in transaction.all("report_errors", **run, most=_MOST_ERRORS)],
                rejects=[RejectedValue(row.row_key, row.column_name, row.value or "", row.reason) for row in rejects],
                rejected_rows=int(rejects[0].rejected_rows) if rejects else 0,
            )


def _slice(row: Any) -> ReportSlice:
    return ReportSlice(
        slice_id=int(row.id),
        parent_id=row.parent_id,
        partition=row.partition,
        window=Window(row.window_from, row.window_to),
        state=row.state,
        depth=row.depth,
        attempt=row.attempt,
        overloads=row.overloads,
        rows=int(row.rows),
        started_at=row.started_at,
        finished_at=row.finished_at,
        worker=row.worker,
        error_kind=row.error_kind,
    )


def _error(row: Any) -> ErrorGroup:
    return ErrorGroup(
        state=row.state,
        error_kind=row.error_kind or "unknown",
        slices=int(row.slices),
        overloads=int(row.overloads),
        span=Window(row.window_from, row.window_to),
        last_error=row.last_error,
    )
