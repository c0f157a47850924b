"""Whether a worker has gone deaf: Redis holds work for it, it has nothing to do, and it takes none. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Observation:
    """A worker at the moment ``at`` (monotonic seconds).

    ``taken`` counts the messages that it has taken since it started, ``busy`` says whether it works on one. ``queued``
    is what waits in the queues that it reads; None where Redis did not say.
    """

    at: float
    taken: int
    busy: bool
    queued: int | None


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Work has waited since ``since`` for a worker that was idle and took none."""

    since: float
    taken: int


def suspect(before: Suspicion | None, seen: Observation) -> Suspicion | None:
    """What to think of the worker after ``seen``.

    A worker is suspected only while every look finds it idle beside a queue that is not empty: work that came a moment
    ago is no sign, nor is a Redis that is away.
    """
    if seen.busy or not seen.queued:
        return None
    if before is None or before.taken != seen.taken:
        return Suspicion(seen.at, seen.taken)
    return before


def is_deaf(suspicion: Suspicion | None, now: float, patience_s: float) -> bool:
    """Whether the suspicion has lasted for ``patience_s``."""
    return suspicion is not None and now - suspicion.since >= patience_s
