"""How many reads of the source may go on at once: additive increase, multiplicative decrease (AIMD), values in and out.

One limit a source, shared by all workers and kept in the journal. It grows while reads end well and the limit is what
holds others back; it halves when the source says that it is overloaded. A *round* lasts from one halving to the next:
reads that overlapped are rejected together, so only those that began in the present round speak about it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

# Few enough for any source, enough for an ordinary deployment; it doubles with each generation of reads until the
# source objects for the first time.
START_READS = 4
# Where the source objected last time it is asked again, but seldom: each time costs a rejection.
PROBE_GENERATIONS = 8


class ReadEnd(StrEnum):
    """How a read ended, as the limit sees it. ``other``: a fault that says nothing about the source's load."""

    GOOD = "good"
    OVERLOADED = "overloaded"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class ReadLimit:
    """``reads`` at once at most; ``good`` reads since that last changed; ``round``: halvings so far.

    ``objected_at``: the reads that went on when the source last objected; None: it never did.
    """

    reads: int
    good: int = 0
    round: int = 0
    objected_at: int | None = None


@dataclass(frozen=True, slots=True)
class EndedRead:
    """A read that held a turn: the ``round`` in which it began, and the most ``readers`` known while it went on,
    itself among them.
    """

    end: ReadEnd
    round: int
    readers: int


@dataclass(frozen=True, slots=True)
class SourceReads:
    """A source (``host:port``) now: the limit, how many slices read, how many wait for their turn, halvings so far."""

    source: str
    limit: int
    in_use: int
    waiting: int
    halvings: int


def first_limit(most: int) -> ReadLimit:
    """The limit of a source that nobody has read yet; ``most`` is PHX_MAX_CONCURRENT_READS."""
    return ReadLimit(min(START_READS, most))


def may_read(limit: ReadLimit, most: int, in_use: int, ahead: int) -> bool:
    """Whether one more may read beside ``in_use`` others, of whom ``ahead`` that wait must get their turn first.

    Where nobody reads and nobody is ahead the answer is yes, whatever the limit.
    """
    return in_use + ahead < max(1, min(limit.reads, most))


def after(limit: ReadLimit, ended: EndedRead, most: int) -> ReadLimit:
    """The limit after a read: between 1 and ``most``, at most one more or half.

    Growth: only by reads that saw the limit in full use, +1 for each until the source first objects, later +1 for as
    many good reads as the limit is; where the source objected last, for ``PROBE_GENERATIONS`` times as many. Halving:
    from the number that really read, at most once a round. A read that was rejected while it was alone was too wide,
    not in too much company: no limit cures that, a split does.
    """
    reads = max(1, min(limit.reads, most))
    limit = replace(limit, reads=reads)
    if ended.end is ReadEnd.OTHER or ended.round != limit.round:
        return limit
    if ended.end is ReadEnd.OVERLOADED:
        if ended.readers <= 1:
            return limit
        objected_at = min(reads, ended.readers)
        return ReadLimit(max(1, objected_at // 2), 0, limit.round + 1, objected_at)
    if ended.readers < reads or reads == most:
        return limit
    good = limit.good + 1
    if good < _needed(limit):
        return replace(limit, good=good)
    return replace(limit, reads=reads + 1, good=0)


def _needed(limit: ReadLimit) -> int:
    """Good reads for one read more."""
    if limit.objected_at is None:
        return 1
    return limit.reads * (PROBE_GENERATIONS if limit.reads + 1 >= limit.objected_at else 1)
