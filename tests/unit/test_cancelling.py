"""Which runs may be cancelled, and what is said of one that was."""

from __future__ import annotations

import pytest

from etl_tasks.cli.cancel import what_became
from etl_tasks.core.cancelling import CancelledRun, check_cancellable
from etl_tasks.errors import UsageError


@pytest.mark.parametrize(
    ("process", "status", "table", "said"),
    [
        ("codes", "ok", "stg.codes", "run 7 of codes has ended already"),
        ("codes", "skipped", "stg.codes", "nothing to cancel"),
        ("codes:dedup", "running", "stg.codes", "is a publish, which is not cancelled"),
        ("codes", "running", "stg.others", "CH_CLEAN_TABLE is stg.codes"),
    ],
)
def test_what_cannot_be_cancelled(process: str, status: str, table: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_cancellable(7, process, status, table, "stg.codes")


@pytest.mark.parametrize("status", ["planned", "running"])
def test_an_active_run_may_be_cancelled(status: str) -> None:
    check_cancellable(7, "codes", status, "stg.codes", "stg.codes")


def test_what_became_of_it() -> None:
    assert what_became(CancelledRun(7, "codes", 1, 11, 1, [20250808, 20250809], [20250810]), 60) == [
        "run 7 of codes is cancelled: 1 slice loaded, which stays, 11 not loaded",
        "1 slice is being read by a worker, which stops within 15 s and keeps nothing of it",
        "the publish of 20250810 is under way and goes on to its end",
        "loaded by it and not published yet, due now: 20250808, 20250809",
        "to load the rest: python -m etl_tasks resume 7",
    ]
    assert what_became(CancelledRun(7, "codes", 12, 0, 0, [], []), 60)[1:] == [
        "it had loaded all of its windows: nothing is left to resume"
    ]
