"""Plans one interval as the product does, in a process of its own with the deployment's settings, and times the parts.

``python -m benchmarks.planner SINCE UNTIL`` prints one JSON object: run, slices, transactions (that wrote them),
transaction_s, executemany_s (the baseline: the same rows one by one), total_s, sent, dispatch_s.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg2

from etl_tasks.adapters.journal.runs import RunJournal
from etl_tasks.celery import settings, wiring
from etl_tasks.core.records import NewRun, PlannedRun
from etl_tasks.pipeline import plan as plan_module
from etl_tasks.pipeline.plan import PlanRequest, plan_interval

COLUMNS = ("run_id", "clean_table", "partition", "window_from", "window_to", "step")
INSERT_ONE = f"INSERT INTO one_by_one ({', '.join(COLUMNS)}) VALUES ({', '.join('%s' for _ in COLUMNS)})"


@dataclass
class Timed:
    """What the wrapped steps took."""

    new: NewRun | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def plan(self, runs: RunJournal, new: NewRun, partitions_in_flight: int) -> PlannedRun:
        """``RunJournal.plan``, timed; then, before anything is sent, by how many transactions its rows were written."""
        self.new = new
        began = time.perf_counter()
        planned = RunJournal.plan(runs, new, partitions_in_flight)
        self.facts["transaction_s"] = time.perf_counter() - began
        table = settings().journal_table
        ((slices, transactions),) = _rows(
            f"SELECT count(*), count(DISTINCT xmin::text) FROM {table}_slices WHERE run_id = %s", planned.run_id
        )
        self.facts |= {"run": planned.run_id, "slices": slices, "transactions": transactions}
        return planned

    def dispatch(self, *arguments: Any) -> None:
        """``plan._dispatch``, timed."""
        began = time.perf_counter()
        _dispatch(*arguments)
        self.facts["dispatch_s"] = time.perf_counter() - began


_dispatch = plan_module._dispatch


def _rows(sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(settings().pg_dsn.get_secret_value())
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall())
    finally:
        connection.close()


def _one_by_one(new: NewRun) -> float:
    """Seconds that the usual ``executemany`` of the same rows takes, into a table of the same form and indexes."""
    rows = [(1, new.clean_table, s.partition, s.window.start, s.window.end, s.step) for s in new.plan.slices]
    connection = psycopg2.connect(settings().pg_dsn.get_secret_value())
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE TEMPORARY TABLE one_by_one (LIKE {settings().journal_table}_slices INCLUDING ALL)")
            connection.commit()
            began = time.perf_counter()
            cursor.executemany(INSERT_ONE, rows)
            connection.commit()
            return time.perf_counter() - began
    finally:
        connection.close()


def main() -> int:
    """Plan ``SINCE UNTIL`` in the manual lane."""
    since, until = (datetime.fromisoformat(text) for text in sys.argv[1:3])
    timed = Timed()
    context = wiring().plan_context()
    runs = context.journal.runs
    runs.plan = lambda new, most: timed.plan(runs, new, most)  # type: ignore[assignment, arg-type, method-assign]
    plan_module._dispatch = timed.dispatch  # type: ignore[assignment]
    began = time.perf_counter()
    planned = plan_interval(PlanRequest(since, until, manual=True), context)
    timed.facts["total_s"] = time.perf_counter() - began
    if timed.new is None or planned.status != "planned":
        raise SystemExit(f"nothing was planned: {planned}")
    ((sent,),) = _rows(
        f"SELECT count(*) FROM {settings().journal_table}_slices WHERE run_id = %s AND enqueued_at IS NOT NULL",
        planned.run_id,
    )
    timed.facts |= {"sent": sent, "executemany_s": _one_by_one(timed.new)}
    print(json.dumps(timed.facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
