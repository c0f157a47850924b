"""Rules about the services themselves: versions, clocks, zones, poolers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from etl_tasks.core.doctor.facts import ClickHouseHost, Clock, PhoenixFacts, PostgresFacts
from etl_tasks.core.doctor.findings import Opinion, Verdict, fail, ok, warn

LEAST_POSTGRES = 140000
LEAST_REDIS = (5, 0)
LEAST_PHOENIX = (4, 14)
LEAST_CLICKHOUSE = (21, 8)
"""Older ones were never thought of; nothing older than the README's versions was tried."""

SKEW_WARN_S, SKEW_FAIL_S = 2.0, 30.0
ZONE_HORIZON = timedelta(days=180)
"""A zone whose offset changes at all changes twice a year: half a year each way sees it."""


def numbers(version: str) -> tuple[int, ...]:
    """``26.9.2.1`` as (26, 9, 2, 1); whatever follows the numbers is left out."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def version_opinion(service: str, version: str, least: tuple[int, ...]) -> Opinion:
    """Whether a service is new enough."""
    if numbers(version) >= least:
        return ok(f"{service} {version}")
    wanted = ".".join(map(str, least))
    return fail(f"{service} {version or 'of no known version'}", f"upgrade {service} to {wanted} or later")


def postgres_opinion(facts: PostgresFacts) -> Opinion:
    """PostgreSQL 14 has the multiranges that coverage is kept in."""
    if facts.version_number >= LEAST_POSTGRES:
        return ok(f"PostgreSQL {facts.version}")
    return fail(f"PostgreSQL {facts.version}", "upgrade PostgreSQL to 14 or later: coverage is kept in multiranges")


def pooler_opinion(journal: PostgresFacts, lock: PostgresFacts | None) -> Opinion:
    """Whether the publish lock's sessions are PostgreSQL's own; ``lock`` is what PG_LOCK_DSN leads to, None when unset.

    A pooler gives itself away by announcing another backend than the one that answers, or by changing it.
    """
    direct, setting = (journal, "PG_DSN") if lock is None else (lock, "PG_LOCK_DSN")
    if pooled(direct):
        return fail(
            f"a pooler stands between us and PostgreSQL behind {setting}: it announced backend {direct.announced_pid}, "
            f"and {', '.join(map(str, sorted(set(direct.pids))))} answered",
            "set PG_LOCK_DSN to PostgreSQL itself, past the pooler: the publish lock needs a session of its own",
        )
    if lock is not None and pooled(journal):
        return ok("a pooler behind PG_DSN, and PG_LOCK_DSN goes past it")
    return ok("no pooler: the backend that was announced is the one that answers")


def pooled(facts: PostgresFacts) -> bool:
    """Whether somebody other than the announced backend answered."""
    return set(facts.pids) != {facts.announced_pid}


def clock_opinions(clocks: Sequence[Clock]) -> Opinion:
    """Whether the clocks agree, as far as can be known from here."""
    if not clocks:
        return Opinion(Verdict.NOT_CHECKED, "no service said what time it is")
    apart = [(clock, max(0.0, abs(clock.ahead_s) - clock.unsure_s)) for clock in clocks]
    wrong = [(clock, by) for clock, by in apart if by >= SKEW_WARN_S]
    if not wrong:
        widest = max(by for _, by in apart)
        return ok(f"{', '.join(clock.owner for clock in clocks)}: at most {widest:.1f} s from this host's clock")
    found = "; ".join(
        f"{clock.owner} is {abs(clock.ahead_s):.1f} s {'ahead of' if clock.ahead_s > 0 else 'behind'} this host"
        for clock, _ in wrong
    )
    cure = f"set the clocks by NTP (chrony) on {', '.join(clock.owner for clock, _ in wrong)}, or on this host"
    return fail(found, cure) if max(by for _, by in wrong) >= SKEW_FAIL_S else warn(found, cure)


def clickhouse_opinions(hosts: Sequence[ClickHouseHost]) -> list[Opinion]:
    """One a host: whether it answers; one that is away is a warning where another of its shard answers."""
    return [_host_opinion(host, hosts) for host in hosts]


def _host_opinion(host: ClickHouseHost, hosts: Sequence[ClickHouseHost]) -> Opinion:
    where = f"{host.name}" + (f" (shard {host.shard})" if host.shard is not None else "")
    if not host.error:
        return version_opinion(f"ClickHouse {where}", host.version, LEAST_CLICKHOUSE)
    named = "CH_HOSTS" if host.listed else "the cluster (system.clusters)"
    cure = f"start ClickHouse on {host.name}, or correct {named}; python -m etl_tasks config shows what is in force"
    spared = any(
        other.shard == host.shard and host.shard is not None and not other.error for other in hosts if other is not host
    )
    return warn(host.error, cure) if spared else fail(host.error, cure)


def clickhouse_zone_opinion(hosts: Iterable[ClickHouseHost]) -> Opinion:
    """Whether every host's sessions are in UTC; our columns name their zone, so that nothing of ours depends on it."""
    other = [host for host in hosts if not host.error and host.timezone not in ("UTC", "Etc/UTC")]
    if not other:
        return ok("UTC on every host")
    return warn(
        "; ".join(f"{host.timezone} on {host.name}" for host in other),
        "set <timezone>UTC</timezone> in the server's configuration (and session_timezone in no profile): times "
        "without a zone, such as those of an old job or of a query by hand, are read in it",
    )


def phoenix_zone_opinion(facts: PhoenixFacts) -> Opinion:
    """Whether the Query Server's JVM is in UTC; what we send are literals, which do not shift."""
    if not any(facts.zone_offsets_min):
        return ok("the Query Server's JVM is in UTC")
    offsets = sorted(set(facts.zone_offsets_min))
    said = " and ".join(f"UTC{minutes // 60:+03d}:{minutes % 60:02d}" for minutes in offsets)
    return warn(
        f"the Query Server's JVM is in {said}: times that other programs bind to statements are shifted by that much",
        "start the Query Server with -Duser.timezone=UTC; this system sends literals, which do not shift",
    )


def shift_opinion(shift_min: int, business_tz: str, now: datetime) -> Opinion:
    """A shift is constant; beside a zone whose offset changes it is wrong for a part of the year."""
    zone = business_tz or "UTC"
    if not shift_min:
        return ok(f"no shift; BUSINESS_TZ is {zone}")
    changed = _offset_change(ZoneInfo(zone), now)
    if changed is None:
        return ok(f"a shift of {shift_min} minutes; the offset of {zone} is constant")
    moment, before, after = changed
    when = "changed" if moment <= now else "will change"
    return warn(
        f"PHX_QUERY_SHIFT_MINUTES={shift_min} is constant, but the offset of BUSINESS_TZ={zone} {when} from "
        f"{_minutes(before)} to {_minutes(after)} on {moment:%Y-%m-%d}",
        "write PHX_QUERY_SHIFT_MINUTES=0 and let BUSINESS_TZ say what times mean, or adjust PHX_QUERY_SHIFT_MINUTES "
        f"on {moment:%Y-%m-%d}",
    )


def _offset_change(zone: ZoneInfo, now: datetime) -> tuple[datetime, timedelta, timedelta] | None:
    """The change of offset nearest to now within the horizon: its day, the offset before and after."""
    first = (now - ZONE_HORIZON).astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    changes = []
    for hours in range(int(2 * ZONE_HORIZON / timedelta(hours=1))):
        moment = first + timedelta(hours=hours)
        before, after = _offset(zone, moment), _offset(zone, moment + timedelta(hours=1))
        if before != after:
            changes.append((moment + timedelta(hours=1), before, after))
    return min(changes, key=lambda change: abs(change[0] - now), default=None)


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()


def _minutes(offset: timedelta) -> str:
    minutes = int(offset.total_seconds()) // 60
    return f"UTC{minutes // 60:+03d}:{minutes % 60:02d}"
