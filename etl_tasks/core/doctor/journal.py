"""Rules about the journal: its schema, the cost of publishes, and the signs of beat."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from etl_tasks.core.doctor.facts import JournalSchema, PublishCost
from etl_tasks.core.doctor.findings import Opinion, fail, ok, warn

SPACING = 4
"""A partition's next scheduled publish starts no sooner than this many times the last one's duration after it."""
MIGRATE = "run: python -m etl_tasks migrate"
STEPS_LOOKED_AT = 3
"""Of the schedule, for beat: one beat sends a plan a step."""


def table_opinions(wanted: JournalSchema, there: JournalSchema) -> list[Opinion]:
    """The tables and columns that the journal lacks of ``ddl/journal.sql``; without them no statement of ours works."""
    found = []
    for table, columns in wanted.columns.items():
        if table not in there.columns:
            found.append(fail(f"there is no table {table}", MIGRATE))
        elif missing := sorted(columns - there.columns[table]):
            found.append(fail(f"{table} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}", MIGRATE))
    return found or [ok(f"{len(wanted.columns)} tables, as in ddl/journal.sql")]


def index_opinions(wanted: JournalSchema, there: JournalSchema) -> list[Opinion]:
    """The indexes that the journal lacks, or that are of no use: one that is unique is also a guard."""
    faults: list[tuple[str, str]] = []
    for name, index in wanted.indexes.items():
        found = there.indexes.get(name)
        if found is None:
            faults.append((f"the index {name} is missing", f"{MIGRATE}; it makes {name}"))
        elif not found.valid:
            faults.append((f"the index {name} is invalid (its building broke off)", f"REINDEX INDEX {name}"))
        elif index.unique and not found.unique:
            faults.append((f"the index {name} is not unique", f"DROP INDEX {name}, then {MIGRATE}"))
    return [fail(found, cure) for found, cure in faults] or [ok(f"{len(wanted.indexes)} indexes, all valid")]


def publish_cost_opinion(
    cost: PublishCost | None, *, step_min: int, every_minutes: int, soft_limit_min: int
) -> Opinion:
    """Whether publishes keep up with the schedule: a run every step, a publish no sooner than four durations after."""
    if cost is None:
        return ok("nothing has been published yet")
    took_min = cost.longest_ms / 60_000
    said = f"the longest of the last {cost.publishes} publishes took {cost.longest_ms / 1000:.1f} s ({cost.partition})"
    if took_min * 2 > soft_limit_min:
        return fail(
            f"{said}, more than half of PUBLISH_SOFT_TIME_LIMIT_MIN={soft_limit_min}",
            "raise PUBLISH_SOFT_TIME_LIMIT_MIN, PUBLISH_TIME_LIMIT_MIN and VISIBILITY_TIMEOUT_H, or make partitions "
            "smaller: a publish that is stopped each time never ends",
        )
    cadence_min = max(step_min, every_minutes)
    if took_min * SPACING > cadence_min:
        return warn(
            f"{said}: {SPACING} × that is more than the {cadence_min} minutes of STEP_MIN and PUBLISH_EVERY_MINUTES",
            f"expect CLEAN to be {took_min * (SPACING + 1):.0f} minutes behind, and write PUBLISH_EVERY_MINUTES="
            f"{int(took_min * (SPACING + 1)) + 1}, or give ClickHouse faster disks",
        )
    return ok(said)


def beat_opinion(planned_at: Sequence[datetime], now: datetime, step_min: int, process: str) -> Opinion:
    """``planned_at``: when the messages of beat (a plan with a task id, in the schedule's lane) became rows.

    None within two steps: no beat, or nobody takes its messages. In three steps one beat leaves three or four rows,
    five when one message waited; two beats leave six or more.
    """
    step = timedelta(minutes=step_min)
    lately = [moment for moment in planned_at if now - moment <= 2 * step]
    if not lately:
        last = max(planned_at, default=None)
        seen = "never" if last is None else f"last at {last:%Y-%m-%d %H:%M:%S}Z"
        return fail(
            f"beat has planned nothing for {process} within {2 * step_min} minutes, 2 × STEP_MIN ({seen})",
            "start one beat: celery -A etl_tasks beat (and a worker that takes the queue plan); seen at its first plan,"
            " STEP_MIN later",
        )
    several = [moment for moment in planned_at if now - moment <= STEPS_LOOKED_AT * step]
    if len(several) >= 2 * STEPS_LOOKED_AT:
        return fail(
            f"{len(several)} plans of {process} within {STEPS_LOOKED_AT} × STEP_MIN={step_min} minutes: one beat sends "
            f"{STEPS_LOOKED_AT} or {STEPS_LOOKED_AT + 1}",
            "more than one beat runs: stop all but one (systemctl stop etl-beat on the other hosts)",
        )
    return ok(f"the last plan of the schedule at {max(lately):%Y-%m-%d %H:%M:%S}Z")
