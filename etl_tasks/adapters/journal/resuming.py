"""What an ended run left behind, read for its resumption, and its publishes that nobody has made due."""

from __future__ import annotations

from etl_tasks.adapters.journal.database import Database
from etl_tasks.core.resuming import RunRemains
from etl_tasks.core.slicing import PlannedSlice
from etl_tasks.core.windows import Window


class ResumeJournal:
    """Every method is one transaction and safe to repeat."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def remains(self, run_id: int) -> RunRemains | None:
        """What the run left behind; None when the journal has no such run."""
        with self._database.transaction() as transaction:
            run = transaction.one("run_to_resume", run_id=run_id)
            if run is None:
                return None
            undone = [
                PlannedSlice(Window(row.window_from, row.window_to), row.partition, row.step)
                for row in transaction.all("undone_slices_of_run", run_id=run_id)
            ]
            loaded = transaction.all(
                "windows_loaded_after_run",
                run_id=run_id,
                clean_table=run.clean_table,
                partitions=sorted({each.partition for each in undone}),
            )
            owed = transaction.all("owed_partitions_of_run", run_id=run_id)
        details = run.details if isinstance(run.details, dict) else {}
        return RunRemains(
            run_id=int(run.id),
            process_name=run.process_name,
            status=run.status,
            reason=next((str(details[key]) for key in ("error", "reason", "note") if details.get(key)), ""),
            clean_table=run.clean_table,
            shift_min=run.shift_min,
            slices=int(run.slices),
            undone=undone,
            loaded_since=[Window(row.window_from, row.window_to) for row in loaded],
            owed=[row.partition for row in owed],
        )

    def owe_publishes(self, run_id: int) -> list[int]:
        """Make due what the run loaded and nobody publishes, a publish in error too; the partitions that it waits for.

        One that is due already keeps its moment, one that is published right now is offered again at its end.
        """
        with self._database.transaction() as transaction:
            transaction.run("owe_publishes_of_run", run_id=run_id)
            return [row.partition for row in transaction.all("owed_partitions_of_run", run_id=run_id)]
