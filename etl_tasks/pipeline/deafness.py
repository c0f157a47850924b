"""Watches one worker from inside: a worker that Redis left deaf is to end, so that its supervisor starts a new one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from etl_tasks.core.deafness import Observation, Suspicion, is_deaf, suspect
from etl_tasks.errors import Unreachable

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class DeafnessWatch:
    """Asked now and then by a worker's main; ``queues`` names those that it reads at the moment."""

    waiting: Callable[[Sequence[str]], int]
    queues: Callable[[], Sequence[str]]
    busy: Callable[[], bool]
    patience_s: float
    _taken: int = 0
    _suspicion: Suspicion | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def message_taken(self) -> None:
        """The worker took a message."""
        with self._lock:
            self._taken += 1

    def deaf(self) -> bool:
        """Look once; True when work has waited for ``patience_s`` while the worker was idle and took none."""
        queues = self.queues()
        busy = self.busy()
        # Not asked of Redis while it works: it cannot be deaf then.
        queued = self._waiting(queues) if queues and not busy else None
        with self._lock:
            seen = Observation(time.monotonic(), self._taken, busy, queued)
        self._suspicion = suspect(self._suspicion, seen)
        if not is_deaf(self._suspicion, seen.at, self.patience_s):
            return False
        log.critical("worker_deaf", queues=list(queues), queued=queued, patience_s=self.patience_s)
        return True

    def _waiting(self, queues: Sequence[str]) -> int | None:
        try:
            return self.waiting(queues)
        except Unreachable as error:
            log.debug("deafness_not_known", error=str(error))
            return None
