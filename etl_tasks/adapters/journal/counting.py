"""What runs have counted, and keeping it when they are pruned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from etl_tasks.adapters.journal.database import Transaction
from etl_tasks.core.metrics import Counts, count_runs, count_slices

# What no statement may take is half a minute: of a journal of millions of slices it must not ask all at once.
BATCH_RUNS = 200


def counted(transaction: Transaction, run_ids: Sequence[int]) -> Counts:
    """What these runs and publishes have counted so far, together; asked ``BATCH_RUNS`` at a time."""
    counts: Counts = Counter()
    for first in range(0, len(run_ids), BATCH_RUNS):
        counts.update(_counted(transaction, run_ids[first : first + BATCH_RUNS]))
    return counts


def _counted(transaction: Transaction, run_ids: Sequence[int]) -> Counts:
    counts: Counts = Counter()
    asked = {"run_ids": list(run_ids)}
    for row in transaction.all("counted_runs", **asked):
        count_runs(counts, row.process_name, row.status, int(row.runs), int(row.took_ms))
    for row in transaction.all("counted_slices", **asked):
        count_slices(
            counts,
            row.state,
            row.error_kind,
            slices=int(row.slices),
            overloads=int(row.overloads),
            rows_read=int(row.rows_read),
            rows_inserted=int(row.rows_inserted),
            rows_repeated=int(row.rows_repeated),
            took_ms=int(row.took_ms),
        )
    for row in transaction.all("counted_stages", **asked):
        counts["stages", row.stage] += int(row.stages)
        counts["stage_ms", row.stage] += int(row.took_ms)
    counts["rows_rejected", ""] += int(transaction.one("counted_rejects", **asked).rejected_rows)
    return counts


def keep_counts(transaction: Transaction, clean_table: str, run_ids: Sequence[int]) -> None:
    """Add to the totals what these runs have counted; for the transaction that removes them."""
    kept = [(name, label, value) for (name, label), value in counted(transaction, run_ids).items() if value]
    if kept:
        names, labels, values = (list(column) for column in zip(*kept, strict=True))
        transaction.run("add_to_totals", clean_table=clean_table, names=names, labels=labels, values=values)
