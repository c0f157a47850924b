"""A worker with one of its safeguards taken out: ``python -m tests.faults.sabotage unfenced-finish worker …``.

What the tests of the safeguards show is worth something only if they turn red without them.
"""

from __future__ import annotations

import sys

from etl_tasks.adapters.journal import queries
from etl_tasks.celery import app
from etl_tasks.pipeline.lease import Lease


def unfenced_finish() -> None:
    """An attempt ends its slice whoever owns it by now, and trusts its lease for ever."""
    whole = queries.load_queries

    def without_fence(journal_table: str) -> dict[str, str]:
        found = dict(whole(journal_table))
        fence = "AND attempt = %(attempt)s AND state = 'running'"
        assert fence in found["finish_slice_if_running"], "the fence has moved: mend this sabotage"
        found["finish_slice_if_running"] = found["finish_slice_if_running"].replace(fence, "")
        return found

    from etl_tasks.adapters.journal import database

    database.load_queries = without_fence  # type: ignore[assignment]
    Lease.checkpoint = lambda self: None  # type: ignore[method-assign]


SABOTAGES = {"unfenced-finish": unfenced_finish}

if __name__ == "__main__":
    SABOTAGES[sys.argv[1]]()
    app.worker_main(sys.argv[2:])
