"""When a publish is due, by examples of a day and by what must hold at any moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_tasks.core.cadence import CadenceRules, PartitionLoad, publish_due, taken_by
from etl_tasks.errors import ConfigError

NOON = datetime(2025, 8, 8, 12, tzinfo=UTC)
RULES = CadenceRules(every_minutes=60, every_slices=6, always_at_end=True, raw_ttl_s=5 * 86400)
LOADING = PartitionLoad(first_unpublished_at=NOON, steps_unpublished=1, open_slices=3)


def after(**span: float) -> datetime:
    return NOON + timedelta(**span)


@pytest.mark.parametrize("open_slices", [0, 3])
@pytest.mark.parametrize("scheduled", [True, False])
def test_nothing_unpublished_is_never_due(open_slices: int, scheduled: bool) -> None:
    load = PartitionLoad(None, 100, open_slices, NOON, 60, scheduled)
    assert publish_due(load, RULES, after(days=100)) is None


def test_after_minutes() -> None:
    assert publish_due(LOADING, RULES, after(minutes=59, seconds=59)) is None
    assert publish_due(LOADING, RULES, after(minutes=60)) == after(minutes=60)


def test_after_steps() -> None:
    assert publish_due(replace(LOADING, steps_unpublished=5), RULES, after(minutes=1)) is None
    assert publish_due(replace(LOADING, steps_unpublished=6), RULES, after(minutes=1)) == after(minutes=1)
    assert publish_due(replace(LOADING, steps_unpublished=7), RULES, after(minutes=1)) == after(minutes=1)


def test_zero_is_off() -> None:
    no_minutes = replace(RULES, every_minutes=0)
    no_slices = replace(RULES, every_slices=0)
    assert publish_due(LOADING, no_minutes, after(hours=5)) is None
    assert publish_due(replace(LOADING, steps_unpublished=99), no_slices, after(minutes=1)) is None
    assert publish_due(replace(LOADING, steps_unpublished=6), no_minutes, after(minutes=1)) == after(minutes=1)
    assert publish_due(LOADING, no_slices, after(minutes=60)) == after(minutes=60)


def test_at_the_end_of_a_run() -> None:
    at_end = replace(LOADING, open_slices=0)
    assert publish_due(at_end, RULES, after(minutes=1)) == after(minutes=1)
    assert publish_due(at_end, replace(RULES, always_at_end=False), after(minutes=1)) is None
    # It is still owed, and the cadence that counts across runs finds it.
    assert publish_due(at_end, replace(RULES, always_at_end=False), after(minutes=60)) == after(minutes=60)


def test_runs_by_hand_publish_only_at_their_end() -> None:
    by_hand = replace(LOADING, scheduled=False, steps_unpublished=99)
    assert publish_due(by_hand, RULES, after(hours=5)) is None
    assert publish_due(replace(by_hand, open_slices=0), RULES, after(minutes=1)) == after(minutes=1)
    assert publish_due(replace(by_hand, open_slices=0), replace(RULES, always_at_end=False), after(hours=5)) is None


def test_the_schedule_waits_four_durations_after_the_last_publish() -> None:
    # The last publish ended at noon and took 10 minutes: the next not before 12:40.
    load = replace(LOADING, open_slices=0, last_published_at=NOON, last_duration_s=600)
    assert publish_due(load, RULES, after(minutes=10)) == after(minutes=40)
    assert publish_due(load, RULES, after(minutes=40)) == after(minutes=40)
    assert publish_due(load, RULES, after(minutes=50)) == after(minutes=50)
    assert publish_due(load, replace(RULES, spacing=2), after(minutes=10)) == after(minutes=20)
    assert publish_due(load, replace(RULES, spacing=0), after(minutes=10)) == after(minutes=10)
    assert publish_due(replace(load, scheduled=False), RULES, after(minutes=10)) == after(minutes=10)


def test_owed_for_half_of_raws_ttl_is_due_at_once_on_either_lane() -> None:
    off = CadenceRules(every_minutes=0, every_slices=100, always_at_end=False, raw_ttl_s=5 * 86400)
    for scheduled in (True, False):
        load = replace(LOADING, scheduled=scheduled, last_published_at=after(days=2), last_duration_s=86400)
        assert publish_due(load, off, after(hours=59, minutes=59)) is None
        assert publish_due(load, off, after(hours=60)) == after(hours=60)
        assert publish_due(load, replace(off, raw_ttl_s=None), after(days=400)) is None


def test_the_spacing_does_not_outlast_half_of_raws_ttl() -> None:
    load = replace(LOADING, open_slices=0, last_published_at=NOON, last_duration_s=86400)
    assert publish_due(load, RULES, after(hours=1)) == after(hours=60)
    assert publish_due(load, replace(RULES, raw_ttl_s=None), after(hours=1)) == after(hours=96)


def test_settings_under_which_nothing_would_be_published_are_refused() -> None:
    with pytest.raises(ConfigError, match="ALWAYS_PUBLISH_AT_END"):
        CadenceRules(every_minutes=0, every_slices=0, always_at_end=False)
    with pytest.raises(ConfigError, match=r"PUBLISH_EVERY_MINUTES.*PUBLISH_EVERY_SLICES"):
        CadenceRules(every_minutes=-1, every_slices=-1)
    CadenceRules(every_minutes=0, every_slices=0, always_at_end=True)


moments = st.integers(0, 10 * 86400).map(lambda seconds: NOON + timedelta(seconds=seconds))


@given(
    st.builds(
        PartitionLoad,
        first_unpublished_at=moments,
        steps_unpublished=st.integers(0, 10),
        open_slices=st.integers(0, 2),
        last_published_at=st.one_of(st.none(), moments),
        last_duration_s=st.one_of(st.none(), st.floats(0, 100_000)),
        scheduled=st.booleans(),
    ),
    st.builds(
        CadenceRules,
        every_minutes=st.integers(0, 1000),
        every_slices=st.integers(1, 10),
        always_at_end=st.booleans(),
        raw_ttl_s=st.one_of(st.none(), st.integers(1, 10 * 86400)),
    ),
    moments,
    st.integers(0, 5 * 86400),
)
def test_what_is_due_stays_due_and_never_outlasts_raw(
    load: PartitionLoad, rules: CadenceRules, now: datetime, later_s: int
) -> None:
    due = publish_due(load, rules, now)
    later = now + timedelta(seconds=later_s)
    if due is not None:
        assert due >= now
        assert publish_due(load, rules, later) == max(due, later)
    assert load.first_unpublished_at is not None
    if rules.raw_ttl_s is not None:
        limit = load.first_unpublished_at + timedelta(seconds=rules.raw_ttl_s / 2)
        if now >= limit:
            assert due == now
        elif due is not None:
            assert due <= limit


def test_by_when_the_cadence_takes_what_no_run_waits_for() -> None:
    hourly = CadenceRules(every_minutes=60, every_slices=6, always_at_end=False, raw_ttl_s=5 * 86400)
    assert taken_by(NOON, hourly) == after(hours=1)
    assert taken_by(NOON, replace(hourly, raw_ttl_s=3600)) == after(minutes=30)
    assert taken_by(NOON, replace(hourly, every_minutes=0)) == after(days=2.5)
    assert taken_by(NOON, replace(hourly, every_minutes=0, raw_ttl_s=None)) is None, "by steps, which may never come"
    assert taken_by(NOON, replace(hourly, always_at_end=True)) == NOON
    at_its_end = PartitionLoad(first_unpublished_at=NOON, steps_unpublished=1, open_slices=0)
    for rules in (hourly, replace(hourly, raw_ttl_s=3600), replace(hourly, every_minutes=0)):
        moment = taken_by(NOON, rules)
        assert moment is not None
        assert publish_due(at_its_end, rules, moment - timedelta(seconds=1)) is None
        assert publish_due(at_its_end, rules, moment) is not None
