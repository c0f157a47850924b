"""What settings must be, and should be, beside each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from etl_tasks.config.faults import Fault, shown
from etl_tasks.core.target_table import VERSION_COLUMN

if TYPE_CHECKING:
    from etl_tasks.config.settings import Settings

UTC_NAMES = ("", "UTC", "Etc/UTC", "UCT", "Etc/UCT", "Zulu", "Etc/Zulu")
LARGE_FRAME = 100_000  # rows; 200,000 ran a Query Server of 1 GB out of memory


def cross_faults(settings: Settings) -> list[Fault]:
    """Every contradiction that would break a promise."""
    return [
        *_columns(settings),
        *_tables(settings),
        *_limits(settings),
        *_slices(settings),
        *_publishing(settings),
        *_logins(settings),
    ]


def cross_warnings(settings: Settings) -> list[str]:
    """Every combination that works and is probably not meant."""
    return [
        *_time_warnings(settings),
        *_tls_warnings(settings),
        *_login_warnings(settings),
        *_size_bound_warnings(settings),
        *_size_warnings(settings),
    ]


def _fault(settings: Settings, names: Iterable[str], text: str) -> Fault:
    return Fault(tuple((name, shown(name, getattr(settings, name.lower()))) for name in names), text)


def _columns(settings: Settings) -> Iterable[Fault]:
    if settings.hbase_main_ts_column not in settings.main_columns:
        names = ("HBASE_MAIN_TS_COLUMN", "MAIN_COLUMNS")
        yield _fault(settings, names, "the time column is not among the columns (case counts); add it to MAIN_COLUMNS")
    if VERSION_COLUMN in settings.main_columns:
        text = f"{VERSION_COLUMN} is written by this system; remove it from MAIN_COLUMNS"
        yield _fault(settings, ("MAIN_COLUMNS",), text)


def _tables(settings: Settings) -> Iterable[Fault]:
    # On one plain node CLEAN may be its own "all"; RAW and the buffer are always tables of their own.
    pairs = [
        ("CH_RAW_TABLE", "CH_CLEAN_TABLE"),
        ("CH_RAW_TABLE", "CH_CLEAN_ALL_TABLE"),
        ("CH_RAW_TABLE", "CH_DEDUP_BUF_TABLE"),
        ("CH_CLEAN_TABLE", "CH_DEDUP_BUF_TABLE"),
        ("CH_CLEAN_ALL_TABLE", "CH_DEDUP_BUF_TABLE"),
    ]
    if settings.ch_cluster:
        pairs.append(("CH_CLEAN_TABLE", "CH_CLEAN_ALL_TABLE"))
    for one, other in pairs:
        if settings.qualified(getattr(settings, one.lower())) == settings.qualified(getattr(settings, other.lower())):
            yield _fault(settings, (one, other), "name the same table; write a table of its own for each")


def _limits(settings: Settings) -> Iterable[Fault]:
    visibility = settings.visibility_timeout_h * 60
    answer = settings.phx_connect_timeout_s + settings.phx_read_timeout_s
    if answer >= settings.task_soft_time_limit_min * 60:
        timeouts = ("PHX_CONNECT_TIMEOUT_S", "PHX_READ_TIMEOUT_S", "TASK_SOFT_TIME_LIMIT_MIN")
        text = "a task would be stopped before the time-outs end; write time-outs shorter than the soft limit"
        yield _fault(settings, timeouts, text)
    for prefix in ("TASK", "PUBLISH"):
        soft, hard = f"{prefix}_SOFT_TIME_LIMIT_MIN", f"{prefix}_TIME_LIMIT_MIN"
        limit = getattr(settings, hard.lower())
        if getattr(settings, soft.lower()) >= limit:
            yield _fault(
                settings, (soft, hard), "the soft limit must come before the hard one; write a smaller soft limit"
            )
        if limit >= visibility:
            text = f"Redis would hand the task out again while it runs; write more than {limit / 60:g} hours"
            yield _fault(settings, (hard, "VISIBILITY_TIMEOUT_H"), text)
    if settings.overload_backoff_base_s > settings.overload_backoff_cap_s:
        names = ("OVERLOAD_BACKOFF_BASE_S", "OVERLOAD_BACKOFF_CAP_S")
        yield _fault(settings, names, "the first step is longer than the longest; write a base below the cap")


def _slices(settings: Settings) -> Iterable[Fault]:
    first, widest = settings.phx_initial_slice_min, settings.phx_slice_max_min
    if first and widest and widest % first:
        yield _fault(
            settings,
            ("PHX_SLICE_MAX_MIN", "PHX_INITIAL_SLICE_MIN"),
            "slices put together would not lie on one grid; write a multiple, or 0 for never wider",
        )
    most = first * 2**settings.phx_overload_max_depth
    if first and widest > most and settings.phx_slice_sizing == "auto":
        yield _fault(
            settings,
            ("PHX_SLICE_MAX_MIN", "PHX_OVERLOAD_MAX_DEPTH"),
            f"a slice put together could not be split down to PHX_INITIAL_SLICE_MIN={first} again; "
            f"write at most {most}, or more depth",
        )


def _publishing(settings: Settings) -> Iterable[Fault]:
    if not (settings.publish_every_minutes or settings.publish_every_slices or settings.always_publish_at_end):
        names = ("PUBLISH_EVERY_MINUTES", "PUBLISH_EVERY_SLICES", "ALWAYS_PUBLISH_AT_END")
        yield _fault(
            settings, names, "nothing would ever be published; write ALWAYS_PUBLISH_AT_END=1, or one of the others"
        )


def _logins(settings: Settings) -> Iterable[Fault]:
    if settings.pqs_auth not in ("basic", "digest"):
        return
    for name in ("PQS_USER", "PQS_PASSWORD"):
        if not shown(name, getattr(settings, name.lower())):
            yield _fault(settings, ("PQS_AUTH", name), f"this login needs {name}; write it, or PQS_AUTH=none")


def _time_warnings(settings: Settings) -> Iterable[str]:
    if settings.business_tz not in UTC_NAMES and settings.phx_query_shift_minutes:
        yield (
            f"PHX_QUERY_SHIFT_MINUTES={settings.phx_query_shift_minutes} and BUSINESS_TZ={settings.business_tz} both "
            "move the source's window; write PHX_QUERY_SHIFT_MINUTES=0 unless the source's own times are off"
        )
    name = "PHX_INITIAL_SLICE_MIN" if settings.phx_initial_slice_min else "STEP_MIN"
    length, least = getattr(settings, name.lower()), settings.phx_overload_min_split_min
    if settings.phx_overload_max_depth and 2 * least > length:
        yield (
            f"PHX_OVERLOAD_MIN_SPLIT_MIN={least} is more than half of {name}={length}, so no overloaded slice "
            "can be split; write less"
        )


def _size_bound_warnings(settings: Settings) -> Iterable[str]:
    widest = settings.phx_slice_max_min
    if widest and (settings.phx_slice_sizing == "fixed" or not settings.phx_initial_slice_min):
        why = "PHX_SLICE_SIZING=fixed" if settings.phx_initial_slice_min else "PHX_INITIAL_SLICE_MIN=0 (steps)"
        yield f"PHX_SLICE_MAX_MIN={widest} is not used with {why}; remove one of them"


def _tls_warnings(settings: Settings) -> Iterable[str]:
    plain = [f"{host}:{port}" for host, port in settings.ch_endpoints if port == 9000]
    if settings.ch_secure and plain:
        yield f"CH_SECURE=1 with {', '.join(plain)}: 9000 is usually the port without TLS, 9440 the one with it"
    if settings.ch_secure and not settings.ch_verify:
        yield "CH_VERIFY=0: anybody can pose as ClickHouse; write CH_CA_FILE=… for one's own authority"
    if settings.ch_ca_file and not settings.ch_secure:
        yield "CH_CA_FILE is set and not used without CH_SECURE=1"
    secure_pqs = urlsplit(settings.pqs_url.get_secret_value()).scheme == "https"
    if secure_pqs and not settings.pqs_verify:
        yield "PQS_VERIFY=0: anybody can pose as the Query Server; write PQS_CA_FILE=… for one's own authority"
    if settings.pqs_ca_file and not secure_pqs:
        yield "PQS_CA_FILE is set and not used, because PQS_URL does not begin with https://"
    if settings.pqs_auth == "basic" and not secure_pqs:
        yield "PQS_AUTH=basic over http:// sends the password readable; write PQS_URL=https://…"
    urls = (settings.redis_url.get_secret_value(), settings.result_url.get_secret_value())
    if settings.redis_ca_file and not any(url.startswith("rediss://") for url in urls):
        yield "REDIS_CA_FILE is set and not used, because REDIS_URL does not begin with rediss://"


def _login_warnings(settings: Settings) -> Iterable[str]:
    if settings.pqs_auth in ("none", "spnego") and (settings.pqs_user or settings.pqs_password.get_secret_value()):
        yield f"PQS_USER or PQS_PASSWORD is not used with PQS_AUTH={settings.pqs_auth}; write PQS_AUTH=basic or digest"
    if urlsplit(settings.pqs_url.get_secret_value()).username is not None:
        yield "PQS_URL has a user in it; write PQS_AUTH=basic with PQS_USER and PQS_PASSWORD instead"


def _size_warnings(settings: Settings) -> Iterable[str]:
    if settings.phx_fetchmany_size > LARGE_FRAME:
        yield (
            f"PHX_FETCHMANY_SIZE={settings.phx_fetchmany_size}: frames above {LARGE_FRAME} rows ran a Query Server "
            "out of memory; write 5000 to 10000"
        )
    hard = settings.sanitize_hard_ttl_min
    if hard and hard <= settings.task_time_limit_min:
        yield (
            f"SANITIZE_HARD_TTL_MIN={hard} ends runs that a single task may still work for "
            f"(TASK_TIME_LIMIT_MIN={settings.task_time_limit_min}); write more, or 0 for off"
        )
