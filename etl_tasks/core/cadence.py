"""When a partition's publish is due (DESIGN, "Cadence"). Pure: the moment is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from etl_tasks.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CadenceRules:
    """The settings of the cadence; raises ConfigError where nothing would ever be published.

    ``every_minutes`` (``PUBLISH_EVERY_MINUTES``) and ``every_slices`` (``PUBLISH_EVERY_SLICES``: steps, as in the old
    system) are for the schedule's lane, 0 is off. ``always_at_end`` (``ALWAYS_PUBLISH_AT_END``) is for both lanes.
    ``raw_ttl_s`` is RAW's TTL in seconds, None for none. A partition's next publish of the schedule begins no sooner
    than ``spacing`` times the last one's duration after it.
    """

    every_minutes: int
    every_slices: int
    always_at_end: bool = True
    raw_ttl_s: int | None = None
    spacing: int = 4

    def __post_init__(self) -> None:
        faults = [
            f"{name} must not be negative: {value}"
            for name, value in (
                ("PUBLISH_EVERY_MINUTES", self.every_minutes),
                ("PUBLISH_EVERY_SLICES", self.every_slices),
                ("the spacing of publishes", self.spacing),
            )
            if value < 0
        ]
        if not (self.always_at_end or self.every_minutes or self.every_slices):
            faults.append(
                "ALWAYS_PUBLISH_AT_END, PUBLISH_EVERY_MINUTES and PUBLISH_EVERY_SLICES are all off: nothing would ever "
                "be published; turn one on"
            )
        if faults:
            raise ConfigError("; ".join(faults))


@dataclass(frozen=True, slots=True)
class PartitionLoad:
    """What is loaded into a partition and not yet published, whichever runs loaded it.

    ``first_unpublished_at`` is when the oldest unpublished load ended (None: nothing is unpublished),
    ``steps_unpublished`` the steps loaded since the last publish, ``open_slices`` the slices that the asking run
    still has open in this partition (0: it is at its end), ``last_published_at`` when the last publish ended,
    ``last_duration_s`` how many seconds it took. ``scheduled`` tells the schedule's lane from runs by hand.
    """

    first_unpublished_at: datetime | None
    steps_unpublished: int
    open_slices: int
    last_published_at: datetime | None = None
    last_duration_s: float | None = None
    scheduled: bool = True


def publish_due(load: PartitionLoad, rules: CadenceRules, now: datetime) -> datetime | None:
    """The moment from which the partition may be published: ``now`` or later; None when it is not due.

    Runs by hand publish at their end. The schedule also publishes in between, after ``every_minutes`` or
    ``every_slices``, whichever comes first, and waits out the spacing. On either lane what has been owed for half of
    RAW's TTL is due at once, without spacing: RAW must not forget rows that CLEAN does not have yet.
    """
    if load.first_unpublished_at is None:
        return None
    owed_until = None
    if rules.raw_ttl_s is not None:
        owed_until = load.first_unpublished_at + timedelta(seconds=rules.raw_ttl_s / 2)
        if now >= owed_until:
            return now
    if not _is_due(load, load.first_unpublished_at, rules, now):
        return None
    if not load.scheduled or load.last_published_at is None or load.last_duration_s is None:
        return now
    rested = load.last_published_at + timedelta(seconds=rules.spacing * load.last_duration_s)
    if owed_until is not None:
        rested = min(rested, owed_until)  # a pause, however long, must not outlast the rows in RAW
    return max(now, rested)


def taken_by(first_unpublished_at: datetime, rules: CadenceRules) -> datetime | None:
    """The moment by which the cadence takes what no run waits for, with no further load; None: it never does.

    ``first_unpublished_at`` is when the oldest unpublished load ended. What is at its end is taken at once.
    """
    if rules.always_at_end:
        return first_unpublished_at
    waits = [timedelta(minutes=rules.every_minutes)] if rules.every_minutes else []
    if rules.raw_ttl_s is not None:
        waits.append(timedelta(seconds=rules.raw_ttl_s / 2))
    return first_unpublished_at + min(waits) if waits else None


def _is_due(load: PartitionLoad, first_unpublished_at: datetime, rules: CadenceRules, now: datetime) -> bool:
    if load.open_slices == 0 and rules.always_at_end:
        return True
    if not load.scheduled:
        return False
    minutes_up = rules.every_minutes > 0 and now - first_unpublished_at >= timedelta(minutes=rules.every_minutes)
    steps_up = rules.every_slices > 0 and load.steps_unpublished >= rules.every_slices
    return minutes_up or steps_up
