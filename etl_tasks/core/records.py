"""What the journal hands out: claims, outcomes and plans, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from etl_tasks.core.publishing import LoadedWindow
from etl_tasks.core.slicing import SlicePlan
from etl_tasks.core.windows import Window


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be planned in one transaction."""

    process_name: str
    clean_table: str
    manual: bool
    publish_at_end: bool
    shift_min: int
    plan: SlicePlan
    asked_until: datetime
    task_id: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """What became of a plan: ``status`` planned, skipped or ok (nothing to read).

    ``redelivered`` when the task was seen before.
    """

    run_id: int
    status: str
    reason: str = ""
    redelivered: bool = False


@dataclass(frozen=True, slots=True)
class SliceClaim:
    """A slice under lease for one attempt; ``attempt`` is its fence, ``spent`` counts the attempts charged so far."""

    slice_id: int
    run_id: int
    clean_table: str
    partition: int
    window: Window
    step: int
    depth: int
    attempt: int
    spent: int
    manual: bool
    process_name: str


@dataclass(frozen=True, slots=True)
class SliceResult:
    """What a finished attempt moved; times in milliseconds by stage.

    ``rows_slow`` are those of frames that were not read the fast way.
    """

    rows_counted: int
    rows_read: int
    rows_inserted: int
    rows_distinct: int
    rows_rejected: int
    timings_ms: Mapping[str, int]
    rows_slow: int = 0


@dataclass(frozen=True, slots=True)
class Transition:
    """What a committed transition made due: who is to be told. Losing it costs only time (the sweeper tells again).

    ``manual`` is the lane of the run: it chooses the queue of what is sent; ``process_name`` names it. ``given_up`` is
    the slice that became an error because its attempts are spent and nobody works on it any more.
    """

    run_id: int
    partition: int
    manual: bool = False
    publish_due: bool = False
    released_partitions: Sequence[int] = ()
    finalize_due: bool = False
    children: Sequence[int] = ()
    open_slices: int = 0
    process_name: str | None = None
    given_up: int | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """One value that did not fit: the row's key as text, and where and why."""

    row_key: str
    column: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class PublishClaim:
    """A publish under lease; ``token`` is its fence, ``least_rows`` what a rebuild must leave in CLEAN, and ``lost``
    the windows of which it may take rows.
    """

    clean_table: str
    partition: int
    token: int
    attempt: int
    spent: int
    target_gen: int
    published_gen: int
    rebuild: bool
    publish_run_id: int
    windows: Sequence[LoadedWindow]
    least_rows: int = 0
    lost: Sequence[Window] = ()


@dataclass(frozen=True, slots=True)
class SanitizeRules:
    """TTLs in minutes: planned runs nobody took up, running ones with a dead heartbeat, any running one (0: none)."""

    planned_ttl_min: int = 60
    heartbeat_ttl_min: int = 15
    hard_ttl_min: int = 0


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that a sweep ended, and why."""

    run_id: int
    process_name: str
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class DueSlice:
    """A slice to be sent (again); ``believed_queued`` when it was sent before and not taken."""

    slice_id: int
    run_id: int
    partition: int
    manual: bool
    believed_queued: bool


@dataclass(frozen=True, slots=True)
class OpenReconcile:
    """A reconcile in the journal that has not ended, or had not, and since when."""

    reconcile_id: int
    started_at: datetime


@dataclass(frozen=True, slots=True)
class PublishProgress:
    """How far a partition's publish is; ``state`` is a ``PublishState``, ``waits``: it is due, but later."""

    partition: int
    loaded_gen: int
    published_gen: int
    state: str
    waits: bool
    last_error: str | None


@dataclass(frozen=True, slots=True)
class RepairToCheck:
    """The reconcile whose differing ``windows`` the run ``run_id`` has loaded (None: they were only published)."""

    reconcile_id: int
    run_id: int | None
    by_hash: bool
    windows: Sequence[Window]
