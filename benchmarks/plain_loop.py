"""The baseline: the loop that anyone writes, phoenixdb rows into clickhouse-driver rows, in a process of its own.

``python -m benchmarks.plain_loop`` takes one JSON object on its standard input and prints one: rows, seconds, peak_mb.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import phoenixdb
from clickhouse_driver import Client

from benchmarks.processes import peak_mb

FETCH_ROWS = 5_000


def copy(job: dict[str, Any]) -> int:
    """Copy the rows of the window; how many."""
    columns = job["columns"]
    names = ", ".join(f'"{name}"' for name in columns)
    code, array = columns.index("c"), columns.index("ch")
    source = phoenixdb.connect(job["url"], autocommit=True)
    target = Client(job["host"], job["port"], user=job["user"], password=job["password"])
    cursor = source.cursor()
    cursor.execute(
        f"SELECT {names} FROM {job['table']} "
        f"WHERE \"opd\" >= TIMESTAMP '{job['since']}' AND \"opd\" < TIMESTAMP '{job['until']}'"
    )
    copied = 0
    while rows := cursor.fetchmany(FETCH_ROWS):
        for row in rows:
            row[code] = row[code] or ""
            row[array] = [element or "" for element in row[array] or ()]
        target.execute(f"INSERT INTO {job['target']} ({names}) VALUES", rows)
        copied += len(rows)
    cursor.close()
    source.close()
    target.disconnect()
    return copied


def main() -> int:
    """Copy as the job on standard input says."""
    job = json.load(sys.stdin)
    began = time.monotonic()
    rows = copy(job)
    print(json.dumps({"rows": rows, "seconds": time.monotonic() - began, "peak_mb": peak_mb("self")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
