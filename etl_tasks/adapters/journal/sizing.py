"""What the journal knows of the sizes of windows: rows a stretch of time, sizes that passed or were split, the pace."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from etl_tasks.adapters.journal.database import Database
from etl_tasks.core.row_profile import CELL_S, LOOK_BACK_DAYS, LoadedStretch
from etl_tasks.core.slice_sizing import Experience, SizeClass
from etl_tasks.core.windows import Window

# What was learned is forgotten after this: a source that was given more threads is tried again.
MEMORY_DAYS: Final = 7
MOST_SPLITS: Final = 300
MOST_DONE: Final = 3_000
MOST_A_CELL: Final = 50
PACE_LEAST_ROWS: Final = 1_000


class SizingJournal:
    """Reads only; one transaction a question, milliseconds whatever the journal holds."""

    def __init__(self, database: Database, clean_table: str) -> None:
        self._database = database
        self._clean_table = clean_table

    def loads(self, window: Window) -> list[LoadedStretch]:
        """What was loaded of ``window`` and of the days before it, in order of time; raises Unreachable."""
        midnight = window.start.replace(hour=0, minute=0, second=0)
        earliest = datetime.min.replace(tzinfo=UTC) + timedelta(days=LOOK_BACK_DAYS)
        with self._database.transaction() as transaction:
            rows = transaction.all(
                "sizing_loads",
                clean_table=self._clean_table,
                window_from=max(midnight, earliest) - timedelta(days=LOOK_BACK_DAYS),
                window_to=window.end,
                cell_s=CELL_S,
                most_a_cell=MOST_A_CELL,
            )
        return [
            LoadedStretch(
                Window(row.begins, max(row.reaches_to, row.begins + timedelta(seconds=CELL_S))),
                float(row.rows) / row.window_s,
            )
            for row in rows
        ]

    def experience(self) -> Experience:
        """Sizes that passed and sizes that had to be split in the last ``MEMORY_DAYS``, and the pace; raises
        Unreachable.
        """
        asked = {"clean_table": self._clean_table, "days": MEMORY_DAYS}
        with self._database.transaction() as transaction:
            split = {row.power: row.windows for row in transaction.all("sizing_splits", most=MOST_SPLITS, **asked)}
            done = {row.power: row.windows for row in transaction.all("sizing_done", most=MOST_DONE, **asked)}
            pace = transaction.one("sizing_pace", most=MOST_DONE, least_rows=PACE_LEAST_ROWS, **asked)
        return Experience(
            classes=[
                SizeClass(low_rows=2**size, done=done.get(size, 0), split=split.get(size, 0))
                for size in sorted({*split, *done})
            ],
            rows_a_second=float(pace.rows) / pace.seconds if pace.rows and pace.seconds else None,
        )
