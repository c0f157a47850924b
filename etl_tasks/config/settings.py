"""Every setting: its name (in capitals in the environment), default, unit, bounds and meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from etl_tasks.config import checks
from etl_tasks.config.cross import cross_faults, cross_warnings
from etl_tasks.config.environment import Reading, read_environment
from etl_tasks.config.faults import Fault, field_faults
from etl_tasks.core.cadence import CadenceRules
from etl_tasks.core.overload import OverloadRules
from etl_tasks.core.slice_sizing import SizingRules
from etl_tasks.core.slicing import SlicingRules
from etl_tasks.errors import ConfigError

MAIN_COLUMNS = (
    "c,t,opd,id,did,rid,rinn,rn,sid,sinn,sn,gt,prid,st,ste,elr,emd,apd,exd,p,pt,o,pn,b,tt,tm,ch,j,pg,et,pvad,ag"
)
KEEPALIVES = "connect_timeout=5&keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=5"


def _secret(check: Callable[[str], str]) -> AfterValidator:
    def inside(value: SecretStr) -> SecretStr:
        check(value.get_secret_value())
        return value

    return AfterValidator(inside)


Table = Annotated[str, AfterValidator(checks.table)]
File = Annotated[str, AfterValidator(checks.existing_file)]
PgDsn = Annotated[SecretStr, _secret(checks.pg_dsn)]
OptionalPgDsn = Annotated[SecretStr, _secret(checks.optional_pg_dsn)]
RedisUrl = Annotated[SecretStr, _secret(checks.redis_url)]
OptionalRedisUrl = Annotated[SecretStr, _secret(checks.optional_redis_url)]
HttpUrl = Annotated[SecretStr, _secret(checks.http_url)]


def _setting(default: object, description: str, *, group: str, unit: str = "", **bounds: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"group": group, "unit": unit}, **bounds)


_pg = partial(_setting, group="PostgreSQL: the journal")
_source = partial(_setting, group="Phoenix: the source")
_time = partial(_setting, group="Time and windows")
_overload = partial(_setting, group="Overload of the source")
_ch = partial(_setting, group="ClickHouse: the target")
_publish = partial(_setting, group="Publishing")
_redis = partial(_setting, group="Redis and Celery")
_run = partial(_setting, group="Runs, leases and limits")
_log = partial(_setting, group="Logs")

_reconcile = partial(_setting, group="Reconciles by the schedule")


class Settings(BaseSettings):
    """What is in force. Make it with ``load_settings()``; raises ConfigError with all faults at once."""

    model_config = SettingsConfigDict(
        alias_generator=str.upper, extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True
    )

    # -- PostgreSQL ------------------------------------------------------------------------------------------------
    pg_dsn: PgDsn = _pg(
        f"postgresql://localhost:5432/etl?{KEEPALIVES}",
        "Connection string of the journal's database; TLS with ?sslmode=verify-full&sslrootcert=….",
    )
    pg_lock_dsn: OptionalPgDsn = _pg(
        "", "Direct connection for the publish lock where a pooler stands before PostgreSQL; empty is PG_DSN."
    )
    journal_table: Annotated[str, AfterValidator(checks.journal_table)] = _pg(
        "public.inc_processing", "Table of runs, from whose name the other journal tables' names derive."
    )
    process_name: Annotated[str, AfterValidator(checks.process_name)] = _pg(
        "codes_history_increment", "Name of the schedule's lane in the journal."
    )
    journal_retention_days: int = _pg(1, "Ended runs older than this are pruned.", unit="days", ge=1, le=36500)

    # -- Phoenix ---------------------------------------------------------------------------------------------------
    pqs_url: HttpUrl = _source("http://localhost:8765", "The Phoenix Query Server; https:// for TLS.")
    pqs_auth: Literal["none", "basic", "digest", "spnego"] = _source(
        "none", "How to log in to the Query Server; spnego takes the Kerberos ticket of the process."
    )
    pqs_user: str = _source("", "User for PQS_AUTH basic or digest.")
    pqs_password: SecretStr = _source("", "Password for PQS_AUTH basic or digest.")
    pqs_verify: bool = _source(True, "Check the Query Server's certificate.")
    pqs_ca_file: File = _source(
        "", "PEM file with the authority of the Query Server's certificate; empty is the system's."
    )
    hbase_main_table: Annotated[str, AfterValidator(checks.source_table)] = _source(
        "TBL_JTI_TRACE_CIS_HISTORY", "Source table in Phoenix; case counts."
    )
    hbase_main_ts_column: Annotated[str, AfterValidator(checks.column)] = _source(
        "opd", "Time column of the source: the windows' and the partitions'; case counts."
    )
    main_columns: Annotated[tuple[str, ...], BeforeValidator(checks.columns)] = _source(
        MAIN_COLUMNS, "Columns to carry, separated by commas; case counts."
    )
    phx_fetchmany_size: int = _source(5000, "Rows of one frame from the Query Server.", unit="rows", ge=1, le=1_000_000)
    phx_ts_units: Literal["timestamp", "millis", "seconds"] = _source(
        "timestamp", "What the time column holds: a TIMESTAMP, or a number of milliseconds or seconds since the epoch."
    )
    phx_tcp_probe_timeout_ms: int = _source(
        1200, "Time-out of the TCP probe before the first query.", unit="ms", ge=1, le=600_000
    )
    phx_connect_timeout_s: float = _source(
        5.0, "Time-out of a connection to the Query Server.", unit="s", gt=0, le=3600, allow_inf_nan=False
    )
    phx_read_timeout_s: float = _source(
        300.0, "Time-out of one answer of the Query Server.", unit="s", gt=0, le=86400, allow_inf_nan=False
    )
    phx_query_hint: Annotated[str, AfterValidator(checks.hint)] = _source(
        "", "Phoenix hint of the reads, such as INDEX(table index); empty is none."
    )
    source_patience_s: int = _source(
        3600, "A run without progress for so long, because a service is away, ends in error.", unit="s", ge=1
    )

    # -- Time ------------------------------------------------------------------------------------------------------
    business_tz: Annotated[str, AfterValidator(checks.timezone)] = _time(
        "", "Time zone of --since and --until written without one; empty is UTC."
    )
    step_min: int = _time(10, "Length of a step of business time.", unit="min", ge=1, le=1440)
    phx_query_shift_minutes: int = _time(
        0, "Technical shift of the source's window against business time.", unit="min", ge=-10080, le=10080
    )
    phx_query_overlap_minutes: int = _time(5, "How far a window reaches back to the left.", unit="min", ge=0, le=10080)
    phx_overlap_only_first_slice: bool = _time(True, "Overlap only a run's first step (1) or every step (0).")
    phx_query_lag_minutes: int = _time(
        2, "How far the right edge stays behind now, so as not to read what still changes.", unit="min", ge=0, le=10080
    )
    phx_initial_slice_min: int = _time(
        5,
        "Length of the first cut of windows on the UTC grid; 0 reads a step as one window.",
        unit="min",
        ge=0,
        le=1440,
    )
    phx_slice_sizing: Literal["auto", "fixed"] = _time(
        "auto", "Slices are made as wide as what is known of their rows allows (auto), or all alike (fixed)."
    )
    phx_slice_max_min: int = _time(
        0,
        "Quiet windows are put together up to this length; 0 is PHX_INITIAL_SLICE_MIN, so never wider.",
        unit="min",
        ge=0,
        le=1440,
    )
    phx_slice_max_rows: int = _time(
        200_000, "A slice that is believed to have more rows is planned narrower.", unit="rows", ge=1, le=1_000_000_000
    )
    phx_slice_target_s: int = _time(
        120, "A slice that is believed to take longer is planned narrower.", unit="s", ge=1, le=86400
    )
    max_slices_per_run: int = _time(
        100_000, "A run that would have more slices is refused.", unit="slices", ge=1, le=10_000_000
    )

    # -- Overload --------------------------------------------------------------------------------------------------
    phx_overload_min_split_min: int = _overload(2, "No window is split into parts shorter than this.", unit="min", ge=1)
    phx_overload_max_depth: int = _overload(3, "How often a slice may be split in two.", unit="times", ge=0, le=20)
    phx_overload_max_attempts: int = _overload(
        4, "Attempts on one window, with exponential back-off, before it is split.", unit="attempts", ge=1, le=100
    )
    phx_max_concurrent_reads: int = _overload(
        64,
        "Most slices that all workers together read at once; below it the limit follows the source: it grows slowly, "
        "and halves on overload. 0 is no limit.",
        unit="reads",
        ge=0,
        le=10_000,
    )
    overload_backoff_base_s: float = _overload(
        0.5, "First step of the back-off, doubled each time.", unit="s", gt=0, allow_inf_nan=False
    )
    overload_backoff_cap_s: float = _overload(30.0, "Longest back-off.", unit="s", gt=0, le=3600, allow_inf_nan=False)

    # -- ClickHouse ------------------------------------------------------------------------------------------------
    ch_hosts: Annotated[tuple[str, ...], BeforeValidator(checks.hosts)] = _ch(
        "localhost", "Hosts to try in turn, host or host:port, separated by commas."
    )
    ch_port: int = _ch(9000, "Native port of hosts written without one; with TLS usually 9440.", ge=1, le=65535)
    ch_db: Annotated[str, AfterValidator(checks.name)] = _ch("stg", "Database of tables written without one.")
    ch_user: str = _ch("default", "User.", min_length=1)
    ch_password: SecretStr = _ch("", "Password.")
    ch_secure: bool = _ch(False, "Use TLS.")
    ch_verify: bool = _ch(True, "Check the server's certificate, with CH_SECURE=1.")
    ch_ca_file: File = _ch("", "PEM file with the authority of the server's certificate; empty is the system's.")
    ch_compression: Literal["lz4", "lz4hc", "zstd", "none"] = _ch("lz4", "Compression on the wire.")
    ch_cluster: Annotated[str, AfterValidator(checks.optional_name)] = _ch(
        "", "Cluster of the Distributed tables; empty is one plain node."
    )
    ch_raw_table: Table = _ch("stg.daily_codes_history_raw_all", "RAW, where rows are inserted; usually Distributed.")
    ch_clean_table: Table = _ch("stg.daily_codes_history", "CLEAN, the local table of each shard.")
    ch_clean_all_table: Table = _ch("stg.daily_codes_history_all", "CLEAN over all shards (Distributed).")
    ch_dedup_buf_table: Table = _ch(
        "stg.daily_codes_history_dedup_buf", "Model of the publish buffers, which get names of their own."
    )
    ch_insert_batch: int = _ch(
        20_000,
        "Most rows of one INSERT into RAW; half of it goes at once while ClickHouse waits for the source.",
        unit="rows",
        ge=1,
        le=10_000_000,
    )
    ch_insert_max_retries: int = _ch(1, "Repeats of an INSERT after a network error.", unit="times", ge=0, le=10)
    ch_insert_quorum: Annotated[str, AfterValidator(checks.quorum)] = _ch(
        "auto", "Replicas that must have an INSERT, where tables are replicated: auto is the majority, 0 none."
    )
    ch_raw_ttl_hours: int = _ch(
        120, "TTL of RAW in the DDL; what is owed is published before half of it has passed.", unit="h", ge=1
    )

    # -- Publishing ------------------------------------------------------------------------------------------------
    publish_every_minutes: int = _publish(60, "Publish a loading partition this often; 0 is off.", unit="min", ge=0)
    publish_every_slices: int = _publish(
        6, "Publish a partition after so many loaded steps; 0 is off.", unit="steps", ge=0
    )
    always_publish_at_end: bool = _publish(True, "Publish at the end of every run.")
    publish_max_attempts: int = _publish(
        10, "Attempts on one publish before it ends in error.", unit="attempts", ge=1, le=1000
    )
    publish_max_threads: int = _publish(
        0, "Threads of one statement of a publish on a shard; 0: the server's.", unit="threads", ge=0, le=1024
    )
    publish_max_memory_mb: Annotated[int, AfterValidator(checks.publish_memory)] = _publish(
        0,
        "Memory of one statement of a publish on a shard, past which it fails and is tried again; 0: the server's.",
        unit="MB",
        ge=0,
        le=10_000_000,
    )
    partitions_in_flight: int = _publish(2, "Partitions of one run that load at once.", unit="days", ge=1, le=100)
    publish_soft_time_limit_min: int = _publish(170, "A publish is asked to stop after this.", unit="min", ge=1)
    publish_time_limit_min: int = _publish(180, "A publish is killed after this.", unit="min", ge=1)

    # -- Redis, Celery ---------------------------------------------------------------------------------------------
    redis_url: RedisUrl = _redis("redis://localhost:6379/0", "Celery's broker; rediss:// for TLS.")
    redis_result_url: OptionalRedisUrl = _redis("", "Where Celery keeps results; empty is REDIS_URL.")
    redis_ca_file: File = _redis("", "PEM file with the authority of Redis's certificate; empty is the system's.")
    visibility_timeout_h: int = _redis(12, "Redis hands out an unacknowledged task again after this.", unit="h", ge=1)
    flower_basic_auth: Annotated[SecretStr, _secret(checks.optional_user_and_password)] = _redis(
        "", "Flower's login, as user:password."
    )

    # -- Runs ------------------------------------------------------------------------------------------------------
    lease_s: int = _run(
        60, "A slice or publish belongs to its attempt for so long, unless renewed.", unit="s", ge=4, le=86400
    )
    slice_max_attempts: int = _run(5, "Attempts on one slice, crashes included.", unit="attempts", ge=1, le=1000)
    sweep_every_s: int = _run(10, "How often what is due and not moving is looked for.", unit="s", ge=1, le=3600)
    resend_after_s: int = _run(120, "A task sent and not taken is sent again after this, doubling.", unit="s", ge=1)
    max_rejected_rows: int = _run(0, "Rows a run may reject because a value does not fit.", unit="rows", ge=0)
    sanitize_planned_ttl_min: int = _run(60, "A run planned and not started for so long is skipped.", unit="min", ge=1)
    sanitize_heartbeat_ttl_min: int = _run(
        15, "A running run without heartbeat and lease for so long ends in error.", unit="min", ge=1
    )
    sanitize_hard_ttl_min: int = _run(0, "A run that runs so long ends in error; 0 is off.", unit="min", ge=0)
    task_soft_time_limit_min: int = _run(55, "A task is asked to stop after this.", unit="min", ge=1)
    task_time_limit_min: int = _run(60, "A task is killed after this.", unit="min", ge=1)

    # -- Logs ------------------------------------------------------------------------------------------------------
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(checks.upper)] = (
        _log("INFO", "What workers and beat log, where --loglevel does not say; commands have --log.")
    )
    log_form: Literal["console", "json"] = _log("console", "How it is logged: for people, or a JSON object a line.")

    # -- Reconciles ------------------------------------------------------------------------------------------------
    reconcile_every_minutes: int = _reconcile(
        0, "Beat has source and CLEAN compared this often; 0 is off.", unit="min", ge=0, le=525_600
    )
    reconcile_last_hours: int = _reconcile(
        24, "How much is compared, back from the schedule's watermark.", unit="h", ge=1, le=8784
    )
    reconcile_by_hash: bool = _reconcile(
        False, "Compare every column of every row (1), which reads the source again, or count (0)."
    )
    reconcile_repair: bool = _reconcile(
        False, "Load and publish what differs (1): a run by hand of just those windows."
    )

    _warnings: list[str] = PrivateAttr(default_factory=list)
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    def __init__(self, *, _reading: Reading | None = None, **values: Any) -> None:
        known = {name.upper() for name in type(self).model_fields}
        reading = read_environment(known, secret=type(self).secret_names()) if _reading is None else _reading
        given = {**reading.values, **{name.upper(): value for name, value in values.items()}}
        faults = list(reading.faults)
        try:
            super().__init__(**given)
        except ValidationError as error:
            wrong = field_faults(error, given, type(self))
            faults += wrong
            # What is wrong by itself is left out, to say in the same message what is wrong together.
            unusable = {name for fault in wrong for name in fault.names}
            super().__init__(**{name: value for name, value in given.items() if name not in unusable})
            faults += [fault for fault in cross_faults(self) if not unusable.intersection(fault.names)]
        else:
            faults += cross_faults(self)
        if faults:
            raise ConfigError(_message(faults))
        self._origins = {name: reading.origins.get(name, "default") for name in known}
        self._origins.update({name.upper(): "argument" for name in values})
        self._warnings = [*reading.warnings, *cross_warnings(self)]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what ``read_environment`` found: it knows old names and where each value came from."""
        return (init_settings,)

    @classmethod
    def secret_names(cls) -> frozenset[str]:
        """The settings whose values are never shown, and which ``NAME_FILE`` may give from a file."""
        return frozenset(name.upper() for name, field in cls.model_fields.items() if field.annotation is SecretStr)

    @property
    def warnings(self) -> list[str]:
        """What works and should be changed: old names, near misses, settings that contradict each other."""
        return list(self._warnings)

    @property
    def origins(self) -> Mapping[str, str]:
        """NAME → ``default``, ``environment``, the .env file's name, ``file …``, ``old name …`` or ``argument``."""
        return dict(self._origins)

    @property
    def ch_endpoints(self) -> tuple[tuple[str, int], ...]:
        """``CH_HOSTS`` as (host, port), in order."""
        return tuple(checks.endpoint(host, self.ch_port) for host in self.ch_hosts)

    @property
    def lock_dsn(self) -> SecretStr:
        """The connection string for the publish lock."""
        return self.pg_lock_dsn if self.pg_lock_dsn.get_secret_value() else self.pg_dsn

    @property
    def result_url(self) -> SecretStr:
        """Where Celery keeps results."""
        return self.redis_result_url if self.redis_result_url.get_secret_value() else self.redis_url

    @property
    def slicing_rules(self) -> SlicingRules:
        """How an interval becomes slices."""
        return SlicingRules(
            step_min=self.step_min,
            shift_min=self.phx_query_shift_minutes,
            overlap_min=self.phx_query_overlap_minutes,
            overlap_only_first=self.phx_overlap_only_first_slice,
            lag_min=self.phx_query_lag_minutes,
            initial_slice_min=self.phx_initial_slice_min,
            max_slices=self.max_slices_per_run,
            business_tz=self.business_tz or None,
        )

    @property
    def sizing_rules(self) -> SizingRules:
        """How wide slices may be, and what they are sized by."""
        return SizingRules(
            auto=self.phx_slice_sizing == "auto",
            initial_min=self.phx_initial_slice_min,
            widest_min=self.phx_slice_max_min,
            narrowest_min=self.phx_overload_min_split_min,
            most_rows=self.phx_slice_max_rows,
            target_s=self.phx_slice_target_s,
            max_slices=self.max_slices_per_run,
        )

    @property
    def overload_rules(self) -> OverloadRules:
        """What to do when the source is overloaded."""
        return OverloadRules(
            max_attempts=self.phx_overload_max_attempts,
            min_split_min=self.phx_overload_min_split_min,
            max_depth=self.phx_overload_max_depth,
            backoff_base_s=self.overload_backoff_base_s,
            backoff_cap_s=self.overload_backoff_cap_s,
        )

    @property
    def cadence_rules(self) -> CadenceRules:
        """When a partition's publish is due."""
        return CadenceRules(
            every_minutes=self.publish_every_minutes,
            every_slices=self.publish_every_slices,
            always_at_end=self.always_publish_at_end,
            raw_ttl_s=self.ch_raw_ttl_hours * 3600,
        )

    @property
    def installation(self) -> dict[str, str]:
        """What tells this installation from another one on the same Redis; nothing secret."""
        return {
            "source": self.hbase_main_table,
            "clean": self.qualified(self.ch_clean_table),
            "journal": self.journal_table,
            "process": self.process_name,
            "postgres": checks.database_address(self.pg_dsn.get_secret_value()),
        }

    def redis_tls(self, url: SecretStr) -> dict[str, Any] | None:
        """TLS options of redis-py and Celery for ``redis_url`` or ``result_url``; None where it is without TLS."""
        if not url.get_secret_value().startswith("rediss://"):
            return None
        options: dict[str, Any] = {"ssl_cert_reqs": "required"}
        return {**options, "ssl_ca_certs": self.redis_ca_file} if self.redis_ca_file else options

    def qualified(self, table: str) -> str:
        """``database.table`` of a ClickHouse table's name as it was written."""
        return table if "." in table else f"{self.ch_db}.{table}"


def _message(faults: list[Fault]) -> str:
    count = "1 setting is wrong" if len(faults) == 1 else f"{len(faults)} settings are wrong"
    return "\n".join([f"{count}:", *(f"  {fault}" for fault in faults)])
