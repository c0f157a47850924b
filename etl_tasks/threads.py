"""Threads that work for a main thread which may be interrupted between any two of its steps.

Celery's soft time limit, a stop of the worker and the loss of a slice all come as an exception of a signal.
``concurrent.futures`` and ``threading`` do not bear that everywhere: a ``submit`` that is interrupted has begun work of
which its caller knows nothing (seen: a block went on its way to RAW while its connection was closed), a ``join`` that
is interrupted takes a running thread for one that has ended (CPython 3.11, after bpo-45274), and an interrupted
``Event.wait`` may leave the event locked for ever. Here the interrupted side holds every object before a thread
gets it, and only reads what the thread has written there.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Flag:
    """Like ``threading.Event``, for one thread that waits; neither side locks anything while it is in Python."""

    def __init__(self) -> None:
        self._set = False
        self._wake: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Whoever waits goes on, now or when it comes."""
        # In this order: the waiter trusts the flag, what is in the queue only wakes it.
        self._set = True
        self._wake.put(None)

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._set

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether it was set, after ``timeout_s`` seconds at most (None: as long as it takes)."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._set:
            left_s = None if until is None else until - time.monotonic()
            if left_s is not None and left_s <= 0:
                return False
            try:
                self._wake.get(timeout=left_s)
            except Empty:
                return self._set
        return True


class Job(Generic[T]):
    """Work for a thread of a crew, with the log context of whoever makes it. Keep it before you give it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._context = contextvars.copy_context()
        self._work: Callable[[], T] | None = work
        self._over = Flag()
        self._results: list[T] = []
        self.error: BaseException | None = None
        """What it failed with, once it is over."""

    @property
    def over(self) -> bool:
        """Whether it was done, or has failed."""
        return self._over.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """``over``, after ``timeout_s`` seconds at most. For a job that was given: another one is never over."""
        return self._over.wait(timeout_s)

    def result(self) -> T:
        """Wait until it is over; what it returned, or raise what it failed with."""
        self._over.wait()
        if self.error is not None:
            raise self.error
        return self._results[0]

    def run(self) -> None:
        """For the crew."""
        assert self._work is not None, "a job is run once"
        try:
            self._results.append(self._context.run(self._work))
        except BaseException as error:  # it is raised by ``result``
            self.error = error
        finally:
            # What it worked on may be large.
            self._work = None
            self._over.set()


class Crew:
    """``size`` threads that do jobs in the order they are given; as a context manager it waits for them at the end."""

    def __init__(self, size: int, name: str) -> None:
        self._jobs: SimpleQueue[Job[object] | None] = SimpleQueue()
        self._ended = [Flag() for _ in range(size)]
        self._name = name

    def start(self) -> None:
        """Start the threads. When this is interrupted nothing may be given, and they are to be dismissed."""
        for number, ended in enumerate(self._ended):
            threading.Thread(target=self._work, args=(ended,), name=f"{self._name}_{number}", daemon=True).start()

    def give(self, job: Job[T]) -> None:
        """The next thread that is free does it. Interrupted, this may have been done or not."""
        self._jobs.put(job)  # type: ignore[arg-type]

    def dismiss(self) -> None:
        """The threads end when all that was given is over; returns at once. May be repeated."""
        for _ in self._ended:
            self._jobs.put(None)

    def wait_until_ended(self, timeout_s: float | None = None) -> bool:
        """Whether all threads have ended, after ``timeout_s`` seconds at most (None: as long as it takes)."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        return all(ended.wait(None if until is None else until - time.monotonic()) for ended in self._ended)

    def __enter__(self) -> Crew:
        try:
            self.start()
        except BaseException:
            self.dismiss()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.dismiss()
            self.wait_until_ended()
        except BaseException:
            self.dismiss()  # the first time may have been interrupted
            raise

    def _work(self, ended: Flag) -> None:
        try:
            while True:
                job = self._jobs.get()
                if job is None:
                    return
                job.run()
                del job  # the thread waits for the next one, and must not keep this one's rows meanwhile
        finally:
            ended.set()
