"""A stage of a publish on all shards side by side: its time, its errors, and the questions asked while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

from etl_tasks.core.publishing import StageMetric
from etl_tasks.errors import EtlError, LostOwnership, TransientError, Unreachable
from etl_tasks.threads import Crew, Job

Work = TypeVar("Work")

CHECKPOINT_EVERY_S = 5.0
"""How often a stage that takes long asks whether this publish is still the newest."""

PROBE_EVERY_S = 20.0
PROBES_BEFORE_GIVING_UP = 3
"""A hung server keeps its connections: while a stage takes long, its hosts are asked whether they still answer."""


INTERRUPT_EVERY_S = 1.0
"""A thread may have been between two statements, or about to connect, when it was interrupted."""


class Stages(Generic[Work]):
    """Runs the stages of one publish and tells their times. ``answers`` asks whether a work's host still answers."""

    def __init__(
        self,
        crew: Crew,
        partition: int,
        on_stage: Callable[[StageMetric], None],
        metrics: list[StageMetric],
        answers: Callable[[Work], None],
    ) -> None:
        self._crew = crew
        self._partition = partition
        self._on_stage = on_stage
        self._metrics = metrics
        self._answers = answers
        self._running: dict[Job[int], Work] = {}

    def run(
        self,
        name: str,
        step: Callable[[Work], None],
        works: Sequence[Work],
        checkpoint: Callable[[], None] | None = None,
    ) -> None:
        """``step`` on each of ``works``; ``checkpoint`` is called meanwhile and after. Raises the weightiest error."""
        self._running = {Job(partial(_timed, step, work)): work for work in works}
        for job in self._running:
            self._crew.give(job)
        self._wait(self._running, checkpoint)
        failures = [job.error for job in self._running if job.error is not None]
        if failures:
            raise max(failures, key=_weight)
        metric = StageMetric(name, self._partition, max((job.result() for job in self._running), default=0))
        self._metrics.append(metric)
        self._on_stage(metric)
        if checkpoint:
            checkpoint()

    def end(self, interrupt: Callable[[Work], None]) -> None:
        """``interrupt`` the works of a stage that was left, again and again until no thread is at work on them; there
        is no stage after that.
        """
        self._crew.dismiss()
        while not self._crew.wait_until_ended(0):
            for job, work in self._running.items():
                if not job.over:
                    interrupt(work)
            self._crew.wait_until_ended(INTERRUPT_EVERY_S)

    def _wait(self, running: Mapping[Job[int], Work], checkpoint: Callable[[], None] | None) -> None:
        pending = list(running)
        silent = 0
        probed = time.monotonic()
        while pending:
            until = time.monotonic() + CHECKPOINT_EVERY_S
            pending = [job for job in pending if not job.wait(until - time.monotonic())]
            if pending and checkpoint:
                checkpoint()
            if pending and time.monotonic() - probed > PROBE_EVERY_S:
                probed = time.monotonic()
                try:
                    for job in pending:
                        self._answers(running[job])
                    silent = 0
                except Unreachable:
                    silent += 1
                    if silent == PROBES_BEFORE_GIVING_UP:
                        raise


def _timed(step: Callable[[Work], None], work: Work) -> int:
    started = time.monotonic()
    step(work)
    return round((time.monotonic() - started) * 1000)


def _weight(error: BaseException) -> int:
    """Which of several shards' errors decides: what is final before what may go away."""
    if not isinstance(error, EtlError):
        return 4
    if isinstance(error, LostOwnership):
        return 3
    return 1 if isinstance(error, TransientError) else 2
