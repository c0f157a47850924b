"""The limit of reads at once: grows while reads end well and it is in full use, halves once a round of overload."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_tasks.core.read_limit import EndedRead, ReadEnd, ReadLimit, after, first_limit, may_read

MOST = 64


def good(limit: ReadLimit, times: int = 1, readers: int | None = None) -> ReadLimit:
    """The limit after so many good reads of its round, in full use unless ``readers`` says otherwise."""
    for _ in range(times):
        limit = after(limit, EndedRead(ReadEnd.GOOD, limit.round, readers or limit.reads), MOST)
    return limit


def overloaded(limit: ReadLimit, readers: int, round: int | None = None) -> ReadLimit:
    return after(limit, EndedRead(ReadEnd.OVERLOADED, limit.round if round is None else round, readers), MOST)


def test_a_new_source_is_read_by_four_and_never_by_more_than_the_setting() -> None:
    assert first_limit(64) == ReadLimit(4)
    assert first_limit(3) == ReadLimit(3)
    assert first_limit(1) == ReadLimit(1)


def test_until_the_source_objects_every_good_read_adds_one() -> None:
    assert good(ReadLimit(4), 3) == ReadLimit(7)
    assert good(ReadLimit(63), 9) == ReadLimit(64)


def test_after_that_it_takes_as_many_good_reads_as_the_limit_is() -> None:
    limit = ReadLimit(3, 0, round=1, objected_at=8)
    assert good(limit, 2) == replace(limit, good=2)
    assert good(limit, 3) == replace(limit, reads=4)
    assert good(limit, 3 + 4) == replace(limit, reads=5)


def test_where_the_source_objected_it_takes_eight_times_as_many() -> None:
    limit = ReadLimit(7, 0, round=1, objected_at=8)
    assert good(limit, 55) == replace(limit, good=55)
    assert good(limit, 56) == replace(limit, reads=8)


@pytest.mark.parametrize("readers", [1, 3])
def test_a_limit_that_holds_nobody_back_does_not_grow(readers: int) -> None:
    assert good(ReadLimit(4), 20, readers) == ReadLimit(4)


def test_an_overload_halves_what_really_read() -> None:
    assert overloaded(ReadLimit(9, 5), readers=9) == ReadLimit(4, 0, round=1, objected_at=9)
    assert overloaded(ReadLimit(64), readers=16) == ReadLimit(8, 0, round=1, objected_at=16)
    assert overloaded(ReadLimit(1, 0, 3, 5), readers=2) == ReadLimit(1, 0, 4, 1)


def test_reads_that_overlapped_halve_once() -> None:
    limit = ReadLimit(16)
    for _ in range(6):
        limit = overloaded(limit, readers=16, round=0)
    assert limit == ReadLimit(8, 0, round=1, objected_at=16)
    assert overloaded(limit, readers=8, round=1) == ReadLimit(4, 0, round=2, objected_at=8)


def test_a_good_read_of_an_earlier_round_says_nothing() -> None:
    limit = ReadLimit(2, 1, round=1, objected_at=4)
    assert after(limit, EndedRead(ReadEnd.GOOD, 0, 4), MOST) == limit


def test_a_read_rejected_alone_was_too_wide_and_halves_nothing() -> None:
    assert overloaded(ReadLimit(6, 2), readers=1) == ReadLimit(6, 2)


def test_other_faults_change_nothing() -> None:
    assert after(ReadLimit(6, 2), EndedRead(ReadEnd.OTHER, 0, 6), MOST) == ReadLimit(6, 2)


def test_a_setting_that_was_lowered_holds_at_once() -> None:
    assert not may_read(ReadLimit(40), most=2, in_use=2, ahead=0)
    assert after(ReadLimit(40), EndedRead(ReadEnd.GOOD, 0, 2), 2).reads == 2


def test_a_turn_is_free_below_the_limit_less_those_ahead() -> None:
    assert may_read(ReadLimit(4), MOST, in_use=3, ahead=0)
    assert not may_read(ReadLimit(4), MOST, in_use=3, ahead=1)
    assert not may_read(ReadLimit(4), MOST, in_use=4, ahead=0)


LIMITS = st.builds(
    ReadLimit,
    reads=st.integers(1, 100),
    good=st.integers(0, 50),
    round=st.integers(0, 9),
    objected_at=st.none() | st.integers(1, 100),
)
ENDED = st.builds(EndedRead, end=st.sampled_from(list(ReadEnd)), round=st.integers(0, 9), readers=st.integers(1, 100))


@given(LIMITS, ENDED, st.integers(1, 100))
def test_it_stays_within_its_bounds_and_moves_by_one_up_or_to_no_less_than_its_half(
    limit: ReadLimit, ended: EndedRead, most: int
) -> None:
    then = after(limit, ended, most)
    now = min(limit.reads, most)
    assert 1 <= then.reads <= min(most, now + 1)
    assert then.round - limit.round == (then.objected_at is not None and then.round != limit.round)
    if then.reads > now:
        assert ended.end is ReadEnd.GOOD
    if then.reads < now:
        assert ended.end is ReadEnd.OVERLOADED
        assert then.reads == max(1, min(now, ended.readers) // 2)


@given(LIMITS, st.integers(2, 100), st.integers(2, 30))
def test_however_many_of_one_round_are_rejected_it_halves_once(limit: ReadLimit, readers: int, times: int) -> None:
    rejected = EndedRead(ReadEnd.OVERLOADED, limit.round, readers)
    first = then = after(limit, rejected, MOST)
    for _ in range(times):
        then = after(then, rejected, MOST)
    assert then == first


@given(st.integers(2, 40), st.integers(0, 400))
def test_against_a_source_that_bears_so_many_it_settles_near_below_and_seldom_asks_for_more(
    bears: int, more_reads: int
) -> None:
    """A source that takes ``bears`` reads and rejects each beyond: simulated a read at a time, always in full use."""
    limit, rejections, low = first_limit(MOST), 0, MOST
    reads = 200 + 20 * bears + more_reads
    for _ in range(reads):
        if limit.reads > bears:
            rejections += 1
            limit = overloaded(limit, readers=limit.reads)
        else:
            limit = good(limit)
        low = min(low, limit.reads)
    assert limit.reads <= bears + 1
    assert low >= min(4, bears // 2)
    assert rejections <= 3 + reads / (PROBES * bears)


PROBES = 4
