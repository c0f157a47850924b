"""What becomes due inside a transition: the partition's publish, the run's next partitions, its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from etl_tasks.adapters.journal.database import Transaction
from etl_tasks.adapters.journal.runs import release_partitions
from etl_tasks.core.cadence import CadenceRules, PartitionLoad, publish_due


def offer_publish(
    transaction: Transaction, cadence: CadenceRules, clean_table: str, partition: int, run_id: int, open_slices: int
) -> bool:
    """Make the partition's publish due if the cadence says so to a run that has ``open_slices`` left in it.

    Returns whether this made it due at once: then somebody is to be told.
    """
    owed = _lock_if_owed(transaction, clean_table, partition)
    if owed is None:
        return False
    run = transaction.one("lane_of_run", run_id=run_id)
    if open_slices == 0:
        # A run keeps to what was in force when it was planned: it waits for this publish, or it does not.
        if run.publish_at_end:
            cadence = replace(cadence, always_at_end=True)
        else:
            open_slices = 1
    steps = 0 if run.manual else _unpublished_steps(transaction, clean_table, partition)
    return _offer(transaction, cadence, owed, steps, open_slices, scheduled=not run.manual)


def offer_owed_publish(transaction: Transaction, cadence: CadenceRules, clean_table: str, partition: int) -> bool:
    """Make due what is owed across runs, as the schedule would; whether this made it due at once.

    What a run by hand that still goes on has loaded counts only against RAW's TTL: that run publishes at its end. What
    nobody loads any more is at its end, whatever became of the runs.
    """
    owed = _lock_if_owed(transaction, clean_table, partition)
    if owed is None:
        return False
    steps = _unpublished_steps(transaction, clean_table, partition)
    open_slices = transaction.one("open_slices_of_partition", clean_table=clean_table, partition=partition).open_slices
    return _offer(transaction, cadence, owed, steps, int(open_slices), scheduled=steps > 0)


def settle_partition(transaction: Transaction, run_id: int, partition: int) -> tuple[list[int], bool]:
    """If the run is finished with the partition, close it and release the next ones.

    Returns the partitions released, and whether the run may be finalized. The caller has locked the run.
    """
    if transaction.one("finish_run_partition_if_settled", run_id=run_id, partition=partition) is None:
        return [], False
    left = transaction.one("close_partition_of_run", run_id=run_id).open_partitions
    return release_partitions(transaction, run_id, 1), left == 0


def _lock_if_owed(transaction: Transaction, clean_table: str, partition: int) -> Any:
    row = transaction.one("lock_partition", clean_table=clean_table, partition=partition)
    return None if row is None or row.loaded_gen <= row.published_gen else row


def _unpublished_steps(transaction: Transaction, clean_table: str, partition: int) -> int:
    return int(transaction.one("unpublished_steps", clean_table=clean_table, partition=partition).steps)


def _offer(
    transaction: Transaction, cadence: CadenceRules, owed: Any, steps: int, open_slices: int, *, scheduled: bool
) -> bool:
    load = PartitionLoad(
        first_unpublished_at=owed.first_unpublished_at,
        steps_unpublished=steps,
        open_slices=open_slices,
        last_published_at=owed.last_published_at,
        last_duration_s=owed.last_duration_ms / 1000 if owed.last_duration_ms is not None else None,
        scheduled=scheduled,
    )
    now = transaction.now()
    moment = publish_due(load, cadence, now)
    if moment is None:
        return False
    told = owed.publish_state == "due" and (owed.not_before is None or owed.not_before <= now)
    due = transaction.one(
        "publish_becomes_due", clean_table=owed.clean_table, partition=owed.partition, not_before=moment
    )
    return due is not None and due.now_due and not told
