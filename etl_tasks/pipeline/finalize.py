"""The end of a run: status and watermark in one transaction, whoever asks first."""

from __future__ import annotations

import structlog

from etl_tasks.failpoints import Failpoint, reach
from etl_tasks.pipeline.ports import Journal

log = structlog.get_logger(__name__)


def finalize_run(run_id: int, journal: Journal) -> str | None:
    """End the run if nothing of it is open; its status, or None when it goes on or had ended before."""
    reach(Failpoint.FINALIZE, run=run_id)
    process = journal.runs.process_of(run_id)
    status = journal.runs.finalize(run_id)
    if status is not None:
        log.info("run_ended", run=run_id, process=process, status=status)
    return status
