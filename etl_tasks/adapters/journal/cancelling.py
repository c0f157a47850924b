"""A run before and after it was cancelled; ``RunJournal.abort`` is what ends it."""

from __future__ import annotations

from etl_tasks.adapters.journal.database import Database
from etl_tasks.core.cancelling import CancelledRun, check_cancellable
from etl_tasks.core.states import PublishState
from etl_tasks.errors import UsageError


class CancelJournal:
    """Reads of the journal for ``cancel``; each one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def check(self, run_id: int, clean_table: str) -> None:
        """Raise UsageError when there is no such run, or it cannot be cancelled."""
        with self._database.transaction() as transaction:
            run = transaction.one("run_to_cancel", run_id=run_id)
        if run is None:
            raise UsageError(f"the journal has no run {run_id}: see python -m etl_tasks status")
        check_cancellable(run_id, run.process_name, run.status, run.clean_table, clean_table)

    def outcome(self, run_id: int) -> CancelledRun:
        """What became of a run that was just cancelled."""
        with self._database.transaction() as transaction:
            run = transaction.one("run_to_cancel", run_id=run_id)
            slices = transaction.one("slices_of_cancelled_run", run_id=run_id)
            publishes = transaction.all("publishes_of_cancelled_run", run_id=run_id)
        running = [row.partition for row in publishes if row.publish_state == PublishState.RUNNING]
        return CancelledRun(
            run_id=run_id,
            process_name=run.process_name,
            loaded=int(slices.loaded),
            left=int(slices.left_undone),
            reading=int(slices.reading),
            due=[row.partition for row in publishes if row.partition not in running],
            publishing=running,
        )
