"""The checks, in the order in which they are told: services first, then what needs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Generic, TypeVar

from etl_tasks.core.doctor import broker, journal, services, tables
from etl_tasks.core.doctor.facts import Clock, WorkerFacts
from etl_tasks.core.doctor.findings import Opinion, ok, warn
from etl_tasks.errors import EtlError
from etl_tasks.pipeline.doctor import table_checks
from etl_tasks.pipeline.doctor.ports import DoctorContext
from etl_tasks.pipeline.doctor.runner import Check

T = TypeVar("T")


def all_checks(context: DoctorContext) -> Sequence[Check]:
    """Every check of ``doctor``; their names are stable. A fact that several need is asked for once."""
    ask, seen = context.ask, _Seen(context)
    return [
        Check("settings", lambda: settings_opinions(context)),
        Check("shift", lambda: shift_opinion(context)),
        Check("postgres", lambda: services.postgres_opinion(seen.postgres())),
        Check("pooler", lambda: services.pooler_opinion(seen.postgres(), ask.journal.lock_server()), ["postgres"]),
        Check("journal", lambda: journal.table_opinions(ask.journal.wanted(), seen.schema()), ["postgres"]),
        Check("journal-indexes", lambda: journal.index_opinions(ask.journal.wanted(), seen.schema()), ["journal"]),
        Check("redis", lambda: services.version_opinion("Redis", seen.redis().version, services.LEAST_REDIS)),
        Check("redis-eviction", lambda: broker.eviction_opinion(seen.redis()), ["redis"]),
        Check("redis-persistence", lambda: broker.persistence_opinion(seen.redis()), ["redis"]),
        Check("workers", lambda: broker.workers_opinion(seen.our_workers()), ["redis"]),
        Check("queues", lambda: queue_opinions(context, seen.our_workers()), ["redis", "workers"]),
        Check("neighbours", lambda: neighbour_opinions(context, seen.workers()), ["redis"]),
        Check("time-outs", lambda: ladder_opinions(context, seen)),
        Check("beat", lambda: beat_opinion(context), ["postgres", "journal"]),
        Check("clickhouse", lambda: services.clickhouse_opinions(seen.hosts())),
        Check("clickhouse-zone", lambda: services.clickhouse_zone_opinion(seen.hosts()), ["clickhouse"]),
        Check("user-settings", lambda: table_checks.user_settings_opinions(context), ["clickhouse"]),
        Check("insert-partitions", lambda: table_checks.insert_partitions_opinion(context), ["clickhouse"]),
        Check(
            "datetime64",
            lambda: tables.datetime64_opinion(ask.target.datetime64_range_ms()),
            ["clickhouse", "user-settings"],
        ),
        Check("raw-engine", lambda: table_checks.raw_engine_opinion(context), ["clickhouse"]),
        Check("clean-version", lambda: table_checks.clean_version_opinion(context), ["clickhouse"]),
        Check("target-columns", lambda: table_checks.target_columns_opinions(context), ["clickhouse"]),
        Check("ttl", lambda: table_checks.ttl_opinions(context), ["clickhouse"]),
        Check("sharding", lambda: table_checks.sharding_opinion(context), ["clickhouse"]),
        Check("misplaced-keys", lambda: table_checks.misplaced_opinion(context), ["clickhouse", "sharding"]),
        Check("phoenix", lambda: phoenix_opinion(seen)),
        Check("phoenix-zone", lambda: services.phoenix_zone_opinion(seen.phoenix()), ["phoenix"]),
        Check("source-columns", lambda: table_checks.source_columns_opinion(context), ["phoenix"]),
        Check(
            "types", lambda: table_checks.types_opinion(context), ["source-columns", "target-columns", "user-settings"]
        ),
        Check("read-path", lambda: table_checks.read_path_opinion(context), ["source-columns"]),
        Check("clocks", lambda: services.clock_opinions(seen.clocks())),
        Check("publish-cost", lambda: publish_cost_opinion(context), ["journal"]),
        Check("old-job", lambda: table_checks.old_job_opinion(context), ["journal", "clickhouse"]),
    ]


class _Once(Generic[T]):
    """The answer of a question that is asked once, or the error that it ended in, as often as anybody wants it."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._answers: list[T] = []
        self._error: EtlError | None = None

    def __call__(self) -> T:
        if self._error is not None:
            raise self._error
        if not self._answers:
            try:
                self._answers.append(self._ask())
            except EtlError as error:
                self._error = error
                raise
        return self._answers[0]


class _Seen:
    """Facts that more than one check needs."""

    def __init__(self, context: DoctorContext) -> None:
        self._installation = context.settings.installation
        self.postgres = _Once(context.ask.journal.server)
        self.schema = _Once(context.ask.journal.schema)
        self.redis = _Once(context.ask.redis.server)
        self.hosts = _Once(context.ask.clickhouse.hosts)
        self.workers = _Once(context.ask.workers.workers)
        self.moments = [datetime(context.now.year, month, 1, tzinfo=UTC) for month in (1, 7)]
        self.phoenix = _Once(lambda: context.ask.examine_phoenix(self.moments))

    def our_workers(self) -> list[WorkerFacts]:
        """The workers that carry what we carry."""
        return [each for each in self.workers() if not broker.differences(each, self._installation)]

    def clocks(self) -> list[Clock]:
        """The clocks of whoever answers; who does not is told by a check of its own."""
        questions: list[Callable[[], list[Clock]]] = [
            lambda: [self.postgres().clock],
            lambda: [host.clock for host in self.hosts() if host.clock is not None],
            lambda: [self.phoenix().clock],
        ]
        found: list[Clock] = []
        for ask in questions:
            try:
                found += ask()
            except EtlError:
                continue
        return found


def settings_opinions(context: DoctorContext) -> Sequence[Opinion]:
    """What is unwise in the settings; what is wrong in them keeps every command from beginning."""
    cure = "change it in .env; python -m etl_tasks config shows every value and where it comes from"
    return [warn(text, cure) for text in context.settings.warnings] or [ok("no setting contradicts another")]


def shift_opinion(context: DoctorContext) -> Opinion:
    """A constant shift beside a zone whose offset changes."""
    settings = context.settings
    return services.shift_opinion(settings.phx_query_shift_minutes, settings.business_tz, context.now)


def queue_opinions(context: DoctorContext, workers: Sequence[WorkerFacts]) -> Sequence[Opinion]:
    """Queues without consumers."""
    return broker.queue_opinions(workers, context.ask.workers.waiting(broker.QUEUES))


def neighbour_opinions(context: DoctorContext, workers: Sequence[WorkerFacts]) -> Sequence[Opinion]:
    """Others on our database of Redis."""
    return broker.neighbour_opinions(workers, context.ask.redis.declared_queues(), context.settings.installation)


def ladder_opinions(context: DoctorContext, seen: _Seen) -> Sequence[Opinion]:
    """Time-outs here, and in whatever workers can be asked."""
    settings = context.settings
    visibility = ("VISIBILITY_TIMEOUT_H", settings.visibility_timeout_h * 3600)
    soft, hard = settings.task_soft_time_limit_min * 60, settings.task_time_limit_min * 60
    try:
        workers: Sequence[WorkerFacts] = seen.our_workers()
    except EtlError:
        workers = []  # Redis is away, which its own check says
    return broker.ladder_opinions(
        [
            ("PHX_CONNECT_TIMEOUT_S", settings.phx_connect_timeout_s),
            ("PHX_READ_TIMEOUT_S", settings.phx_read_timeout_s),
            ("TASK_SOFT_TIME_LIMIT_MIN", soft),
            ("TASK_TIME_LIMIT_MIN", hard),
            visibility,
        ],
        [
            ("PUBLISH_SOFT_TIME_LIMIT_MIN", settings.publish_soft_time_limit_min * 60),
            ("PUBLISH_TIME_LIMIT_MIN", settings.publish_time_limit_min * 60),
            visibility,
        ],
        workers,
        {"visibility_timeout": visibility[1], "task_soft_time_limit": soft, "task_time_limit": hard},
    )


def beat_opinion(context: DoctorContext) -> Opinion:
    """Signs of beat in the journal."""
    settings = context.settings
    now, planned_at = context.ask.journal.plans(settings.process_name)
    return journal.beat_opinion(planned_at, now, settings.step_min, settings.process_name)


def phoenix_opinion(seen: _Seen) -> Opinion:
    """Whether Phoenix answers through the Query Server, and its version."""
    return services.version_opinion("Phoenix", seen.phoenix().version, services.LEAST_PHOENIX)


def publish_cost_opinion(context: DoctorContext) -> Opinion:
    """The cost of publishes against the cadence."""
    settings = context.settings
    return journal.publish_cost_opinion(
        context.ask.journal.publish_cost(context.clean_table),
        step_min=settings.step_min,
        every_minutes=settings.publish_every_minutes,
        soft_limit_min=settings.publish_soft_time_limit_min,
    )
