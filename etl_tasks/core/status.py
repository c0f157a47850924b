"""What ``status`` shows and ``run`` follows: the journal's state, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from etl_tasks.core.read_limit import SourceReads
from etl_tasks.core.states import DEDUP_SUFFIX, RunStatus, SliceState
from etl_tasks.core.windows import Window

NEWEST_REJECTS = 10_000
"""So many values that did not fit, of the newest runs, are told by column and reason."""


@dataclass(frozen=True, slots=True)
class RunView:
    """A row of the journal: a run, or a publish where ``process`` ends in ``:dedup``. Times are aware UTC."""

    run_id: int
    process: str
    status: str
    started_at: datetime
    ended_at: datetime | None
    since: datetime | None
    until: datetime | None
    covered_until: datetime | None
    heartbeat_at: datetime | None
    details: Mapping[str, Any]
    progress_at: datetime | None = None

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.ended_at is None and self.status in (RunStatus.PLANNED, RunStatus.RUNNING)

    @property
    def cancelled(self) -> bool:
        """Whether somebody ended it."""
        return bool(self.details.get("cancelled"))

    @property
    def is_publish(self) -> bool:
        """Whether it is a publish's row and not a run."""
        return self.process.endswith(DEDUP_SUFFIX)

    @property
    def reason(self) -> str:
        """Why it ended as it did, as far as the journal says; empty when it says nothing."""
        said = next((str(self.details[key]) for key in ("error", "reason", "note") if self.details.get(key)), "")
        if said or self.active:
            return said
        failed = self.details.get("failed_slices") or 0
        return f"{failed} {'slice' if failed == 1 else 'slices'} in error" if failed else ""


@dataclass(frozen=True, slots=True)
class SliceGroup:
    """Slices of one run in one state; those split, failed or waiting also by the class of their last error.

    ``window`` and ``last_error`` are of the newest slice of the group that has an error.
    """

    run_id: int
    state: str
    error_kind: str | None
    slices: int
    rows: int
    overloads: int
    deepest: int
    window: Window | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class OwedPublish:
    """A partition with something loaded and not published, or whose publish is under way, due or in error."""

    partition: int
    state: str
    generations: int
    waiting_since: datetime | None
    not_before: datetime | None
    attempts: int
    error_kind: str | None
    last_error: str | None
    lease_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class OpenWork:
    """Slices of active runs that are not loaded yet, and who works on them.

    ``due``: released, and nothing keeps a worker from taking them; ``lost``: running under a lease that has expired, so
    due again; ``waiting``: to be tried again later, the first at ``next_try_at``; ``held_back``: of partitions not
    released yet; ``running``: under a live lease, on ``workers`` workers, the longest since ``oldest_start``.
    """

    due: int = 0
    lost: int = 0
    waiting: int = 0
    held_back: int = 0
    running: int = 0
    workers: int = 0
    oldest_start: datetime | None = None
    next_try_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class UnloadedWindows:
    """Windows in error that nobody has loaded since, by the run that failed on them last and by the kind of error.

    ``since`` and ``until`` hull them (source time); ``window`` and ``last_error`` are of one of them. ``cancelled``:
    the run was ended by somebody before it had tried them.
    """

    run_id: int
    error_kind: str
    windows: int
    since: datetime
    until: datetime
    window: Window
    last_error: str
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Holes:
    """Intervals that nobody has loaded, is to load or has failed on: how many, how long together, and their hull."""

    count: int
    seconds: float
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class RejectedRows:
    """Rows left out of loaded windows, of the newest ``NEWEST_REJECTS``, and the last run that did."""

    rows: int = 0
    run_id: int | None = None


@dataclass(frozen=True, slots=True)
class RejectGroup:
    """Rows that were not moved because a value did not fit: by column and reason, the numbers in it left out.

    ``rows`` is of the newest ``NEWEST_REJECTS`` values. ``run_id`` is the last run that met one, ``row_key`` and
    ``value`` are an example.
    """

    column: str
    reason: str
    rows: int
    run_id: int
    row_key: str
    value: str | None


@dataclass(frozen=True, slots=True)
class ReconcileView:
    """One comparison of CLEAN with the source; the interval and ``differing`` are in source time.

    ``status`` is running, exact, different or error (then ``error`` says why). Numbers are None where that comparison
    does not count them. ``alive``: somebody holds the lock of reconciles; without, what is running has died.
    """

    reconcile_id: int
    since: datetime
    until: datetime
    by_hash: bool
    status: str
    started_at: datetime
    ended_at: datetime | None
    windows: int
    differing: Sequence[Window]
    source_rows: int | None
    clean_rows: int | None
    missing: int | None
    extra: int | None
    changed: int | None
    repair_run_id: int | None
    error: str = ""
    alive: bool = True

    @property
    def compared(self) -> bool:
        """Whether it has compared to its end."""
        return self.status in ("exact", "different")

    @property
    def died(self) -> bool:
        """Whether its process has ended without a word."""
        return self.status == "running" and not self.alive


@dataclass(frozen=True, slots=True)
class DifferingWindow:
    """A window (source time) that differed when it was last compared.

    ``by_hash``: its content was found to differ, which a comparison by count may not see. ``mendable``: publishing or
    loading it (``--repair``) would mend it; rows only in CLEAN, and rows that do not fit, stay as they are.
    """

    window: Window
    by_hash: bool = False
    mendable: bool = True


@dataclass(frozen=True, slots=True)
class ProcessView:
    """A process: its active and last runs, newest first, and its watermark in business time."""

    process: str
    runs: Sequence[RunView]
    watermark: datetime | None


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The state of the journal at ``now`` (PostgreSQL's clock).

    ``slices`` and ``rejected`` (rows by run) are of the active runs and of the last run of each process that had
    slices; ``incomplete`` are partitions with a hole that some run left in error. ``unloaded`` and ``rejects`` are of
    every run that the journal still has. ``reconciles`` are the newest, newest first; ``differing`` are the windows
    (source time) that differed when they were last compared. ``holes`` are below the schedule's watermark. ``reads``
    are the sources that slices of the whole journal have read within a day.
    """

    now: datetime
    processes: Sequence[ProcessView]
    slices: Sequence[SliceGroup]
    owed: Sequence[OwedPublish]
    incomplete: Sequence[int]
    rejected: Mapping[int, int]
    work: OpenWork = OpenWork()
    unloaded: Sequence[UnloadedWindows] = ()
    rejects: Sequence[RejectGroup] = ()
    reconciles: Sequence[ReconcileView] = ()
    differing: Sequence[DifferingWindow] = ()
    rejected_rows: RejectedRows = RejectedRows()
    holes: Holes | None = None
    reads: Sequence[SourceReads] = ()

    @property
    def active(self) -> list[RunView]:
        """Every run and publish that has not ended."""
        return [run for process in self.processes for run in process.runs if run.active]

    @property
    def oldest_heartbeat(self) -> datetime | None:
        """The oldest sign of life of what is active; None when nothing is."""
        beats = [run.heartbeat_at or run.started_at for run in self.active]
        return min(beats, default=None)

    @property
    def last_progress(self) -> datetime | None:
        """When something moved last, of the active runs and publishes; without any, of all that are shown."""
        moves = [moment for run in self._worked_on for moment in (run.progress_at, run.ended_at) if moment]
        return max(moves, default=None)

    @property
    def last_sign(self) -> datetime | None:
        """When a worker was last heard of, by a heartbeat or by progress, of the same runs as ``last_progress``.

        Workers write a heartbeat on everything that is active; that something else ended lately is no sign for it.
        """
        beats = [run.heartbeat_at for run in self._worked_on if run.heartbeat_at]
        return max([*beats, *([self.last_progress] if self.last_progress else [])], default=None)

    @property
    def _worked_on(self) -> list[RunView]:
        """What workers have in hand, or else had: a refused run was ended by whoever planned it."""
        shown = [run for process in self.processes for run in process.runs if run.status != RunStatus.SKIPPED]
        return self.active or shown


def lag_of(watermark: datetime, now: datetime, shift_min: int) -> timedelta:
    """How far the watermark stays behind the business time of ``now`` (source time less the shift)."""
    return now - timedelta(minutes=shift_min) - watermark


@dataclass(frozen=True, slots=True)
class PartitionProgress:
    """One partition of a run, and the publish that the run waits for.

    ``rows``, ``splits``, ``overloads``, ``running`` and ``waiting`` are of the run's slices in it; ``clean_rows`` are
    the rows of the partition in CLEAN after its last publish; ``publish_waits``: that publish is due, but later.
    """

    partition: int
    state: str
    slices: int
    open_slices: int
    failed_slices: int
    loaded: bool
    published: bool
    publish_failed: bool
    publish_state: str
    publish_waits: bool
    publish_ms: int | None
    publish_error: str | None
    clean_rows: int | None
    loading_s: float | None
    rows: int = 0
    splits: int = 0
    overloads: int = 0
    running: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class FailedSlice:
    """A window that a run could not load, or that waits to be tried again at ``not_before``."""

    window: Window
    error_kind: str
    last_error: str
    not_before: datetime | None = None

    @property
    def first_line(self) -> str:
        """The first line of the error."""
        return self.last_error.strip().partition("\n")[0]


@dataclass(frozen=True, slots=True)
class RunProgress:
    """A run as it is now.

    ``publishing``: some publish of the CLEAN table is under way, and others wait for its end. ``waiting`` is one of the
    slices that wait to be tried again, if there are any.
    """

    run: RunView
    partitions: Sequence[PartitionProgress]
    publishing: bool = False
    waiting: FailedSlice | None = None

    @property
    def total(self) -> int:
        """Slices, the halves of splits included."""
        return sum(partition.slices for partition in self.partitions)

    @property
    def done(self) -> int:
        """Slices that are loaded, split or failed."""
        return self.total - sum(partition.open_slices for partition in self.partitions)

    @property
    def at_work(self) -> bool:
        """Whether some worker holds a slice of the run, or a publish of its CLEAN table."""
        return self.publishing or any(partition.running for partition in self.partitions)

    @property
    def bides_its_time(self) -> bool:
        """Whether something of it is not due yet: a slice or a publish that is to be tried again later."""
        return self.waiting is not None or any(partition.publish_waits for partition in self.partitions)


def slices_by_state(groups: Sequence[SliceGroup], run_id: int) -> dict[str, int]:
    """How many slices of the run are in each state, all states named, in the order of a slice's life."""
    counts = {str(state): 0 for state in SliceState}
    for group in groups:
        if group.run_id == run_id:
            counts[group.state] += group.slices
    return counts


def with_errors(groups: Sequence[SliceGroup]) -> list[SliceGroup]:
    """The groups of slices that failed, wait or were split for an error; failed ones first, the larger first."""
    order = {str(SliceState.ERROR): 0, str(SliceState.PLANNED): 1, str(SliceState.RUNNING): 2, str(SliceState.SPLIT): 3}
    chosen = [group for group in groups if group.last_error and group.state in order]
    return sorted(chosen, key=lambda group: (order[group.state], -group.slices))
