"""What EXPLAIN tells of a read's size, where the table has statistics (guideposts)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from etl_tasks.adapters.phoenix.connection import FramePace, QueryServerConnection
from etl_tasks.adapters.phoenix.decode import cell_value
from etl_tasks.core.row_profile import Estimate
from etl_tasks.core.windows import EPOCH

_ROWS_PLACE: Final = 100  # of a plan's lines; they never are so many
_LINE_BYTES: Final = 1 << 20

# CLIENT 24-CHUNK 4904 ROWS 11500914 BYTES PARALLEL 24-WAY … ; without statistics CLIENT 1-CHUNK PARALLEL …
_CHUNKS = re.compile(r"\b(\d+)-CHUNK\b")
_SIZES = re.compile(r"\b(\d+) ROWS (\d+) BYTES\b")


def ask(connection: QueryServerConnection, statement: str, context: str) -> Estimate | None:
    """The estimate of ``statement``, a SELECT; None where the table has no statistics. Raises by the error table."""
    lines = [
        [cell_value(value) for value in row.value]
        for frame in connection.frames("EXPLAIN " + statement, FramePace(_ROWS_PLACE, _LINE_BYTES), context)
        for row in frame.rows
    ]
    return read_estimate(lines)


def _time(as_of_ms: object) -> datetime | None:
    """When the statistics were made; None for none, and for what is no time of the calendar (Long.MAX_VALUE)."""
    if not isinstance(as_of_ms, int) or as_of_ms <= 0:
        return None
    try:
        return EPOCH + timedelta(milliseconds=as_of_ms)
    except OverflowError:
        return None


def read_estimate(lines: Iterable[Sequence[object]]) -> Estimate | None:
    """The estimate in the lines of a plan: text, and from Phoenix 4.11 on bytes, rows and the statistics' time.

    The columns count before the text: ``phoenix.explain.displayChunkCount`` leaves the text without numbers.
    """
    for text, *columns in lines:
        line = str(text)
        size_bytes, rows, as_of_ms = [*columns, None, None, None][:3]
        if not isinstance(size_bytes, int) or not isinstance(rows, int):
            found = _SIZES.search(line)
            if found is None:
                continue
            rows, size_bytes = int(found[1]), int(found[2])
        chunks = _CHUNKS.search(line)
        return Estimate(
            rows=rows,
            bytes=size_bytes,
            chunks=int(chunks[1]) if chunks else None,
            as_of=_time(as_of_ms),
        )
    return None
