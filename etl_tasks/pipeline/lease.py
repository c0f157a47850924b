"""A lease renewed by a thread of its own; before every write the work asks it whether it still owns its object."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from types import TracebackType

import structlog

from etl_tasks.errors import EtlError, LostOwnership
from etl_tasks.threads import Flag

log = structlog.get_logger(__name__)

# Past this share of the lease without a renewal the attempt stops itself: somebody else may own the work soon.
_TRUSTED_SHARE = 0.9


class Lease:
    """Context manager around the work of one attempt, to be entered twice (see ``threads``).

    ``open_renewer`` is called in the renewing thread and returns the renewal (True: still ours) and its clean-up; so
    the thread has a connection of its own. ``claimed_at`` is ``time.monotonic()`` from before the claim.
    """

    def __init__(
        self,
        open_renewer: Callable[[], tuple[Callable[[], bool], Callable[[], None]]],
        lease_s: float,
        claimed_at: float,
        what: str,
    ) -> None:
        self._open_renewer = open_renewer
        self._lease_s = lease_s
        self._renewed_at = claimed_at
        self._what = what
        self._ended = Flag()
        self._lost = Flag()
        # With our log context: the ids on lines about the lease are those of the work.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._renew_until_ended,), name="lease", daemon=True
        )

    def __enter__(self) -> Lease:
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
        self._thread.join(timeout=5)

    def checkpoint(self) -> None:
        """Raise LostOwnership when the work is not ours any more, or when that cannot be known.

        The clock is asked here too, not only in the thread: a process that was stopped and goes on gets here first.
        """
        if self._lost.is_set() or time.monotonic() - self._renewed_at > _TRUSTED_SHARE * self._lease_s:
            self._lost.set()
            raise LostOwnership(f"{self._what}: the lease was lost or could not be renewed for {self._lease_s:g} s")

    def sleep(self, seconds: float) -> None:
        """Wait, and raise LostOwnership as soon as the lease is lost."""
        self._lost.wait(seconds)
        self.checkpoint()

    def _renew_until_ended(self) -> None:
        renew, close = self._open_renewer()
        try:
            while not self._ended.wait(self._lease_s / 4):
                asked_at = time.monotonic()
                try:
                    still_ours = renew()
                except EtlError as error:
                    # The journal may be back before the lease runs out; checkpoint() stops the work if it is not.
                    log.warning("lease_renewal_failed", what=self._what, error=str(error))
                    continue
                except Exception:
                    # A fault of ours: nobody renews any more, so checkpoint() stops the work before its next write.
                    log.exception("lease_crashed", what=self._what)
                    return
                if not still_ours:
                    self._lost.set()
                    log.warning("lease_lost", what=self._what)
                    return
                self._renewed_at = asked_at
        finally:
            close()
