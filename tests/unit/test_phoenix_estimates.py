"""What EXPLAIN's lines are read as; the lines are a real Query Server's."""

from __future__ import annotations

from datetime import UTC, datetime

from etl_tasks.adapters.phoenix.estimates import read_estimate
from etl_tasks.core.row_profile import Estimate

SCAN = "PARALLEL 1-WAY ROUND ROBIN RANGE SCAN OVER T_BY_OPD ['2026-11-24 00:00:00.000'] - ['2026-11-25 00:00:00.000']"
AS_OF_MS = 1_795_647_792_000
AS_OF = datetime(2026, 11, 25, 23, 3, 12, tzinfo=UTC)


def test_chunks_rows_bytes_and_their_time() -> None:
    line = f"CLIENT 132-CHUNK 29905 ROWS 65507897 BYTES {SCAN}"
    assert read_estimate([[line, 65507897, 29905, AS_OF_MS]]) == Estimate(29905, 65507897, 132, AS_OF)


def test_an_empty_window_is_no_rows_not_unknown() -> None:
    assert read_estimate([[f"CLIENT 1-CHUNK 0 ROWS 0 BYTES {SCAN}", 0, 0, AS_OF_MS]]) == Estimate(0, 0, 1, AS_OF)


def test_without_statistics_there_is_no_estimate() -> None:
    filtered = "    SERVER FILTER BY (\"opd\" >= TIMESTAMP '2026-11-24 00:00:00.000')"
    assert read_estimate([[f"CLIENT 1-CHUNK {SCAN}", None, None, None], [filtered, None, None, None]]) is None
    assert read_estimate([]) is None


def test_a_time_that_no_calendar_has_is_none() -> None:
    line = f"CLIENT 132-CHUNK 29905 ROWS 65507897 BYTES {SCAN}"
    for as_of_ms in (2**63 - 1, 0, -1):
        assert read_estimate([[line, 65507897, 29905, as_of_ms]]) == Estimate(29905, 65507897, 132, None)


def test_an_older_server_says_it_in_the_text_alone() -> None:
    assert read_estimate([[f"CLIENT 24-CHUNK 4904 ROWS 11500914 BYTES {SCAN}"]]) == Estimate(4904, 11500914, 24)


def test_a_server_that_hides_chunks_says_it_in_the_columns() -> None:
    assert read_estimate([[f"CLIENT {SCAN}", 500, 7, AS_OF_MS]]) == Estimate(7, 500, None, AS_OF)
