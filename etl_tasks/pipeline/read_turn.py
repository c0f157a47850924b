"""An attempt's turn to read the source, waited for and given back: no more read at once than the source bears."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from etl_tasks.core.read_limit import ReadEnd, ReadLimit
from etl_tasks.core.records import SliceClaim
from etl_tasks.errors import EtlError, Overloaded, TransientError

log = structlog.get_logger(__name__)

# A read takes a fraction of a second or more. A turn that came free lies idle for half of a pause at most; the pauses
# grow, so that many who wait for long do not keep PostgreSQL busy.
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5
_GROWTH = 1.5
# A shorter wait is not worth a line in the log.
_TELL_FROM_S = 5.0


class NoTurn(EtlError):
    """The source was busy for so long that the slice goes back to be planned; no attempt is spent."""


class ReadTurns(Protocol):
    """Turns to read one source, shared by all workers."""

    def take(self, claim: SliceClaim) -> bool: ...
    def give_back(self, claim: SliceClaim, end: ReadEnd) -> tuple[ReadLimit, ReadLimit] | None: ...


@dataclass(frozen=True, slots=True)
class TurnRules:
    """``patience_s``: the longest wait for a turn; ``soft_limit``: what the worker raises when the task's time is up;
    ``jitter``: a number of [0, 1) each time.
    """

    patience_s: float
    soft_limit: type[BaseException]
    jitter: Callable[[], float]


class Turn:
    """An attempt's turn: ``waited_ms`` until it came; it is given back once, by whoever says first that it is over."""

    def __init__(self, turns: ReadTurns | None, claim: SliceClaim, waited_ms: int) -> None:
        self._turns = turns
        self._claim = claim
        self.waited_ms = waited_ms

    def end(self, end: ReadEnd) -> None:
        """The source is read no more. Never raises for a journal that is away: the turn ends with the attempt."""
        turns, self._turns = self._turns, None
        if turns is not None:
            _give_back(turns, self._claim, end)


@contextmanager
def turn_to_read(
    turns: ReadTurns | None, claim: SliceClaim, rules: TurnRules, pause: Callable[[float], None]
) -> Iterator[Turn]:
    """A turn for the length of the block, or until it is ended in it (no limit where ``turns`` is None).

    The block is a read: what it raises says how it ended. ``pause`` sleeps seconds and raises where the wait has to
    end. Raises NoTurn, LostOwnership, and what the journal raises.
    """
    turn = Turn(turns, claim, 0 if turns is None else round(1000 * _wait(turns, claim, rules, pause)))
    try:
        yield turn
    except BaseException as error:
        turn.end(ReadEnd.OVERLOADED if isinstance(error, Overloaded) else ReadEnd.OTHER)
        raise
    try:
        turn.end(ReadEnd.GOOD)
    except rules.soft_limit:
        # All rows are loaded; that the slice is finished ends its turn as well.
        log.warning("soft_limit_ignored", next="the slice is finished")


def _wait(turns: ReadTurns, claim: SliceClaim, rules: TurnRules, pause: Callable[[float], None]) -> float:
    """Seconds until the turn came."""
    began = time.monotonic()
    next_s = _FIRST_PAUSE_S
    try:
        while not turns.take(claim):
            if time.monotonic() - began > rules.patience_s:
                raise NoTurn(_no_turn(began))
            pause(next_s * (0.5 + rules.jitter()))
            next_s = min(next_s * _GROWTH, _LONGEST_PAUSE_S)
    except rules.soft_limit:
        # Not the window's fault, so nothing that a split would cure.
        raise NoTurn(_no_turn(began)) from None
    waited_s = time.monotonic() - began
    if waited_s >= _TELL_FROM_S:
        log.info("read_turn_waited_for", waited_s=round(waited_s, 1))
    return waited_s


def _no_turn(began: float) -> str:
    return (
        f"waited {time.monotonic() - began:.0f} s for a turn to read the source, which other slices read; this one is "
        "tried again later, no attempt is spent (PHX_MAX_CONCURRENT_READS bounds the reads at once)"
    )


def _give_back(turns: ReadTurns, claim: SliceClaim, end: ReadEnd) -> None:
    try:
        change = turns.give_back(claim, end)
    except TransientError as error:
        log.warning("read_turn_not_given_back", error=str(error), next="it ends with the attempt")
        return
    if change is None:
        return
    before, limit = change
    if limit.reads > before.reads:
        log.info("read_limit_raised", reads=limit.reads, before=before.reads)
    elif limit.round != before.round:
        log.warning("read_limit_halved", reads=limit.reads, before=before.reads, readers=limit.objected_at)
