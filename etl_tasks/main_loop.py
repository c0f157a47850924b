"""What every worker's main does beside reading messages: it sweeps, and it watches whether it still hears Redis.

A step of Celery's worker that starts after the pool was forked and before the broker is connected: with Redis away from
the beginning, runs still end.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import structlog
from celery import bootsteps, signals
from celery.worker import state

from etl_tasks.config import load_settings
from etl_tasks.errors import EtlError
from etl_tasks.pipeline.deafness import DeafnessWatch
from etl_tasks.pipeline.sweep import SweepContext, sweep
from etl_tasks.wiring import Wiring

log = structlog.get_logger(__name__)

DEAF_AFTER_S = 180.0
"""Work that has waited so long for an idle worker: it will not come any more."""

EXIT_GRACE_S = 30.0
"""How long a deaf worker may take to end by itself."""


class MainLoop(bootsteps.StartStopStep):  # type: ignore[misc]
    """The thread of sweeps, for as long as the worker runs."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, worker: Any) -> None:
        """Celery starts the worker."""
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, args=(worker,), name="sweep", daemon=True)
        self._thread.start()

    def stop(self, worker: Any) -> None:
        """Celery stops the worker."""
        self._ended.set()

    terminate = stop

    def _run(self, worker: Any) -> None:
        own = Wiring(load_settings(), worker.app)
        context = own.sweep_context()
        watch = DeafnessWatch(
            waiting=own.dispatcher.messages_waiting,
            queues=lambda: _queues_of(worker),
            busy=lambda: bool(state.active_requests or state.reserved_requests),
            patience_s=DEAF_AFTER_S,
        )

        def count(**_: Any) -> None:
            watch.message_taken()

        signals.task_received.connect(count)
        try:
            while not self._ended.wait(own.settings.sweep_every_s):
                _sweep(context)
                if not self._ended.is_set() and not _stopping() and watch.deaf():
                    self._end_worker()
        finally:
            signals.task_received.disconnect(count)

    def _end_worker(self) -> None:
        """Warm, and by force when the main does not come to it; the supervisor starts a new worker."""
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._ended.wait(EXIT_GRACE_S) and not state.active_requests:
            log.critical("worker_deaf_and_stuck")
            os._exit(os.EX_TEMPFAIL)


def _sweep(context: SweepContext) -> None:
    started = time.monotonic()
    try:
        sweep(context)
    except EtlError as error:
        log.warning("sweep_failed", error=str(error), duration_s=round(time.monotonic() - started, 1))
    except Exception:
        # The sweeper is what everything else relies on: it says what went wrong, and goes on.
        log.exception("sweep_crashed")


def _queues_of(worker: Any) -> Sequence[str]:
    """The queues that the worker reads now; none before it has been connected for the first time."""
    consumer = getattr(worker.consumer, "task_consumer", None)
    return [queue.name for queue in consumer.queues] if consumer is not None else []


def _stopping() -> bool:
    return state.should_stop is not None or state.should_terminate is not None
