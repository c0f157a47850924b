"""Whether what landed is exact: one window against the seeder's oracle, the others against it, both sides' tables.

The oracle knows the rows without the pipeline (devstack/oracle.py). Windows differ in the time of their rows alone, so
each has the first one's sum of hashes once its times are taken back. The plain loop's table is compared in the same
way, less ``emd`` before 1970, which clickhouse-driver writes a second late when it is given as a datetime (FACTS).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from benchmarks.recording import START_MS, WINDOW_MS
from benchmarks.sides import BenchDeployment
from benchmarks.source_table import ROWS, operation
from devstack.dataset import MAIN_COLUMNS
from devstack.deployment import ms
from devstack.oracle import clean_row, difference, rows_written

KNOWN_FAULT = "emd"
WINDOW = timedelta(milliseconds=WINDOW_MS)


def assert_exact(deployment: BenchDeployment, table: str, since: datetime, windows: int) -> list[str]:
    """Raises AssertionError unless ``table``, and the plain loop's, are exact; notes on what was seen."""
    actual = deployment.rows(table, since, since + WINDOW)
    by = ms(since) - START_MS
    expected = (clean_row((*row[:2], row[2] + by, *row[3:])) for row in rows_written(operation()))  # type: ignore[operator]
    found = difference(expected, actual)
    assert not found, f"{table} is not exact in the window from {since}: {str(found)[:2000]}"
    whole = _hashes(deployment, table, since)
    assert len(whole) == windows, f"{table} holds {len(whole)} windows instead of {windows}"
    assert all(hashes == whole[0] for hashes in whole.values()), f"the windows are not all alike: {whole}"
    assert whole[0]["rows"] == ROWS
    plain = _hashes(deployment, deployment.plain_table, since)
    assert plain.keys() == whole.keys(), f"the plain loop wrote other windows: {plain.keys()}"
    differing = {name for number in whole for name in whole[number] if plain[number][name] != whole[number][name]}
    assert differing <= {KNOWN_FAULT}, f"worker and plain loop wrote differently: {differing}"
    return [
        f"exact: a window of {ROWS:,} rows equals the seeder's oracle in every column, and all {windows} windows are "
        "the same but for their times; the plain loop's rows have the same hashes, column by column"
        + (f", but for {KNOWN_FAULT} before 1970, which clickhouse-driver wrote wrong" if differing else "")
    ]


def _hashes(deployment: BenchDeployment, table: str, since: datetime) -> dict[int, dict[str, int]]:
    """By window: its ``rows``, and by column the sum of the hashes of key and value, times taken back to the first
    window's.
    """
    window = f"intDiv(toUnixTimestamp64Milli(opd) - {ms(since)}, {WINDOW_MS})"
    time = f"toUnixTimestamp64Milli(opd) - {window} * {WINDOW_MS}"
    sums = ", ".join(f"sum(cityHash64(tuple(c, t, {time}, {name})))" for name in MAIN_COLUMNS if name != "opd")
    # A time just before 1970 that is written a second late is one of 1970: hence from its second second on.
    sums += f", sumIf(cityHash64(tuple(c, t, {time}, {KNOWN_FAULT})), toUnixTimestamp64Milli({KNOWN_FAULT}) >= 1000)"
    # A NULL argument would make the whole hash NULL; within a tuple it counts as a value.
    names = ("rows", *(name for name in MAIN_COLUMNS if name != "opd"), f"{KNOWN_FAULT} from 1970 on")
    rows = deployment.query(f"SELECT {window} AS w, count(), {sums} FROM {table} GROUP BY w")
    return {number: dict(zip(names, values, strict=True)) for number, *values in rows}
