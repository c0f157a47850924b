"""The coverage as ``gaps`` asks for it; nothing here writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from etl_tasks.adapters.journal.database import Database, Transaction
from etl_tasks.core.cadence import CadenceRules, taken_by
from etl_tasks.core.gaps import CoverageFacts, FailedRun, PartitionCoverage
from etl_tasks.core.spans import Span, intersect_spans, merge_spans
from etl_tasks.core.windows import Window, partition_of, to_seconds

# What nobody has swept up so long after its time, nobody sweeps: SWEEP_EVERY_S is seconds.
_SWEPT_WITHIN = timedelta(minutes=2)


class GapJournal:
    """Reads of the coverage of one CLEAN table; each one transaction. Raises what the database raises.

    ``cadence`` is what makes publishes due that no run waits for.
    """

    def __init__(self, database: Database, clean_table: str, cadence: CadenceRules) -> None:
        self._database = database
        self._clean_table = clean_table
        self._cadence = cadence

    def covered(self) -> Window | None:
        """From the first to the last instant (the source's time) that any lane has loaded; None when nothing was.

        What was lost since, and so is not loaded any more, counts if it had been published.
        """
        with self._database.transaction() as transaction:
            return covered(transaction, self._clean_table)

    def facts(self, window: Window) -> CoverageFacts:
        """What the journal knows of ``window`` (the source's time)."""
        asked = _asked(self._clean_table, window)
        with self._database.transaction() as transaction:
            rows = _coverage_rows(transaction, self._clean_table, window)
            again = transaction.all(
                "windows_loaded_unpublished",
                clean_table=self._clean_table,
                partitions=[row.partition for row in rows if row.owed],
            )
            failed = transaction.all("failed_windows", **asked)
            loading = transaction.all("open_windows", **asked)
            now = transaction.now()
        span = to_seconds(window.start), to_seconds(window.end)
        loaded_again = {
            partition: intersect_spans([span], spans) for partition, spans in _grouped(again, "partition").items()
        }
        active = {int(row.run_id): bool(row.active) for row in failed}
        return CoverageFacts(
            partitions=[
                replace(
                    _coverage(row, loaded_again.get(row.partition, ())),
                    awaited=row.awaited or self._is_taken(row.first_unpublished_at, now),
                )
                for row in rows
            ],
            failed=[FailedRun(run, spans, active[run]) for run, spans in _grouped(failed, "run_id").items()],
            loading=_grouped(loading, "run_id"),
        )

    def _is_taken(self, first_unpublished_at: datetime | None, now: datetime) -> bool:
        """Whether the cadence is going to take what no run waits for, and is not late with it."""
        moment = None if first_unpublished_at is None else taken_by(first_unpublished_at, self._cadence)
        return moment is not None and now < moment + _SWEPT_WITHIN


def covered(transaction: Transaction, clean_table: str) -> Window | None:
    """From the first to the last instant ever loaded, lost since or not; None when nothing was."""
    row = transaction.one("covered_bounds", clean_table=clean_table)
    return None if row.first is None else Window(row.first, row.last)


def loaded_facts(transaction: Transaction, clean_table: str, window: Window) -> CoverageFacts:
    """Of what the journal knows of ``window`` just what tells the gaps in it, and not whose they are."""
    rows = _coverage_rows(transaction, clean_table, window)
    loading = transaction.all("open_windows", **_asked(clean_table, window))
    return CoverageFacts([_coverage(row, ()) for row in rows], failed=(), loading=_grouped(loading, "run_id"))


def _coverage_rows(transaction: Transaction, clean_table: str, window: Window) -> list[Any]:
    asked = _asked(clean_table, window)
    return transaction.all("coverage_gaps", **asked, window_from=window.start, window_to=window.end)


def _asked(clean_table: str, window: Window) -> dict[str, Any]:
    return {
        "clean_table": clean_table,
        "first_partition": partition_of(window.start),
        "last_partition": partition_of(window.end),
    }


def _coverage(row: Any, loaded_again: Sequence[Span]) -> PartitionCoverage:
    not_published = _spans(row.owed_starts, row.owed_ends)
    return PartitionCoverage(
        partition=row.partition,
        not_loaded=_spans(row.starts, row.ends),
        not_published=merge_spans([*not_published, *loaded_again]) if loaded_again else not_published,
        publish_state=row.publish_state,
        not_before=row.not_before,
        error=": ".join(part for part in (row.error_kind, row.last_error) if part),
    )


def _spans(starts: Sequence[int] | None, ends: Sequence[int] | None) -> list[Span]:
    return list(zip(starts or (), ends or (), strict=True))


def _grouped(rows: Iterable[Any], name: str) -> Mapping[int, list[Span]]:
    groups: dict[int, list[Span]] = {}
    for row in rows:
        groups.setdefault(int(getattr(row, name)), []).append((row.start, row.end))
    return groups
