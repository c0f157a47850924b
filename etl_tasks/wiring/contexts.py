"""What each step of the pipeline needs, made of the adapters: ``Wiring``."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from etl_tasks.adapters.examinations import Examinations
from etl_tasks.adapters.journal.asking import AskJournal
from etl_tasks.adapters.journal.cancelling import CancelJournal
from etl_tasks.adapters.journal.deserted import evict_deserted_lock
from etl_tasks.adapters.journal.pins import PublishPins
from etl_tasks.adapters.journal.read_turns import ReadTurns
from etl_tasks.adapters.phoenix import PhoenixSource
from etl_tasks.config import Settings
from etl_tasks.core.expiry import expiry_notice
from etl_tasks.core.records import SanitizeRules
from etl_tasks.core.slicing import SlicePlan
from etl_tasks.core.windows import Window
from etl_tasks.errors import TransientError
from etl_tasks.pipeline.ask_publish import AskContext
from etl_tasks.pipeline.cancel import CancelContext
from etl_tasks.pipeline.doctor.ports import DoctorContext
from etl_tasks.pipeline.extract import ExtractContext
from etl_tasks.pipeline.load import Loader, LoadRules
from etl_tasks.pipeline.plan import PlanContext
from etl_tasks.pipeline.publish import PublishContext
from etl_tasks.pipeline.reconcile import ReconcileContext
from etl_tasks.pipeline.reconciliation import ReconciliationContext
from etl_tasks.pipeline.scheduled_reconcile import ScheduledReconcileContext
from etl_tasks.pipeline.sizing import SizingContext
from etl_tasks.pipeline.stopping import StopFlag
from etl_tasks.pipeline.sweep import SweepContext, SweepRules
from etl_tasks.wiring.services import Services

# Bounds a worker child's memory whatever the rows' width: two blocks and a frame are alive at once.
INSERT_BYTES = 24 * 1024 * 1024

# One answer of the Query Server to a question of planning; EXPLAIN takes 0.1 s.
PLANNING_READ_TIMEOUT_S = 10.0

# Of a task's soft time limit: after this a scheduled reconcile stops by itself, between two windows.
RECONCILE_SHARE = 0.8

# Of a task's soft time limit: a slice that has waited for so long for its turn to read goes back, so that its read
# would still have its time.
TURN_SHARE = 0.5


class Wiring(Services):
    """What each step of the pipeline needs, put together at its first use.

    ``stop`` is set when this process's worker is asked to stop.
    """

    def __init__(self, settings: Settings, app: Celery, stop: StopFlag | None = None) -> None:
        super().__init__(settings, app)
        self._stop = stop or StopFlag()
        self._loader: Loader | None = None

    def loader(self) -> Loader:
        """Source, target and coercion of this child, kept from slice to slice until ``drop_loader``."""
        if self._loader is None:
            source, target = self.open_source(), self.open_target()
            try:
                source.probe()
                self._loader = Loader(source, target, self.coercion(source, target), self.load_rules)
            except BaseException:
                source.discard()
                target.close()
                raise
        return self._loader

    def drop_loader(self) -> None:
        """Forget the loader and its connections; the next slice asks for the columns anew."""
        loader, self._loader = self._loader, None
        if loader is not None:
            loader.close()

    def abandon_loader(self) -> None:
        """From whatever thread: a thread of the loader that waits for ClickHouse gets an error instead."""
        loader = self._loader
        if loader is not None:
            loader.interrupt()

    @cached_property
    def load_rules(self) -> LoadRules:
        """Bounds of the work on a slice."""
        settings = self.settings
        return LoadRules(
            clean_table=self.clean_table,
            lease_s=settings.lease_s,
            max_attempts=settings.slice_max_attempts,
            insert_rows=settings.ch_insert_batch,
            insert_bytes=INSERT_BYTES,
            max_rejected_rows=settings.max_rejected_rows,
        )

    @cached_property
    def sanitize_rules(self) -> SanitizeRules:
        """TTLs of stale runs."""
        settings = self.settings
        return SanitizeRules(
            planned_ttl_min=settings.sanitize_planned_ttl_min,
            heartbeat_ttl_min=settings.sanitize_heartbeat_ttl_min,
            hard_ttl_min=settings.sanitize_hard_ttl_min,
        )

    def check_services(self, plan: SlicePlan, now: datetime) -> list[str]:
        """Columns and types of source and target, all faults as errors; what is merely unwise as notices."""
        notices: list[str] = []
        source = self.open_source()
        try:
            source.probe()
            self.coercion(source, self.target)
            if plan.source_windows:
                notices += self._access_notices(source, plan.source_windows[0])
        finally:
            source.close()
        expiry = expiry_notice(plan.partitions, self.target.clean_ttl_s(), now)
        return [*notices, expiry] if expiry else notices

    @staticmethod
    def _access_notices(source: PhoenixSource, window: Window) -> list[str]:
        try:
            path = source.access_path(window)
        except TransientError as error:
            # An overloaded server may refuse the question too; the plan does not hang on it.
            return [f"how the source is read could not be asked: {error}"]
        if "FULL SCAN" not in path:
            return []
        return [
            "the source is read by a FULL SCAN: every window costs the whole table and splitting cures no overload; "
            "an index on the time column and PHX_QUERY_HINT cure it"
        ]

    def plan_context(self) -> PlanContext:
        """For planning."""
        settings = self.settings
        return PlanContext(
            journal=self.journal,
            dispatcher=self.dispatcher,
            rules=settings.slicing_rules,
            sanitize=self.sanitize_rules,
            process_name=settings.process_name,
            clean_table=self.clean_table,
            publish_at_end=settings.always_publish_at_end,
            partitions_in_flight=settings.partitions_in_flight,
            check_services=self.check_services,
            sizing=self.sizing_context(),
        )

    def sizing_context(self) -> SizingContext:
        """For sizing slices."""
        settings = self.settings
        return SizingContext(
            rules=settings.sizing_rules,
            step_min=settings.step_min,
            journal=lambda: self.journal.sizing,
            open_source=self._planning_source,
        )

    @contextmanager
    def _planning_source(self) -> Iterator[PhoenixSource]:
        """The source for questions that planning must not hang on; closed at the end of the block."""
        config = self.phoenix_config
        source = PhoenixSource(replace(config, read_timeout_s=min(config.read_timeout_s, PLANNING_READ_TIMEOUT_S)))
        try:
            source.probe()
            yield source
        finally:
            source.close()

    def cancel_context(self) -> CancelContext:
        """For cancelling a run."""
        return CancelContext(
            journal=self.journal,
            cancelling=CancelJournal(self.journal.database),
            dispatcher=self.dispatcher,
            kill_queries=lambda tag: self.target.kill_queries(tag),
            clean_table=self.clean_table,
        )

    def ask_context(self) -> AskContext:
        """For publishes by hand."""
        settings = self.settings
        return AskContext(
            journal=self.journal,
            asking=AskJournal(self.journal.database, self.clean_table),
            dispatcher=self.dispatcher,
            target=self.target,
            clean_table=self.clean_table,
            raw_table=settings.qualified(settings.ch_raw_table),
            clean_all_table=settings.qualified(settings.ch_clean_all_table),
            shift_min=settings.phx_query_shift_minutes,
        )

    @property
    def read_turns(self) -> ReadTurns | None:
        """The turns to read the source that all workers of this journal share; None where there is no limit.

        The setting's default is more than most deployments have children: a source that never objects is read as it
        was without a limit, one that does is left in peace. The key is the Query Server, whose threads the tables
        behind it share.
        """
        most, source = self.settings.phx_max_concurrent_reads, self.phoenix_config
        return ReadTurns(self.journal.database, f"{source.host}:{source.port}", most) if most else None

    def extract_context(self) -> ExtractContext:
        """For work on slices."""
        return ExtractContext(
            journal=self.journal,
            open_journal=self.open_journal,
            open_loader=self.loader,
            drop_loader=self.drop_loader,
            abandon_loader=self.abandon_loader,
            dispatcher=self.dispatcher,
            rules=self.load_rules,
            overload=self.settings.overload_rules,
            worker=self.worker,
            soft_limit=SoftTimeLimitExceeded,
            check_stop=self._stop.check,
            interrupt=_raise_soft_limit,
            turns=self.read_turns,
            turn_patience_s=self.settings.task_soft_time_limit_min * 60 * TURN_SHARE,
        )

    def publish_context(self) -> PublishContext:
        """For publishes."""
        settings = self.settings
        return PublishContext(
            journal=self.journal,
            pins=PublishPins(self.journal.database),
            evict_deserted_lock=lambda: evict_deserted_lock(self.journal.database, self.clean_table, settings.lease_s),
            open_journal=self.open_journal,
            open_target=lambda: self.target,
            dispatcher=self.dispatcher,
            process_name=settings.process_name,
            clean_table=self.clean_table,
            lease_s=settings.lease_s,
            hard_limit_s=settings.publish_time_limit_min * 60,
            max_attempts=settings.publish_max_attempts,
            worker=self.worker,
            soft_limit=SoftTimeLimitExceeded,
            check_stop=self._stop.check,
        )

    @contextmanager
    def reconciling(self, most_examples: int) -> Iterator[ReconcileContext]:
        """For comparing source and target; their connections are closed at the end of the block."""
        source, target, settings = self.open_source(), self.open_target(), self.settings
        try:
            source.probe()
            types = {column.name: column for column in target.check_tables(settings.main_columns, source.key())}
            yield ReconcileContext(
                source=source,
                target=target,
                coercion=self.coercion(source, target),
                target_columns=[types[name] for name in settings.main_columns],
                raw_table=settings.qualified(settings.ch_raw_table),
                clean_table=settings.qualified(settings.ch_clean_all_table),
                most_examples=most_examples,
            )
        finally:
            source.close()
            target.close()

    @contextmanager
    def doctor_context(self) -> Iterator[DoctorContext]:
        """For ``doctor``; its connections are closed at the end of the block."""
        settings, url = self.settings, self.settings.redis_url
        examinations = Examinations(
            self.journal.config,
            self.clickhouse_config,
            self.phoenix_config,
            url.get_secret_value(),
            settings.redis_tls(url),
            self._app,
        )
        with closing(examinations):
            yield DoctorContext(settings, self.clean_table, examinations, datetime.now(UTC))

    def reconciliation_context(self, most_examples: int = 0) -> ReconciliationContext:
        """For reconciles, which keep their outcome in the journal."""
        return ReconciliationContext(
            journal=self.journal,
            open_sides=lambda: self.reconciling(most_examples),
            clean_table=self.clean_table,
            raw_ttl_s=self.settings.ch_raw_ttl_hours * 3600,
            worker=self.worker,
        )

    def scheduled_reconcile_context(self) -> ScheduledReconcileContext:
        """For the reconcile that beat starts."""
        settings = self.settings
        return ScheduledReconcileContext(
            reconciling=self.reconciliation_context(),
            planning=self.plan_context(),
            last=timedelta(hours=settings.reconcile_last_hours),
            by_hash=settings.reconcile_by_hash,
            repair=settings.reconcile_repair,
            budget_s=settings.task_soft_time_limit_min * 60 * RECONCILE_SHARE,
            check_stop=self._stop.check,
        )

    def sweep_context(self) -> SweepContext:
        """For the sweeper."""
        settings = self.settings
        return SweepContext(
            journal=self.journal,
            dispatcher=self.dispatcher,
            rules=SweepRules(
                clean_table=self.clean_table,
                every_s=settings.sweep_every_s,
                resend_after_s=settings.resend_after_s,
                slice_max_attempts=settings.slice_max_attempts,
                publish_max_attempts=settings.publish_max_attempts,
                patience_s=settings.source_patience_s,
                retention_days=settings.journal_retention_days,
                sanitize=self.sanitize_rules,
            ),
        )


def _raise_soft_limit() -> None:
    """Raise SoftTimeLimitExceeded in this process's main thread, as the worker's main does when the limit has passed.

    Only a pool's child knows how to; anywhere else the signal would end the process, and nothing happens.
    """
    if callable(signal.getsignal(signal.SIGUSR1)):
        os.kill(os.getpid(), signal.SIGUSR1)


def wiring_factory(settings: Callable[[], Settings], app: Celery, stop: StopFlag) -> Callable[[], Wiring]:
    """A getter that makes one Wiring a process and thread-owner: a fork gets its own."""
    made: dict[int, Wiring] = {}

    def current() -> Wiring:
        pid = os.getpid()
        if pid not in made:
            # What the parent made stays referenced: closing its sockets here would end the parent's sessions.
            made[pid] = Wiring(settings(), app, stop)
        return made[pid]

    return current
