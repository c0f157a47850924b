"""Rows and counts of windows, for the publish's check and for ``reconcile``."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import accumulate

from etl_tasks.adapters.clickhouse.client import Connection, Row, single
from etl_tasks.adapters.clickhouse.identifiers import quote_name
from etl_tasks.core.windows import Window
from etl_tasks.errors import TransientError

# Rows of every second of a span: at most 86,400 rows of answer a day, whatever the number of windows.
ROWS_A_SECOND = """
SELECT intDiv(toUnixTimestamp64Milli({ts}), 1000) AS second, count()
FROM {table}{final}
WHERE {ts} >= fromUnixTimestamp64Milli(%(start)s, 'UTC') AND {ts} < fromUnixTimestamp64Milli(%(end)s, 'UTC')
GROUP BY second
"""

# Rows of one long window.
COUNT_WINDOW = """
SELECT count()
FROM {table}{final}
WHERE {ts} >= fromUnixTimestamp64Milli(%(start)s, 'UTC') AND {ts} < fromUnixTimestamp64Milli(%(end)s, 'UTC')
"""

# The rows of a window, times as milliseconds.
ROWS = """
SELECT {columns}
FROM {table}{final}
WHERE {ts} >= fromUnixTimestamp64Milli(%(start)s, 'UTC') AND {ts} < fromUnixTimestamp64Milli(%(end)s, 'UTC')
"""

SPAN = timedelta(days=1)
WHOLE = {"skip_unavailable_shards": 0}
"""A profile may let reads pass over dead shards; a count that does is worth nothing."""


def count_windows(
    connection: Connection, table_sql: str, ts_column: str, windows: Sequence[Window], *, tag: str, final: bool = False
) -> list[int]:
    """The rows of each window, in the order of ``windows``, which may overlap."""
    counts = [0] * len(windows)
    names = {"table": table_sql, "ts": quote_name(ts_column), "final": " FINAL" if final else ""}
    order = sorted(range(len(windows)), key=lambda index: windows[index])
    for group in _spans(order, windows):
        span = {
            "start": min(windows[index].start_ms for index in group),
            "end": max(windows[index].end_ms for index in group),
        }
        if len(group) == 1:
            counts[group[0]] = _count(connection, names, span, tag)
            continue
        rows = _rows_a_second(connection, names, span, tag)
        seconds = [second for second, _ in rows]
        before = [0, *accumulate(count for _, count in rows)]
        for index in group:
            first = bisect_left(seconds, windows[index].start_ms // 1000)
            past = bisect_left(seconds, windows[index].end_ms // 1000)
            counts[index] = before[past] - before[first]
    return counts


def _rows_a_second(
    connection: Connection, names: Mapping[str, str], span: Mapping[str, int], tag: str
) -> list[tuple[int, int]]:
    """(Second, rows) in order of time. "No rows" is asked twice: a killed SELECT may say the same, without an error."""
    for _ in range(2):
        rows = connection.execute(ROWS_A_SECOND.format(**names), span, tag=tag, settings=WHOLE)
        if rows or not _count(connection, names, span, tag):
            return sorted((int(second), int(count)) for second, count in rows)
    raise TransientError(f"ClickHouse {connection.host} shows no rows of {names['table']}, and counts some")


def _count(connection: Connection, names: Mapping[str, str], span: Mapping[str, int], tag: str) -> int:
    (count,) = single(connection.execute(COUNT_WINDOW.format(**names), span, tag=tag, settings=WHOLE))
    return int(count)


def _spans(order: Iterable[int], windows: Sequence[Window]) -> Iterator[list[int]]:
    """Windows in order of time in groups that span a day at most; a longer window is a group of its own."""
    group: list[int] = []
    for index in order:
        if group and max(windows[each].end for each in (*group, index)) - windows[group[0]].start > SPAN:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def in_milliseconds(name: str, type_: str) -> str:
    """The expression that reads a column: times become integers of milliseconds since the epoch."""
    column = quote_name(name)
    if type_.startswith("Array("):
        element = _in_milliseconds("x", type_.removeprefix("Array("))
        return column if element == "x" else f"arrayMap(x -> {element}, {column})"
    return _in_milliseconds(column, type_)


def _in_milliseconds(value: str, type_: str) -> str:
    bare = type_.removeprefix("LowCardinality(").removeprefix("Nullable(")
    if bare.startswith("DateTime64"):
        return f"toUnixTimestamp64Milli({value})"
    if bare.startswith("DateTime"):
        return f"toInt64(toUnixTimestamp({value})) * 1000"
    if bare.startswith("Date"):
        return f"toInt64(toInt32({value})) * 86400000"
    return value


def rows(
    connection: Connection,
    table_sql: str,
    ts_column: str,
    window: Window,
    expressions: Sequence[str],
    *,
    tag: str,
    final: bool = False,
) -> Iterator[Row]:
    """The window's rows in no order, a block at a time in memory."""
    sql = ROWS.format(
        columns=", ".join(expressions), table=table_sql, final=" FINAL" if final else "", ts=quote_name(ts_column)
    )
    yield from connection.iterate(sql, {"start": window.start_ms, "end": window.end_ms}, tag=tag, settings=WHOLE)
