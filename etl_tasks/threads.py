"""Threads that work for a main thread which may be interrupted between any two of its steps.

Celery's soft time limit, a stop of the worker and the loss of a slice all come as an exception of a signal.
``concurrent.futures`` and ``threading`` do not bear that everywhere: a ``submit`` that is interrupted has begun work of
which its caller knows nothing (seen: a block went on its way to RAW while its connection was closed), a ``join`` that
is interrupted takes a running thread for one that has ended (CPython 3.11, after bpo-45274), and an interrupted
``Event.wait`` may leave the event locked for ever. Here the interrupted side holds every object before a thread
gets it, and only reads what the thread has written there.

The interpreter looks for signals at the begin of every call too, ``__exit__``'s own included, of which nothing is done
then. So what ends a thread when it is left is entered twice, ``with Crew(2, "publish") as crew, crew:``; the second
exit hears what the first one did not.
"""

from __future__ import annotations

import contextvars
import threading
import time
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

_LOOK_EVERY_S = 30.0
"""How often an idle thread asks whether its crew was forgotten: an interruption can come between making a crew and
keeping it. No ``__del__``, in which an interruption would be lost.
"""


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
            # What it worked on may be large; and an error's traceback, which holds this frame, is not to hold the job.
            self._work = None
            self._over.set()
            del self


class Crew:
    """``size`` threads that do jobs in the order they are given; as a context manager, to be entered twice, it waits
    for them at the end. The threads of one that is forgotten end too.
    """

    def __init__(self, size: int, name: str) -> None:
        self._jobs: SimpleQueue[Job[object] | None] = SimpleQueue()
        self._ended = [Flag() for _ in range(size)]
        self._name = name
        self._started = self._dismissed = False

    def start(self) -> None:
        """Start the threads, the first time. When this is interrupted nothing may be given."""
        if self._started:
            return
        self._started = True
        for number, ended in enumerate(self._ended):
            arguments = (self._jobs, ended, weakref.ref(self))
            threading.Thread(target=_work, args=arguments, name=f"{self._name}_{number}", daemon=True).start()

    def give(self, job: Job[T]) -> None:
        """The next thread that is free does it. Interrupted, this may have been done or not.

        Raises RuntimeError when there are no threads (any more): whoever waited for the job would wait for ever.
        """
        if self._dismissed or not self._started:
            raise RuntimeError(f"the crew {self._name!r} was dismissed, or never started: it takes no job")
        self._jobs.put(job)  # type: ignore[arg-type]

    def dismiss(self) -> None:
        """The threads end when all that was given is over; returns at once. May be repeated, and must be when it was
        interrupted.
        """
        self._dismissed = True
        for _ in self._ended:
            self._jobs.put(None)

    def wait_until_ended(self, timeout_s: float | None = None) -> bool:
        """Whether all threads have ended, after ``timeout_s`` seconds at most (None: as long as it takes)."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        return all(ended.wait(None if until is None else until - time.monotonic()) for ended in self._ended)

    def __enter__(self) -> Crew:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.dismiss()
        self.wait_until_ended()


def _work(jobs: SimpleQueue[Job[object] | None], ended: Flag, crew: weakref.ref[Crew]) -> None:
    """What a thread does. It does not hold its crew, which would never be forgotten otherwise."""
    try:
        while True:
            try:
                job = jobs.get(timeout=_LOOK_EVERY_S)
            except Empty:
                if crew() is None:
                    return
                continue
            if job is None:
                return
            job.run()
            del job  # the thread waits for the next one, and must not keep this one's rows meanwhile
    finally:
        ended.set()
