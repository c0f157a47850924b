"""The overload policy, line by line, with delays worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_tasks import errors
from etl_tasks.core.overload import Action, OverloadRules, backoff_s, can_split, decide, policy_for
from etl_tasks.core.windows import Window, halve
from etl_tasks.errors import ConfigError, EtlError, LostOwnership, TerminalError, TransientError

START = datetime(2025, 8, 8, 10, tzinfo=UTC)
RULES = OverloadRules(max_attempts=4, min_split_min=2, max_depth=3, backoff_base_s=0.5, backoff_cap_s=30)


def minutes(length: float) -> Window:
    return Window(START, START + timedelta(minutes=length))


def actions(error: Exception, rules: OverloadRules = RULES, length: float = 60, depth: int = 0) -> list[str]:
    """What is decided after the first, second ... fifth try."""
    return [
        decide(error, tries=tries, window=minutes(length), depth=depth, rules=rules, jitter=0.5).action.value
        for tries in range(1, 6)
    ]


POLICY = {
    errors.Overloaded: ["retry", "retry", "retry", "split", "split"],
    errors.QueryTimedOut: ["retry", "split", "split", "split", "split"],
    errors.SourceHeapExhausted: ["retry", "split", "split", "split", "split"],
    errors.Unreachable: ["wait"] * 5,
    errors.GatewayRefused: ["wait"] * 5,
    errors.BrokerRefused: ["wait"] * 5,
    errors.BrokerFull: ["wait"] * 5,
    errors.StatementLost: ["reconnect", "reconnect", "reconnect", "fail", "fail"],
    errors.ShortRead: ["reconnect", "reconnect", "reconnect", "fail", "fail"],
    errors.TransientError: ["reconnect", "reconnect", "reconnect", "fail", "fail"],
    errors.ResourceExhausted: ["retry", "retry", "retry", "fail", "fail"],
    errors.TerminalError: ["fail"] * 5,
    errors.SchemaError: ["fail"] * 5,
    errors.AuthenticationFailed: ["fail"] * 5,
    errors.RowRejected: ["fail"] * 5,
    errors.CountMismatch: ["fail"] * 5,
    errors.UsageError: ["fail"] * 5,
    errors.ConfigError: ["fail"] * 5,
    errors.EtlError: ["fail"] * 5,
}


@pytest.mark.parametrize("kind", POLICY, ids=lambda kind: kind.__name__)
def test_the_table(kind: type[EtlError]) -> None:
    assert actions(kind("x")) == POLICY[kind]


def test_every_error_of_the_tree_has_a_line_above() -> None:
    def tree(kind: type[EtlError]) -> set[type[EtlError]]:
        return {kind}.union(*(tree(child) for child in kind.__subclasses__()))

    ours = {kind for kind in tree(EtlError) if kind.__module__ == "etl_tasks.errors"}
    assert ours - tree(LostOwnership) == set(POLICY)


def test_a_class_that_is_not_listed_has_its_nearest_base_s_policy() -> None:
    class TooManyChunks(errors.QueryTimedOut):
        pass

    class Terminal(errors.SchemaError):
        pass

    assert actions(TooManyChunks("x")) == POLICY[errors.QueryTimedOut]
    assert actions(Terminal("x")) == ["fail"] * 5


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("c"), TimeoutError("x"), RuntimeError("x")])
def test_an_unknown_error_fails_at_once(error: Exception) -> None:
    assert actions(error) == ["fail"] * 5


def test_lost_ownership_is_not_decided_upon() -> None:
    with pytest.raises(ValueError, match="LostOwnership"):
        decide(LostOwnership("x"), tries=1, window=minutes(5), depth=0, rules=RULES, jitter=0)
    with pytest.raises(ValueError, match="LostOwnership"):
        policy_for(LostOwnership("x"))


def test_one_attempt_means_no_retry() -> None:
    rules = OverloadRules(max_attempts=1)
    assert actions(errors.Overloaded("x"), rules)[0] == "split"
    assert actions(errors.QueryTimedOut("x"), rules)[0] == "split"
    assert actions(errors.StatementLost("x"), rules)[0] == "fail"


def test_what_may_not_be_split_for_its_depth_fails_and_says_why() -> None:
    decision = decide(errors.Overloaded("busy"), tries=4, window=minutes(60), depth=3, rules=RULES, jitter=0)
    assert decision.action is Action.FAIL
    assert decision.delay_s == 0
    for part in (
        "Overloaded",
        "[2025-08-08T10:00:00Z, 2025-08-08T11:00:00Z)",
        "depth 3",
        "PHX_OVERLOAD_MAX_DEPTH=3",
        "busy",
    ):
        assert part in decision.reason


def test_what_may_not_be_split_for_its_length_fails_and_says_why() -> None:
    decision = decide(errors.QueryTimedOut("slow"), tries=2, window=minutes(3), depth=1, rules=RULES, jitter=0)
    assert decision.action is Action.FAIL
    for part in ("QueryTimedOut", "3 minutes", "depth 1", "PHX_OVERLOAD_MIN_SPLIT_MIN=2", "lower", "slow"):
        assert part in decision.reason


@pytest.mark.parametrize(
    ("length", "depth", "allowed"),
    [
        (4, 0, True),
        (4, 2, True),
        (4, 3, False),  # depth reached
        (5, 0, True),  # 2 + 3
        (3, 0, False),  # 1 + 2
        (239 / 60, 0, False),  # 2 minutes and 1:59
        (1, 0, False),
    ],
)
def test_can_split(length: float, depth: int, allowed: bool) -> None:
    assert can_split(minutes(length), depth, RULES) is allowed


def test_can_split_down_to_seconds() -> None:
    rules = OverloadRules(min_split_min=0)
    assert can_split(minutes(2 / 60), 0, rules)
    assert not can_split(minutes(1 / 60), 0, rules)
    assert can_split(minutes(1), 0, OverloadRules(min_split_min=0.5))
    assert not can_split(minutes(59 / 60), 0, OverloadRules(min_split_min=0.5))


def test_retries_back_off_exponentially_with_full_jitter() -> None:
    delays = [
        decide(
            errors.ResourceExhausted("x"),
            tries=n,
            window=minutes(5),
            depth=0,
            rules=OverloadRules(max_attempts=10),
            jitter=0.5,
        ).delay_s
        for n in range(1, 10)
    ]
    assert delays == [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15]  # half of 0.5, 1, 2 ... 16, then of the cap 30
    assert backoff_s(3, RULES, 0) == 0
    assert backoff_s(100_000, RULES, 0.9) == 27


def test_waiting_is_never_near_zero_and_does_not_depend_on_tries() -> None:
    delays = {
        decide(errors.Unreachable("x"), tries=tries, window=minutes(5), depth=0, rules=RULES, jitter=0).delay_s
        for tries in (1, 2, 50)
    }
    assert delays == {15}
    assert decide(errors.Unreachable("x"), tries=1, window=minutes(5), depth=0, rules=RULES, jitter=0.5).delay_s == 22.5


@pytest.mark.parametrize(("tries", "jitter"), [(0, 0), (1, 1), (1, -0.1)])
def test_arguments_that_cannot_be(tries: int, jitter: float) -> None:
    with pytest.raises(ValueError, match=r"tries|jitter"):
        decide(errors.Overloaded("x"), tries=tries, window=minutes(5), depth=0, rules=RULES, jitter=jitter)


def test_rules_that_cannot_be_meant() -> None:
    with pytest.raises(ConfigError) as caught:
        OverloadRules(max_attempts=0, min_split_min=-1, max_depth=-1)
    for name in ("PHX_OVERLOAD_MAX_ATTEMPTS", "PHX_OVERLOAD_MIN_SPLIT_MIN", "PHX_OVERLOAD_MAX_DEPTH"):
        assert name in str(caught.value)


@given(
    st.sampled_from([kind for kind in POLICY if issubclass(kind, TransientError | TerminalError)]),
    st.integers(1, 100),
    st.integers(1, 10_000),
    st.integers(0, 6),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 8),
)
def test_whatever_happens_an_attempt_ends(
    kind: type[EtlError], tries: int, length_s: int, depth: int, jitter: float, max_attempts: int
) -> None:
    rules = OverloadRules(max_attempts=max_attempts)
    one = Window(START, START + timedelta(seconds=length_s))
    decision = decide(kind("x"), tries=tries, window=one, depth=depth, rules=rules, jitter=jitter)
    assert 0 <= decision.delay_s <= rules.backoff_cap_s
    if decision.action in (Action.RETRY, Action.RECONNECT):
        assert tries < max_attempts
    if decision.action in (Action.SPLIT, Action.FAIL):
        assert decision.delay_s == 0
    if decision.action is Action.SPLIT:
        assert depth < rules.max_depth
        assert all(half.duration >= timedelta(minutes=2) for half in halve(one))
    assert kind.__name__ in decision.reason
    assert str(one) in decision.reason
