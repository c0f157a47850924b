"""The baseline: the loop that anyone writes, phoenixdb rows into clickhouse-driver rows, one after the other.

``fetchmany`` of 5,000 with frames of as many, rows as they come with datetimes cut to milliseconds, INSERT of rows with
lz4, 20,000 a block, one process. ``python -m benchmarks.baseline`` takes one JSON object on its standard input and
prints one: rows, seconds, cpu_s (user and system, of the copying alone), peak_mb (of the process).
"""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from typing import Any

import phoenixdb
from clickhouse_driver import Client

from benchmarks.processes import peak_mb

FETCH_ROWS = 5_000
BLOCK_ROWS = 20_000


def copy(job: dict[str, Any]) -> int:
    """Copy the rows that ``job["sql"]`` selects; how many."""
    columns = job["columns"]
    code, array = columns.index("c"), columns.index("ch")
    source = phoenixdb.connect(job["url"], autocommit=True)
    target = Client(job["host"], job["port"], user=job["user"], password=job["password"], compression="lz4")
    insert = f"INSERT INTO {job['target']} ({', '.join(columns)}) VALUES"
    cursor = source.cursor()
    cursor.itersize = FETCH_ROWS
    cursor.execute(job["sql"])
    copied = 0
    block: list[list[Any]] = []
    while rows := cursor.fetchmany(FETCH_ROWS):
        for row in rows:
            for position, value in enumerate(row):
                if isinstance(value, datetime):
                    row[position] = value.replace(microsecond=value.microsecond // 1000 * 1000)
            row[code] = row[code] or ""
            row[array] = [element or "" for element in row[array] or ()]
        block += rows
        if len(block) >= BLOCK_ROWS:
            target.execute(insert, block)
            copied += len(block)
            block = []
    if block:
        target.execute(insert, block)
        copied += len(block)
    cursor.close()
    source.close()
    target.disconnect()
    return copied


def main() -> int:
    """Copy as the job on standard input says."""
    job = json.load(sys.stdin)
    began, cpu_began = time.monotonic(), time.process_time()
    rows = copy(job)
    seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu_began
    print(json.dumps({"rows": rows, "seconds": seconds, "cpu_s": cpu_s, "peak_mb": peak_mb("self")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
