"""Which run may be cancelled, and what became of one that was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etl_tasks.core.states import ACTIVE_RUN_STATUSES, DEDUP_SUFFIX
from etl_tasks.errors import UsageError


@dataclass(frozen=True, slots=True)
class CancelledRun:
    """A cancelled run: how many of its slices were ``loaded`` before (they stay), how many were ``left``, and how many
    of those somebody was reading (``reading``). Of what it loaded, ``due`` are the partitions whose publish is due now,
    ``publishing`` those that are being published.
    """

    run_id: int
    process_name: str
    loaded: int
    left: int
    reading: int
    due: Sequence[int]
    publishing: Sequence[int]


def check_cancellable(run_id: int, process_name: str, status: str, run_table: str | None, clean_table: str) -> None:
    """Raise UsageError, saying what to do instead, for a run that cannot be cancelled: a publish, ended, or of a CLEAN
    table that is not ours.
    """
    run = f"run {run_id} of {process_name}"
    if process_name.endswith(DEDUP_SUFFIX):
        raise UsageError(
            f"{run} is a publish, which is not cancelled: it serves every run that loaded its partition; name the run "
            "that loads, see python -m etl_tasks status"
        )
    if status not in ACTIVE_RUN_STATUSES:
        raise UsageError(f"{run} has ended already ({status}): there is nothing to cancel")
    if run_table is not None and run_table != clean_table:
        raise UsageError(f"{run} loads {run_table}, and CH_CLEAN_TABLE is {clean_table}: set it to cancel")
