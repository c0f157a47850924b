"""Rules about ClickHouse's tables, settings and contents, and about how the source is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from etl_tasks.core.doctor.facts import LocalTable, Misplaced, NewestVersion, OldRow, ServerSetting, StrangeInsert
from etl_tasks.core.doctor.findings import Opinion, fail, ok, warn

FEW_PARTITIONS = 10
OFTEN = 3
"""Statements of one user within a day that are no accident any more."""
FULL_YEARS_MS = (-62_135_596_800_000, 253_402_300_799_999)
"""0001-01-01 00:00:00.000 and 9999-12-31 23:59:59.999, what DateTime64(3) of newer servers holds."""
MIGRATE = "run: python -m etl_tasks migrate"


def raw_engine_opinion(tables: Sequence[LocalTable], version_column: str) -> Opinion:
    """RAW sorts out its repeats by itself, by the version."""
    wrong = [table for table in tables if not _replaces_by(table, version_column)]
    if not wrong:
        return ok(f"ReplacingMergeTree({version_column}) on every host")
    name = wrong[0].name
    return fail(
        "; ".join(f"{table.name} on {table.host} is {_engine(table)}" for table in wrong),
        f"publish what is owed, stop the workers, RENAME TABLE {name} TO {name}_old on each host, and {MIGRATE}, which "
        f"makes {name} as ReplacingMergeTree({version_column})",
    )


def _replaces_by(table: LocalTable, version_column: str) -> bool:
    arguments = re.match(r"\w+\(([^()]*)\)", table.engine_full)
    named = [argument.strip(" `") for argument in arguments[1].split(",")] if arguments else []
    return table.engine.endswith("ReplacingMergeTree") and version_column in named


def _engine(table: LocalTable) -> str:
    return re.split(r" (?:PARTITION|ORDER|PRIMARY|TTL|SETTINGS) ", table.engine_full)[0] or table.engine


def clean_version_opinion(tables: Sequence[LocalTable], version_column: str) -> Opinion:
    """A CLEAN of the old system has no version; without it no publish knows which row is newer."""
    wrong = [table for table in tables if version_column not in table.columns]
    if not wrong:
        return ok(f"CLEAN and buffer have {version_column}")
    return fail(
        "; ".join(f"{table.name} on {table.host} has no column {version_column}" for table in wrong),
        f"{MIGRATE}, which adds {version_column} to {wrong[0].name} with the epoch as default, so that rows loaded "
        "since win",
    )


def ttl_opinions(
    raw: Sequence[LocalTable],
    buffers: Sequence[LocalTable],
    clean: Sequence[LocalTable],
    seconds: Callable[[str, str], int | None],
    *,
    ts_column: str,
    version_column: str,
    raw_ttl_hours: int,
    cadence_min: int,
) -> list[Opinion]:
    """Buffer: none. RAW: by the version, as long as CH_RAW_TTL_HOURS says and twice the cadence. CLEAN: by its time.

    ``seconds(engine_full, column)`` reads the length of a TTL by that column; ``cadence_min`` is the longest time that
    something loaded is meant to wait for its publish.
    """
    found: list[Opinion] = []
    for table in buffers:
        if _ttl(table):
            found.append(
                fail(
                    f"{table.name} on {table.host} has a TTL ({_ttl(table)}): buffers made like it would lose rows "
                    "that CLEAN still has",
                    f"ALTER TABLE {table.name} REMOVE TTL on {table.host}",
                )
            )
    for table in raw:
        found += _raw_ttl(table, seconds, version_column, raw_ttl_hours, cadence_min)
    for table in clean:
        rule = _ttl(table)
        if rule and not _of_clean_s_form(rule, ts_column):
            found.append(
                fail(
                    f"{table.name} on {table.host} expires by {rule}",
                    f"ALTER TABLE {table.name} MODIFY TTL toDateTime({ts_column}) + INTERVAL 180 DAY (as long as you "
                    f"mean to keep it) on {table.host}: a row is to expire by its own time",
                )
            )
    said = f"buffer none, RAW at least {raw_ttl_hours} h by {version_column}, CLEAN {_ttl(clean[0]) or 'for ever'}"
    return found or [ok(said)]


def _raw_ttl(
    table: LocalTable,
    seconds: Callable[[str, str], int | None],
    version_column: str,
    raw_ttl_hours: int,
    cadence_min: int,
) -> list[Opinion]:
    where = f"{table.name} on {table.host}"
    length_s = seconds(table.engine_full, version_column)
    if length_s is None:
        said = _ttl(table)
        cure = f"ALTER TABLE {table.name} MODIFY TTL toDateTime({version_column}) + INTERVAL {raw_ttl_hours} HOUR"
        if said:
            return [fail(f"{where} expires by {said}, not by {version_column}: late rows vanish unpublished", cure)]
        return [warn(f"{where} has no TTL: it grows for ever", cure)]
    if length_s < raw_ttl_hours * 3600:
        return [
            fail(
                f"{where} keeps rows for {length_s / 3600:g} h, CH_RAW_TTL_HOURS says {raw_ttl_hours}: what is owed "
                "is published in time for a longer one",
                f"write CH_RAW_TTL_HOURS={length_s // 3600}, or ALTER TABLE {table.name} MODIFY TTL "
                f"toDateTime({version_column}) + INTERVAL {raw_ttl_hours} HOUR",
            )
        ]
    if length_s < 2 * 60 * cadence_min:
        return [
            fail(
                f"{where} keeps rows for {length_s / 3600:g} h, less than twice the {cadence_min} minutes that a "
                "publish may be waited for",
                f"lengthen the TTL of {table.name} and CH_RAW_TTL_HOURS, or lower PUBLISH_EVERY_MINUTES",
            )
        ]
    return []


def _ttl(table: LocalTable) -> str:
    rule = re.search(r"\sTTL\s(.*?)(?:\sSETTINGS\s|$)", table.engine_full, re.DOTALL)
    return rule[1].strip() if rule else ""


def _of_clean_s_form(rule: str, ts_column: str) -> bool:
    column = rf"`?{re.escape(ts_column)}`?"
    return bool(
        re.match(rf"(?:toDateTime(?:64)?\({column}(?:, [^)]*)?\)|{column})\s*\+", rule) and "GROUP BY" not in rule
    )


def setting_opinions(
    host: str,
    there: Mapping[str, ServerSetting],
    wanted: Mapping[str, str],
    aliases: Mapping[str, str],
    optional: frozenset[str],
) -> list[Opinion]:
    """What the user's profile forbids of the settings that are sent, and what the server does not know.

    ``aliases`` are older names of settings, ``optional`` those whose absence does no harm. A value that the profile
    has already is never refused.
    """
    found: list[Opinion] = []
    read_only = there.get("readonly")
    if read_only is not None and read_only.value != "0":
        return [
            fail(
                f"the user's profile on {host} has readonly = {read_only.value}: nothing can be written",
                "give CH_USER a profile with readonly = 0",
            )
        ]
    for name, value in wanted.items():
        setting = there.get(name) or there.get(aliases.get(name, ""))
        if setting is None:
            if name not in optional:
                found.append(
                    fail(
                        f"ClickHouse {host} does not know the setting {name}, which is needed",
                        f"upgrade ClickHouse on {host}: its version is too old for {name}",
                    )
                )
        elif setting.value != value and (setting.fixed or _outside(value, setting)):
            bounds = "const" if setting.fixed else f"{setting.low or '-'} to {setting.high or '-'}"
            found.append(
                fail(
                    f"the user's profile on {host} forbids {setting.name} = {value} (it is {setting.value}, {bounds})",
                    f"lift the constraint on {setting.name} from the profile of CH_USER",
                )
            )
    return found


def _outside(value: str, setting: ServerSetting) -> bool:
    number = _number(value)
    if number is None:
        return False
    low, high = _number(setting.low), _number(setting.high)
    return (low is not None and number < low) or (high is not None and number > high)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def partitions_opinion(values: Mapping[str, int]) -> Opinion:
    """``max_partitions_per_insert_block`` by host. Our blocks have one partition: slices do not straddle days."""
    tight = {host: value for host, value in values.items() if 0 < value < FEW_PARTITIONS}
    if not tight:
        said = ", ".join(sorted({str(value) for value in values.values()}))
        return ok(f"max_partitions_per_insert_block = {said}; a slice needs 1")
    return warn(
        "; ".join(f"max_partitions_per_insert_block = {value} on {host}" for host, value in tight.items()),
        "raise max_partitions_per_insert_block in the profile of CH_USER to the default of 100: a restore by hand "
        "inserts more days at once than that",
    )


def datetime64_opinion(range_ms: tuple[int, int]) -> Opinion:
    """Older servers hold fewer years; dates outside are rejects."""
    if range_ms[0] <= FULL_YEARS_MS[0] and range_ms[1] >= FULL_YEARS_MS[1]:
        return ok("DateTime64 holds the years 1 to 9999")
    first, last = (_year(edge) for edge in range_ms)
    return warn(
        f"DateTime64 holds the years {first} to {last} on this server: a row with a date outside is a reject",
        "upgrade ClickHouse, or allow for such rows with MAX_REJECTED_ROWS",
    )


def _year(milliseconds: int) -> int:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).year


def misplaced_opinion(looked_at: Sequence[Misplaced], sharding: str) -> Opinion:
    """Keys on a shard that they do not belong to are on two shards after the next load: CLEAN_ALL shows them twice."""
    wrong = [each for each in looked_at if each.misplaced]
    rows = sum(each.rows for each in looked_at)
    if not wrong:
        return ok(f"{rows:,} rows of the newest partitions are where {sharding} puts them")
    return fail(
        "; ".join(
            f"{each.misplaced:,} of {each.rows:,} rows on {each.host} belong on another shard, such as {each.example}"
            for each in wrong
        ),
        "a shard was added, or the sharding expression changed: move the rows (INSERT INTO the Distributed CLEAN, then "
        "ALTER TABLE … DELETE on the wrong shard), or load the days again into empty tables",
    )


def read_path_opinion(path: str, table: str, ts_column: str, hint: str) -> Opinion:
    """EXPLAIN of the read of one window: without a RANGE SCAN every window costs the whole table."""
    first = path.strip().partition("\n")[0]
    if "FULL SCAN" not in path:
        return ok(first)
    cure = (
        f'CREATE INDEX … ON {table} ("{ts_column}"), and PHX_QUERY_HINT=INDEX("{table}" "…")'
        if not hint
        else f'PHX_QUERY_HINT={hint} names no index of {table} that begins with "{ts_column}"; correct it'
    )
    return warn(f"{first}: every window costs the whole table, and splitting cures no overload", cure)


def old_job_opinion(
    versions: Sequence[NewestVersion],
    ours_ms: int,
    statements: Sequence[StrangeInsert],
    old_rows: Sequence[OldRow],
) -> Opinion:
    """Whether somebody else writes: versions newer than any that we gave, statements of others, old journal rows.

    ``ours_ms`` is the newest version that we gave, read after ``versions``: what is loaded meanwhile is ours. A
    statement or two of others, and nothing else, may have been somebody's by hand: a warning.
    """
    ahead = [each for each in versions if (each.version_ms or 0) > ours_ms]
    said = [
        f"up to {each.rows_after:,} rows of {each.table} on {each.host} are newer than any version we gave "
        f"({_moment(each.version_ms or 0)}, ours {_moment(ours_ms)})"
        for each in ahead
    ]
    said += [
        f"{each.user} ({each.client or 'no client name'}) wrote {each.statements}× on {each.host} within a day, last "
        f"at {each.last_at:%Y-%m-%d %H:%M:%S}: {each.text}"
        for each in statements
    ]
    said += [f"{row.process} began at {row.started_at:%Y-%m-%d %H:%M:%S} in the old journal's form" for row in old_rows]
    if not said:
        return ok("nobody else has written into RAW, CLEAN or the journal within a day")
    tables = ", ".join(sorted({each.table for each in ahead})) or "RAW, CLEAN or the journal"
    cure = (
        f"find the old job (cron, systemd, another host) that writes into {tables} and stop it: two writers of one "
        "CLEAN are one too many"
    )
    if ahead or old_rows or any(each.statements >= OFTEN for each in statements):
        return fail("; ".join(said), cure)
    return warn("; ".join(said), f"nothing, if that was by hand; else {cure}")


def _moment(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
