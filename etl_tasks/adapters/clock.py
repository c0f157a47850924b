"""How far a service's clock is from this host's, for ``doctor``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from etl_tasks.core.doctor.facts import Clock


@contextmanager
def compared(owner: str) -> Iterator[Callable[[float], Clock]]:
    """Ask the service for its time inside the block, then give it (seconds since the epoch) to what comes back.

    The answer is taken for the middle of the question and its answer, so that half of the time in between is unsure.
    """
    asked = time.time()

    def clock(theirs_s: float) -> Clock:
        answered = time.time()
        return Clock(owner, theirs_s - (asked + answered) / 2, (answered - asked) / 2)

    yield clock
