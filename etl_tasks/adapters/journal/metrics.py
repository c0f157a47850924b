"""The journal as metrics: one consistent look a scrape, cheap however many slices have ended."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from etl_tasks.adapters.journal.counting import counted
from etl_tasks.adapters.journal.database import Database, Transaction
from etl_tasks.adapters.journal.gaps import covered, loaded_facts
from etl_tasks.adapters.journal.read_turns import source_reads
from etl_tasks.adapters.journal.runs import watermark_of
from etl_tasks.core.gaps import default_interval, due_window, find_gaps
from etl_tasks.core.metrics import (
    Counts,
    GapMetrics,
    JournalMetrics,
    ProcessMetrics,
    PublishingMetrics,
    ReconcileMetrics,
    lane_of,
)
from etl_tasks.core.slicing import SlicingRules
from etl_tasks.core.spans import seconds_of
from etl_tasks.core.states import lanes_of
from etl_tasks.core.status import lag_of

# Progress is looked for in so many of a process's last runs: refused ones move nothing.
_LAST_RUNS = 50


class MetricsJournal:
    """Reads what ``metrics`` serves; remembers what ended runs have counted, so keep one for all scrapes.

    ``process_name`` and ``rules`` are of the schedule; ``gaps_since`` (business time) is where gaps are counted from,
    None for the earliest coverage.
    """

    def __init__(
        self,
        database: Database,
        clean_table: str,
        process_name: str,
        rules: SlicingRules,
        gaps_since: datetime | None = None,
    ) -> None:
        self._database = database
        self._clean_table = clean_table
        self._process_name = process_name
        self._rules = rules
        self._gaps_since = gaps_since
        self._totals: Counts = Counter()
        self._ended: set[int] = set()
        self._ended_counts: Counts = Counter()

    def read(self) -> JournalMetrics:
        """Everything at one moment. Raises Unreachable, SchemaError and what else the database raises."""
        with self._database.transaction() as transaction:
            transaction.run("metrics_snapshot")
            now = transaction.now()
            ids = transaction.one("metrics_run_ids", clean_table=self._clean_table)
            processes = self._processes(transaction, now)
            active = [int(each) for each in ids.active]
            return JournalMetrics(
                now=now,
                processes=processes,
                active_runs={
                    (row.process_name, row.status): int(row.runs)
                    for row in transaction.all("metrics_active", clean_table=self._clean_table)
                },
                waiting_runs={
                    row.process_name: int(row.runs)
                    for row in transaction.all("metrics_waiting_runs", clean_table=self._clean_table)
                },
                active_slices={
                    (row.process_name, row.state): int(row.slices)
                    for row in transaction.all("metrics_active_slices", run_ids=active)
                },
                publishing=self._publishing(transaction),
                gaps=self._gaps(transaction, now),
                reconcile=self._reconcile(transaction),
                counts=self._ended_so_far(transaction, {int(each) for each in ids.ended})
                + counted(transaction, active),
                reads=source_reads(transaction),
            )

    def _ended_so_far(self, transaction: Transaction, ended: set[int]) -> Counts:
        """The totals and what every ended run has counted; only the runs that have ended since the last call are read.

        Whatever changes an ended run (pruning, a window found lost) changes the totals too: then all are read again.
        """
        totals: Counts = Counter(
            {
                (row.name, row.label): int(row.value)
                for row in transaction.all("metrics_totals", clean_table=self._clean_table)
            }
        )
        if totals != self._totals or not self._ended <= ended:
            self._ended, self._ended_counts = set(), Counter()
        counts = self._ended_counts + counted(transaction, sorted(ended - self._ended))
        self._totals, self._ended, self._ended_counts = totals, ended, counts
        return totals + counts

    def _processes(self, transaction: Transaction, now: datetime) -> list[ProcessMetrics]:
        found = []
        lanes = lanes_of(self._process_name)
        asked = {"clean_table": self._clean_table, "lanes": lanes, "last": _LAST_RUNS}
        for row in transaction.all("metrics_processes", **asked):
            watermark = watermark_of(transaction, row.process_name)
            lag_s = None if watermark is None else lag_of(watermark, now, self._rules.shift_min).total_seconds()
            lane = lane_of(row.process_name, self._process_name)
            found.append(ProcessMetrics(row.process_name, lane, row.started_at, row.progress_at, watermark, lag_s))
        return found

    def _publishing(self, transaction: Transaction) -> PublishingMetrics:
        row = transaction.one("metrics_publishing", clean_table=self._clean_table)
        return PublishingMetrics(
            owed=int(row.owed),
            due=int(row.due),
            running=int(row.running),
            error=int(row.error),
            incomplete=int(row.incomplete),
            oldest_unpublished_s=float(row.oldest_s or 0),
            unpublished_s=float(row.unpublished_s),
            last_published_at=row.last_published_at,
            last_duration_ms=row.last_duration_ms,
        )

    def _gaps(self, transaction: Transaction, now: datetime) -> GapMetrics:
        """What ``gaps`` lists as never loaded."""
        ever = covered(transaction, self._clean_table)
        if ever is None:
            return GapMetrics(0, 0.0)
        watermark = watermark_of(transaction, self._process_name)
        first, last = default_interval(ever, watermark, self._rules, now)
        first = self._gaps_since or first
        if first >= last:
            return GapMetrics(0, 0.0)
        window, _ = due_window(first, last, self._rules, now)
        missing = find_gaps(window, loaded_facts(transaction, self._clean_table, window)).missing
        return GapMetrics(len(missing), float(seconds_of(missing)))

    def _reconcile(self, transaction: Transaction) -> ReconcileMetrics | None:
        row = transaction.one("metrics_reconcile", clean_table=self._clean_table)
        if row is None:
            return None
        differing = transaction.all("status_differing", clean_table=self._clean_table)
        return ReconcileMetrics(
            status=row.status,
            ended_at=row.ended_at,
            compared_at=row.compared_at,
            mendable=sum(each.mendable for each in differing),
            beyond=sum(not each.mendable for each in differing),
            missing=int(row.missing),
            extra=int(row.extra),
            changed=int(row.changed),
        )
