"""What ``doctor`` asks of the workers, over Celery's remote control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Celery

from etl_tasks.adapters.celery_queue import CeleryDispatcher, sending
from etl_tasks.core.doctor.facts import WorkerFacts

PINGS_S = (3.0, 9.0)
"""How long workers may take to say that they are there; the question always takes as long, and is asked again, with
more patience, when nobody answered: on a busy host nobody answers at once.
"""
ANSWER_S = 15.0
"""How long those that are there may take to tell more."""


class WorkerExamination:
    """The workers on the app's broker, whichever app they are of."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def workers(self) -> list[WorkerFacts]:
        """Every worker that answers within ``PINGS_S``; raises Unreachable when Redis does not take the question."""
        with sending():
            control: Any = self._app.control
            answers = (control.inspect(timeout=patience_s).ping() for patience_s in PINGS_S)
            names = sorted(next(filter(None, answers), {}))
            if not names:
                return []
            # The question ends with the last answer.
            inspect = control.inspect(destination=names, timeout=ANSWER_S, limit=len(names))
            queues, confs = inspect.active_queues() or {}, inspect.conf() or {}
        return [
            WorkerFacts(name, frozenset(queue["name"] for queue in queues.get(name) or ()), confs.get(name) or {})
            for name in names
        ]

    def waiting(self, queues: Sequence[str]) -> dict[str, int]:
        """The messages that wait in each of ``queues``; raises Unreachable."""
        dispatcher = CeleryDispatcher(self._app)
        return {queue: dispatcher.messages_waiting((queue,)) for queue in queues}
