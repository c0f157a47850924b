"""The end of an attempt: its transition in the journal, through a short absence of PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog

from etl_tasks.errors import TransientError
from etl_tasks.pipeline.lease import Lease

log = structlog.get_logger(__name__)
T = TypeVar("T")

_AGAIN_AFTER_S = 1.0


def settle(transition: Callable[[], T], lease: Lease, soft_limit: type[BaseException]) -> T:
    """Run a guarded transition, again while the journal is away and the lease still holds.

    Loaded rows or a REPLACE are not to be done again because PostgreSQL was restarted just then. A transition that is
    guarded by attempt or token bears it: if it was committed and only the answer was lost, the repetition raises
    LostOwnership, and the sweeper tells whom the lost answer would have told. Raises LostOwnership when the lease is
    lost.
    """
    while True:
        try:
            return transition()
        except soft_limit:
            # Raised once a task, wherever it happens to be; what is at its end is ended.
            log.warning("soft_limit_ignored", next="the transition is run once more")
        except TransientError as error:
            log.warning("transition_failed", error_kind=type(error).__name__, error=str(error), next="again")
            lease.sleep(_AGAIN_AFTER_S)


def forget_frames(error: BaseException) -> None:
    """Drop the tracebacks of ``error`` and of what caused it: their frames keep every batch of the failed try alive."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = None
        pending += [one.__cause__, one.__context__]
