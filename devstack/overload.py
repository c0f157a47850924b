"""Arrange a source table so that the Query Server's overload form rejects wide windows and passes narrow ones.

The small pool and queue of that form (`phoenix.OVERLOAD`) reject a scan of many chunks. A scan has one chunk a
guidepost, so two things are needed of the table: an index led by the time column, which makes a window a range of
its own, and guideposts so dense that a wide range holds many. Measured on 60,000 rows a day: an hour and more was
rejected within 0.4 s, half an hour and less passed.
"""

from devstack.phoenix import Run, connect

SOURCE_TABLE = "TBL_JTI_TRACE_CIS_HISTORY"
TIME_COLUMN = "opd"
GUIDEPOST_BYTES = 500_000
TIMEOUT_S = 600.0  # the index is built in the same statement that creates it


def arrange(url: str, table: str = SOURCE_TABLE, time_column: str = TIME_COLUMN) -> bool:
    """Create the covering index if need be, and collect guideposts anew; False when there is no such table.

    To be called on a Query Server of the ordinary form: the overload form would reject this too. A Query Server keeps
    statistics in a cache, so restart it afterwards. Call it again when many rows were added.
    """
    with connect(url, TIMEOUT_S) as run:
        columns = _columns(run, table)
        if not columns:
            return False
        index = f"{table}_BY_{time_column.upper()}"
        keys = {name for name, in_key in columns if in_key}
        if time_column not in keys:
            raise ValueError(f"{time_column} is not in the primary key of {table}")
        covered = ", ".join(f'"{name}"' for name, in_key in columns if not in_key)
        run(f'CREATE INDEX IF NOT EXISTS {index} ON {table} ("{time_column}") INCLUDE ({covered})')
        run(f'UPDATE STATISTICS {table} ALL SET "phoenix.stats.guidepost.width"={GUIDEPOST_BYTES}')
    return True


def _columns(run: Run, table: str) -> list[tuple[str, bool]]:
    """The table's columns, and whether each is part of its primary key."""
    rows = run(
        "SELECT COLUMN_NAME, KEY_SEQ FROM SYSTEM.CATALOG WHERE TABLE_SCHEM IS NULL "
        f"AND TABLE_NAME = '{table}' AND COLUMN_NAME IS NOT NULL"
    )
    return [(str(name), key is not None) for name, key in rows]
