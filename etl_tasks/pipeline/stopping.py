"""A graceful stop of the worker, as its children see it: the work in hand is given back, and no attempt is spent."""

from __future__ import annotations

import contextvars
import mmap
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType

from etl_tasks.errors import EtlError, LostOwnership
from etl_tasks.threads import Flag

# What is nearly done may end; whoever waits for a container gives it 10 s before it kills.
GRACE_S = 5.0
_LOOK_EVERY_S = 0.5
_ABANDON_EVERY_S = 1.0

_MOMENT = struct.Struct("d")


class WorkerStopping(EtlError):
    """The worker was asked to stop: give back what is in hand."""


class StopFlag:
    """Set in a worker's main, seen in its children: a page of memory that a fork shares.

    Make it before the fork. Setting it is one write, so that a signal handler may do it.
    """

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def set(self) -> None:
        """The worker was asked to stop; the first time counts."""
        if not self._asked_at():
            _MOMENT.pack_into(self._page, 0, time.monotonic())

    def clear(self) -> None:
        """The worker begins."""
        _MOMENT.pack_into(self._page, 0, 0.0)

    def check(self) -> None:
        """Raise WorkerStopping once the worker was asked to stop and the grace has passed."""
        asked_at = self._asked_at()
        # The monotonic clock is one for all processes of a host.
        if asked_at and time.monotonic() - asked_at >= self._grace_s:
            raise WorkerStopping("the worker was asked to stop; another one goes on with this, no attempt is spent")

    def _asked_at(self) -> float:
        (asked_at,) = _MOMENT.unpack_from(self._page, 0)
        return float(asked_at)


class InterruptedByStop:
    """Context manager, to be entered twice (see ``threads``), around work that may hang in a service for minutes and
    could not hear meanwhile that it is to end: that the worker stops, or that the work is not ours any more (its run
    was cancelled).

    ``check`` is asked by a thread; once it raises WorkerStopping or LostOwnership, ``interrupt`` is called, which is to
    raise an exception in the main thread: inside the block, or at its end. If the block does not end by that, since
    another thread of it hangs, ``abandon`` is to end what that one waits for.
    """

    def __init__(self, check: Callable[[], None], interrupt: Callable[[], None], abandon: Callable[[], None]) -> None:
        self._check = check
        self._interrupt = interrupt
        self._abandon = abandon
        self._ended = Flag()
        self._one_at_a_time = threading.Lock()
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._look_until_ended,), name="stop", daemon=True
        )

    def __enter__(self) -> InterruptedByStop:
        if self._thread.ident is None:
            # No function of its own: an interruption at its return would be outside of this.
            try:
                self._thread.start()
            except BaseException:
                self._ended.set()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        with self._one_at_a_time:
            # After this nothing is interrupted or abandoned any more.
            pass

    def _look_until_ended(self) -> None:
        while not self._ended.wait(_LOOK_EVERY_S):
            try:
                self._check()
            except (WorkerStopping, LostOwnership):
                with self._one_at_a_time:
                    if not self._ended.is_set():
                        self._interrupt()
                while not self._ended.wait(_ABANDON_EVERY_S):
                    with self._one_at_a_time:
                        if not self._ended.is_set():
                            # Again and again: the other thread may have been about to connect.
                            self._abandon()
                return
