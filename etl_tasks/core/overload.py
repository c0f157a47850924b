"""The whole overload policy as one pure table: which error of a try on a window leads to which action.

Source: DESIGN, "Extract". Nothing below this retries (phoenixdb's own retries are off): retry lives in one layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from etl_tasks.core.windows import Window, can_halve
from etl_tasks.errors import (
    ConfigError,
    LostOwnership,
    Overloaded,
    QueryTimedOut,
    ResourceExhausted,
    ShortRead,
    SourceHeapExhausted,
    StatementLost,
    TerminalError,
    TransientError,
    Unreachable,
)


class Action(StrEnum):
    """What to do after a failed try.

    ``retry``: the same window again after the delay. ``reconnect``: the same on a new connection, the old one dropped
    without a word to the server. ``split``: replace the slice by its two halves. ``wait``: give the slice back until
    the delay has passed; no try and no attempt is spent. ``fail``: this attempt of the slice is over; whether another
    may follow is for the error's class to say (TransientError: yes, while attempts are left).
    """

    RETRY = "retry"
    SPLIT = "split"
    FAIL = "fail"
    WAIT = "wait"
    RECONNECT = "reconnect"


@dataclass(frozen=True, slots=True)
class OverloadRules:
    """The settings of the policy; raises ConfigError naming every one that cannot be meant.

    ``max_attempts`` tries on one window (``PHX_OVERLOAD_MAX_ATTEMPTS``), ``min_split_min`` minutes at least in each
    half (``PHX_OVERLOAD_MIN_SPLIT_MIN``), ``max_depth`` splits one inside the other (``PHX_OVERLOAD_MAX_DEPTH``), the
    back-off in seconds.
    """

    max_attempts: int = 4
    min_split_min: float = 2
    max_depth: int = 3
    backoff_base_s: float = 0.5
    backoff_cap_s: float = 30.0

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be at least {least}, not {value}"
            for name, value, least in (
                ("PHX_OVERLOAD_MAX_ATTEMPTS", self.max_attempts, 1),
                ("PHX_OVERLOAD_MIN_SPLIT_MIN", self.min_split_min, 0),
                ("PHX_OVERLOAD_MAX_DEPTH", self.max_depth, 0),
                ("the back-off's base", self.backoff_base_s, 0),
                ("the back-off's cap", self.backoff_cap_s, 0),
            )
            if value < least
        ]
        if faults:
            raise ConfigError("; ".join(faults))


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, after how many seconds (0 for split and fail), and why, as a sentence for the journal."""

    action: Action
    delay_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Policy:
    """One line of the table: ``first`` until ``tries`` tries were made (None: ``max_attempts``), then ``then``.

    ``then=split`` becomes ``fail`` where the window may not be split.
    """

    first: Action
    tries: int | None
    then: Action


POLICIES: dict[type[Exception], Policy] = {
    # Rejected in 0.2-0.4 s (FACTS), and often only because others read at the same time: cheap to try again.
    Overloaded: Policy(Action.RETRY, None, Action.SPLIT),
    # Each try of these costs the whole time-out (300 s), or a Query Server's heap: one repeat, then a narrower window.
    QueryTimedOut: Policy(Action.RETRY, 2, Action.SPLIT),
    SourceHeapExhausted: Policy(Action.RETRY, 2, Action.SPLIT),
    # Nobody is there: neither trying harder nor asking for less helps. GatewayRefused is one of them.
    Unreachable: Policy(Action.WAIT, None, Action.WAIT),
    # A connection that failed lies from then on (FACTS: empty fetches, other clients' rows), so these need a new one.
    StatementLost: Policy(Action.RECONNECT, None, Action.FAIL),
    ShortRead: Policy(Action.RECONNECT, None, Action.FAIL),
    TransientError: Policy(Action.RECONNECT, None, Action.FAIL),
    # The target's trouble: reading less from the source cures nothing.
    ResourceExhausted: Policy(Action.RETRY, None, Action.FAIL),
    TerminalError: Policy(Action.FAIL, None, Action.FAIL),
}
"""Error class → policy. A class that is not listed has the policy of its nearest listed base; one without any fails."""

_UNKNOWN = Policy(Action.FAIL, None, Action.FAIL)


def policy_for(error: Exception) -> Policy:
    """The line of the table for ``error``: that of its class or nearest base; an unknown error fails.

    Raises ValueError for LostOwnership: whoever lost a slice has nothing to decide about it and must let the error out.
    """
    if isinstance(error, LostOwnership):
        raise ValueError("LostOwnership is no case for the overload policy: stop, roll back and touch nothing")
    for base in type(error).__mro__:
        policy = POLICIES.get(base)
        if policy is not None:
            return policy
    return _UNKNOWN


def can_split(window: Window, depth: int, rules: OverloadRules) -> bool:
    """Whether ``window``, itself split ``depth`` times, may be halved: both halves long enough and depth left."""
    return depth < rules.max_depth and can_halve(window, timedelta(minutes=rules.min_split_min))


def backoff_s(tries: int, rules: OverloadRules, jitter: float) -> float:
    """Seconds to wait after try number ``tries``, with full jitter: ``jitter * min(cap, base * 2 ** (tries - 1))``."""
    doublings = min(tries - 1, 60)  # beyond that only the cap counts, and a float would overflow
    return float(jitter * min(rules.backoff_cap_s, rules.backoff_base_s * 2**doublings))


def decide(
    error: Exception,
    *,
    tries: int,
    window: Window,
    depth: int,
    rules: OverloadRules,
    jitter: float,
) -> Decision:
    """What to do after ``error`` on ``window``; ``tries`` counts those of this attempt, the failed one included.

    An overloaded source is asked again up to ``max_attempts`` times with growing, jittered pauses, then the window is
    split. A query that timed out or a heap that is gone is tried only once more before the split: a wide window that
    needs more than 300 s must not be given four times 300 s. What may not be split fails with a reason naming the
    settings in the way. An unreachable source is waited for, between half the cap and the cap, whatever ``tries``
    says. Raises ValueError for LostOwnership, for ``tries`` below 1 and for ``jitter`` outside [0, 1).
    """
    if tries < 1:
        raise ValueError(f"tries counts the failed one, so it is at least 1, not {tries}")
    if not 0 <= jitter < 1:
        raise ValueError(f"jitter must be in [0, 1), not {jitter}")
    policy = policy_for(error)
    # The error's own words come first: a screen shows the beginning, and kind and window stand beside it anyway.
    where = f"{type(error).__name__} on {window}, depth {depth}, try {tries}"

    def told(why: str) -> str:
        first_line, newline, rest = str(error).partition("\n")
        return f"{first_line} [{where}: {why}]{newline}{rest}"

    if policy.first is Action.WAIT:
        # Not full jitter: no try is counted here, so the pause cannot grow, and one near zero would only spin.
        delay_s = rules.backoff_cap_s * (0.5 + jitter / 2)
        return Decision(Action.WAIT, delay_s, told("nobody answers; waiting, which spends no attempt"))

    allowed = rules.max_attempts if policy.tries is None else min(policy.tries, rules.max_attempts)
    if policy.first is not Action.FAIL and tries < allowed:
        delay_s = backoff_s(tries, rules, jitter)
        return Decision(
            policy.first, delay_s, told(f"{policy.first}, try {tries + 1} of {allowed}, in {delay_s:.1f} s")
        )

    if policy.then is Action.SPLIT:
        if can_split(window, depth, rules):
            return Decision(Action.SPLIT, 0.0, told(f"{tries} of {allowed} tries made, so it is split"))
        return Decision(Action.FAIL, 0.0, told(_why_not_split(window, depth, rules)))
    if policy.first is Action.FAIL:
        return Decision(Action.FAIL, 0.0, told("another try cannot help"))
    return Decision(Action.FAIL, 0.0, told(f"all {allowed} tries of this attempt are spent"))


def _why_not_split(window: Window, depth: int, rules: OverloadRules) -> str:
    if depth >= rules.max_depth:
        return (
            f"may not be split any more, depth {depth} has reached PHX_OVERLOAD_MAX_DEPTH={rules.max_depth}; raise it, "
            "start with narrower windows (lower PHX_INITIAL_SLICE_MIN), or run fewer readers at once"
        )
    return (
        f"may not be split, a half of its {window.duration.total_seconds() / 60:g} minutes would be shorter than "
        f"PHX_OVERLOAD_MIN_SPLIT_MIN={rules.min_split_min:g}; lower it, or run fewer readers at once"
    )
