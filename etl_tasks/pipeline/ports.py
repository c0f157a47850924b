"""What the pipeline asks of its adapters. The composition root (``etl_tasks.wiring``) puts the real ones in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol

from etl_tasks.core.batch import ColumnBatch, SourceColumn, TargetColumn
from etl_tasks.core.cancelling import CancelledRun
from etl_tasks.core.publishing import LoadedWindow, PublishRequest, PublishResult, StageMetric
from etl_tasks.core.reconcile_verdict import Coverage, Finding
from etl_tasks.core.records import (
    DueSlice,
    EndedRun,
    NewRun,
    OpenReconcile,
    PlannedRun,
    PublishClaim,
    PublishProgress,
    Reject,
    RepairToCheck,
    SanitizeRules,
    SliceClaim,
    SliceResult,
    Transition,
)
from etl_tasks.core.resuming import RunRemains
from etl_tasks.core.row_profile import Estimate, LoadedStretch
from etl_tasks.core.slice_sizing import Experience
from etl_tasks.core.states import RunStatus
from etl_tasks.core.windows import Window
from etl_tasks.errors import NewerPublish


class Source(Protocol):
    """A Phoenix table behind a Query Server. One instance a thread; made after fork."""

    def probe(self) -> None:
        """TCP connect within ``PHX_TCP_PROBE_TIMEOUT_MS``; raises Unreachable."""

    def columns(self) -> Sequence[SourceColumn]:
        """``MAIN_COLUMNS`` as Phoenix's catalog knows them, in that order; raises SchemaError naming every
        missing one.
        """

    def access_path(self, window: Window) -> str:
        """What EXPLAIN says of the read of ``window`` (one line a step)."""

    def estimate(self, window: Window) -> Estimate | None:
        """How big the read of ``window`` is by the source's own statistics; None where it has none."""

    def count(self, window: Window) -> int:
        """Rows of the window now."""

    def read(self, window: Window) -> Iterator[ColumnBatch]:
        """The window's rows, a frame at a time, as raw columns in the order of ``MAIN_COLUMNS``.

        Raises ShortRead for a row outside the window, StatementLost / Unreachable / Overloaded as the error table says.
        Never ends early in silence.
        """

    def discard(self) -> None:
        """Forget the connection without talking to the server (after any failure)."""

    def close(self) -> None:
        """Close politely after success; never raises, never hangs longer than the time-outs."""


class Target(Protocol):
    """ClickHouse behind ``CH_HOSTS``. One instance a thread; made after fork.

    ``tag`` begins the query id of every insert and read, so that ``kill_queries`` finds them.
    """

    tag: str

    def columns(self, table: str) -> Sequence[TargetColumn]:
        """The columns of ``database.table`` in order; raises SchemaError when the table is missing."""

    def check_tables(self, main_columns: Sequence[str], key: Sequence[str]) -> Sequence[TargetColumn]:
        """Check RAW, buffer and CLEAN against ``main_columns`` and the source's ``key``; return RAW's columns. Raises
        SchemaError with all faults.
        """

    def datetime64_range_ms(self) -> tuple[int, int]:
        """The first and last millisecond that DateTime64(3) holds on this server."""

    def insert(self, batch: ColumnBatch, version_ms: int) -> None:
        """Insert one block into RAW with ``ingested_at = version_ms`` for all rows; returns when every shard has it."""

    def replicas(self) -> Sequence[str]:
        """The replica of each shard that a publish would work on now."""

    def publish(
        self,
        request: PublishRequest,
        *,
        checkpoint: Callable[[], None],
        before_replace: Callable[[], None],
        on_stage: Callable[[StageMetric], None],
        predecessor_replicas: Sequence[str] = (),
    ) -> PublishResult:
        """DESIGN's six steps for one partition on every shard.

        ``checkpoint`` is called between steps and ``before_replace`` right before the first REPLACE of every shard;
        both raise
        LostOwnership when this publish is no longer the newest. ``predecessor_replicas`` must answer, or Unreachable is
        raised: an earlier publish may still work there. Raises CountMismatch and leaves CLEAN as it was.
        """

    def kill_queries(self, tag: str) -> None:
        """End this system's queries whose query id begins with ``tag`` on every host."""

    def interrupt(self) -> None:
        """From another thread: what waits for an answer ends with Unreachable, and so does whatever comes after."""

    def close(self) -> None:
        """Drop the connections; never raises."""


class RunJournal(Protocol):
    """Runs of the journal; the adapter's docstrings say what each transition guards."""

    def watermark(self, process_name: str) -> datetime | None: ...
    def loaded_windows(self, clean_table: str, window: Window) -> list[Window]: ...
    def planned_by(self, task_id: str) -> PlannedRun | None: ...
    def plan(self, new: NewRun, partitions_in_flight: int) -> PlannedRun: ...
    def refuse(
        self,
        process_name: str,
        clean_table: str,
        manual: bool,
        reason: str,
        *,
        status: RunStatus = RunStatus.SKIPPED,
        task_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> PlannedRun: ...
    def mark_running(self, run_id: int) -> None: ...
    def heartbeat(self, run_id: int, *, progress: bool) -> None: ...
    def finalize(self, run_id: int) -> str | None: ...
    def process_of(self, run_id: int) -> str | None: ...
    def abort(self, run_id: int, reason: str) -> str | None: ...


class SliceJournal(Protocol):
    """Slices of the journal."""

    def unsent(self, run_id: int) -> dict[int, list[int]]: ...
    def mark_sent(self, slice_ids: Sequence[int]) -> None: ...
    def claim(self, slice_id: int, *, worker: str, lease_s: float, max_attempts: int) -> SliceClaim | None: ...
    def renew(self, claim: SliceClaim, lease_s: float) -> bool: ...
    def next_version(self, clean_table: str) -> int: ...
    def note_overload(self, claim: SliceClaim, error: Exception) -> None: ...
    def record_rejects(self, claim: SliceClaim, rejects: Sequence[Reject]) -> int: ...
    def finish(self, claim: SliceClaim, result: SliceResult) -> Transition: ...
    def split(self, claim: SliceClaim, halves: tuple[Window, Window], error: Exception, reason: str) -> Transition: ...
    def fail(
        self, claim: SliceClaim, error: Exception, reason: str, rows_rejected: int | None = None
    ) -> Transition: ...
    def give_back(
        self, claim: SliceClaim, error: BaseException, reason: str, *, delay_s: float, refund: bool
    ) -> None: ...
    def fail_spent(self, clean_table: str, max_attempts: int, slice_id: int | None = None) -> list[Transition]: ...


class PublishJournal(Protocol):
    """Publishes of the journal."""

    def claim(
        self, clean_table: str, partition: int, *, dedup_process: str, worker: str, lease_s: float, max_attempts: int
    ) -> PublishClaim | None: ...
    def renew(self, claim: PublishClaim, lease_s: float) -> bool: ...
    def record_stage(self, claim: PublishClaim, metric: StageMetric) -> None: ...
    def finish(
        self, claim: PublishClaim, *, duration_ms: int, pinned: Sequence[str], details: dict[str, Any]
    ) -> list[Transition]: ...
    def reopen(self, claim: PublishClaim, short: Sequence[LoadedWindow], reason: str) -> list[int]: ...
    def give_back(self, claim: PublishClaim, error: BaseException, *, delay_s: float, refund: bool) -> None: ...
    def catch_up(self, claim: PublishClaim, newer_token: int, error: NewerPublish) -> None: ...
    def fail(self, claim: PublishClaim, error: Exception) -> list[Transition]: ...
    def fail_spent(self, clean_table: str, max_attempts: int) -> list[Transition]: ...
    def offer_owed(self, clean_table: str) -> list[tuple[str, int]]: ...


class PublishPins(Protocol):
    """On which replicas publishes work, for their successors."""

    def unfinished(self, claim: PublishClaim) -> Sequence[str]:
        """Replicas on which publishes of the partition that did not end well may still work."""

    def pin(self, claim: PublishClaim, replicas: Sequence[str], hard_limit_s: float) -> None:
        """This publish will work on ``replicas``, for ``hard_limit_s`` at most; raises LostOwnership."""


class SweepJournal(Protocol):
    """The sweeper's side of the journal."""

    def try_lock(self) -> AbstractContextManager[bool]: ...
    def sanitize_stale(self, rules: SanitizeRules, process_name: str | None = None) -> list[EndedRun]: ...
    def end_runs_without_progress(self, patience_s: float) -> list[EndedRun]: ...
    def heartbeat_active_runs(self) -> list[int]: ...
    def runs_to_finalize(self) -> list[int]: ...
    def settle(self) -> list[Transition]: ...
    def due_slices(
        self, *, grace_s: float, resend_after_s: float, queue_empty: bool, max_attempts: int, most: int
    ) -> list[DueSlice]: ...
    def queue_beliefs(self) -> tuple[int, int]: ...
    def due_publishes(self, *, resend_after_s: float, max_attempts: int, most: int = 20) -> list[tuple[str, int]]: ...
    def mark_publish_sent(self, clean_table: str, partition: int) -> None: ...
    def prune(self, retention_days: int) -> int: ...


class ResumeJournal(Protocol):
    """What an ended run left behind."""

    def remains(self, run_id: int) -> RunRemains | None: ...
    def owe_publishes(self, run_id: int) -> list[int]: ...


class CancelJournal(Protocol):
    """A run before and after it was cancelled."""

    def check(self, run_id: int, clean_table: str) -> None: ...
    def outcome(self, run_id: int) -> CancelledRun: ...


class ReconcileJournal(Protocol):
    """Reconciles of the journal, and what it knows of the windows they compare."""

    def try_lock(self) -> AbstractContextManager[bool]: ...
    def end_dead(self) -> list[OpenReconcile]: ...
    def running(self) -> OpenReconcile | None: ...
    def begin(
        self, span: Window, *, by_hash: bool, repairs: int | None, repair_run_id: int | None, details: Mapping[str, Any]
    ) -> int: ...
    def note(self, reconcile_id: int, details: Mapping[str, Any]) -> None: ...
    def note_progress(self, reconcile_id: int, findings: Sequence[Finding], details: Mapping[str, Any]) -> None: ...
    def end(
        self, reconcile_id: int, status: str, findings: Sequence[Finding], details: Mapping[str, Any], *, by_hash: bool
    ) -> None: ...
    def coverage(self, span: Window) -> Coverage: ...
    def owe_publishes(self, partitions: Sequence[int]) -> list[PublishProgress]: ...
    def publish_states(self, partitions: Sequence[int]) -> list[PublishProgress]: ...
    def repair_to_check(self) -> RepairToCheck | None: ...
    def repair_under_way(self) -> int | None: ...
    def loaded_by(self, run_id: int) -> list[Window]: ...
    def unmended(self) -> list[Window]: ...


class SizingJournal(Protocol):
    """What the journal knows of the sizes of windows."""

    def loads(self, window: Window) -> list[LoadedStretch]: ...
    def experience(self) -> Experience: ...


class PublishLock(Protocol):
    """The advisory lock of one CLEAN table."""

    acquired: bool

    def __enter__(self) -> PublishLock: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def verify(self) -> None:
        """Raises LostOwnership when the session that holds the lock is gone."""


class Journal(Protocol):
    """The journal of one thread."""

    @property
    def runs(self) -> RunJournal: ...
    @property
    def slices(self) -> SliceJournal: ...
    @property
    def publishes(self) -> PublishJournal: ...
    @property
    def sweeps(self) -> SweepJournal: ...
    @property
    def resuming(self) -> ResumeJournal: ...
    @property
    def reconciles(self) -> ReconcileJournal: ...
    @property
    def sizing(self) -> SizingJournal: ...
    def ensure_once(self) -> None: ...
    def now(self) -> datetime: ...
    def publish_lock(self, clean_table: str) -> PublishLock: ...
    def close(self) -> None: ...


class Dispatcher(Protocol):
    """Who tells the workers; every message may be lost or doubled without harm. Raises Unreachable."""

    def send_partition(self, partition: int, slice_ids: Sequence[int], manual: bool) -> None:
        """A chord: the slices' tasks, then the partition's publish."""

    def send_slices(self, slice_ids: Sequence[int], manual: bool) -> None:
        """Plain tasks, outside any chord: halves of a split, and what the sweeper sends again."""

    def send_publish(self, partition: int) -> None:
        """The partition's publish, if it is due."""

    def send_finalize(self, run_id: int) -> None:
        """The end of a run, if nothing of it is open."""

    def messages_held(self) -> int:
        """Slice messages that wait in Redis; those that a worker has taken are not among them."""
