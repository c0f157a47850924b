"""``doctor``'s rules, on facts that no test can plant for real, and at their edges."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from etl_tasks.adapters.clickhouse.examination import writes_into
from etl_tasks.adapters.clickhouse.identifiers import TableName
from etl_tasks.adapters.clickhouse.ttl import ttl_seconds
from etl_tasks.adapters.journal.examination import wanted_schema
from etl_tasks.core.doctor import broker, journal, services, tables
from etl_tasks.core.doctor.facts import (
    ClickHouseHost,
    Clock,
    JournalIndex,
    JournalSchema,
    LocalTable,
    Misplaced,
    NewestVersion,
    OldRow,
    PhoenixFacts,
    PostgresFacts,
    PublishCost,
    RedisFacts,
    ServerSetting,
    StrangeInsert,
    WorkerFacts,
)
from etl_tasks.core.doctor.findings import Finding, Opinion, Verdict, counted, fail, ok, warn
from etl_tasks.errors import Unreachable, UsageError
from etl_tasks.pipeline.doctor.runner import Check, chosen, examine

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
NOON_MS = 1_795_608_000_000  # NOW


def clock(owner: str, ahead_s: float, unsure_s: float = 0.01) -> Clock:
    return Clock(owner, ahead_s, unsure_s)


# -- services ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead_s", "unsure_s", "verdict"),
    [
        (0.5, 0.0, Verdict.OK),
        (-1.9, 0.0, Verdict.OK),
        (2.5, 0.0, Verdict.WARN),
        (-29.0, 0.0, Verdict.WARN),
        (31.0, 0.0, Verdict.FAIL),
        (-3600.0, 0.0, Verdict.FAIL),
        # A slow answer says little: three seconds off, known to within two.
        (3.0, 2.0, Verdict.OK),
    ],
)
def test_clocks_that_differ(ahead_s: float, unsure_s: float, verdict: Verdict) -> None:
    opinion = services.clock_opinions(
        [clock("PostgreSQL", 0.0), clock("ClickHouse ch2.example:9000", ahead_s, unsure_s)]
    )

    assert opinion.verdict is verdict
    if verdict is not Verdict.OK:
        assert f"{abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'}" in opinion.found
        assert "NTP" in opinion.cure
        assert "ch2.example" in opinion.cure
        assert "PostgreSQL" not in opinion.cure


def test_clocks_of_services_that_are_all_away_were_not_compared() -> None:
    assert services.clock_opinions([]).verdict is Verdict.NOT_CHECKED


@pytest.mark.parametrize(
    ("version", "least", "verdict"),
    [
        ("6.2.14", (5, 0), Verdict.OK),
        ("5.0", (5, 0), Verdict.OK),
        ("4.0.9", (5, 0), Verdict.FAIL),
        ("4.13.1-HBase-1.3", (4, 14), Verdict.FAIL),
        ("4.14.0-cdh5", (4, 14), Verdict.OK),
        ("10.1", (9, 9), Verdict.OK),
        ("", (1,), Verdict.FAIL),
    ],
)
def test_versions(version: str, least: tuple[int, ...], verdict: Verdict) -> None:
    assert services.version_opinion("Service", version, least).verdict is verdict


def postgres(announced: int, *pids: int, number: int = 160004) -> PostgresFacts:
    return PostgresFacts(number, "16.4", clock("PostgreSQL", 0), announced, pids)


def test_postgresql_before_14_is_refused() -> None:
    assert services.postgres_opinion(postgres(1, 1, number=130015)).verdict is Verdict.FAIL
    assert services.postgres_opinion(postgres(1, 1, number=140000)).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("main", "lock", "verdict"),
    [
        (postgres(7, 7, 7, 7), None, Verdict.OK),
        (postgres(99, 7, 7, 7), None, Verdict.FAIL),
        (postgres(7, 7, 8, 7), None, Verdict.FAIL),
        (postgres(99, 7, 8, 9), postgres(5, 5, 5, 5), Verdict.OK),
        (postgres(7, 7, 7, 7), postgres(99, 5, 5, 5), Verdict.FAIL),
    ],
)
def test_a_pooler_gives_itself_away(main: PostgresFacts, lock: PostgresFacts | None, verdict: Verdict) -> None:
    assert services.pooler_opinion(main, lock).verdict is verdict


def host(name: str, shard: int | None, error: str = "", zone: str = "UTC", listed: bool = True) -> ClickHouseHost:
    return ClickHouseHost(name, listed, shard, "" if error else "24.8.1", zone, None, error)


def test_a_replica_away_is_a_warning_and_the_last_one_of_a_shard_a_fail() -> None:
    one = [host("a:9000", 1), host("b:9000", 1, "b does not answer"), host("c:9000", 2, "c does not answer")]
    assert [each.verdict for each in services.clickhouse_opinions(one)] == [Verdict.OK, Verdict.WARN, Verdict.FAIL]
    # Where nobody knows its shard, nobody can be said to stand in for it.
    assert services.clickhouse_opinions([host("a:9000", None), host("b:9000", None, "no")])[1].verdict is Verdict.FAIL


def test_zones() -> None:
    assert services.clickhouse_zone_opinion([host("a:9000", 1), host("b:9000", 2)]).verdict is Verdict.OK
    told = services.clickhouse_zone_opinion([host("a:9000", 1), host("b:9000", 2, zone="Asia/Almaty")])
    assert (told.verdict, "Asia/Almaty on b:9000" in told.found) == (Verdict.WARN, True)
    facts = PhoenixFacts("5.2", clock("pqs", 0), (60, 120))
    assert "UTC+01:00 and UTC+02:00" in services.phoenix_zone_opinion(facts).found
    assert services.phoenix_zone_opinion(PhoenixFacts("5.2", clock("pqs", 0), (0, 0))).verdict is Verdict.OK
    assert "UTC-03:30" in services.phoenix_zone_opinion(PhoenixFacts("5.2", clock("pqs", 0), (-210, -150))).found


@pytest.mark.parametrize(
    ("shift_min", "zone", "now", "words"),
    [
        (0, "Europe/Berlin", NOW, None),
        (-300, "", NOW, None),
        (-300, "Asia/Tashkent", NOW, None),
        # Kazakhstan went from UTC+6 to UTC+5 at the end of February 2024.
        (-300, "Asia/Almaty", datetime(2024, 6, 1, tzinfo=UTC), "changed from UTC+06:00 to UTC+05:00 on 2024-02-29"),
        (-300, "Asia/Almaty", datetime(2024, 1, 1, tzinfo=UTC), "will change from UTC+06:00 to UTC+05:00"),
        (-300, "Asia/Almaty", NOW, None),
        (60, "Europe/Berlin", NOW, "changed from UTC+02:00 to UTC+01:00 on 2026-10-25"),
        (
            60,
            "Europe/Berlin",
            datetime(2027, 3, 1, tzinfo=UTC),
            "will change from UTC+01:00 to UTC+02:00 on 2027-03-28",
        ),
    ],
)
def test_a_constant_shift_beside_a_zone(shift_min: int, zone: str, now: datetime, words: str | None) -> None:
    opinion = services.shift_opinion(shift_min, zone, now)
    assert opinion.verdict is (Verdict.OK if words is None else Verdict.WARN)
    assert (words or "") in opinion.found


# -- the broker --------------------------------------------------------------------------------------------------------

OURS = {"source": "S", "clean": "stg.c", "journal": "public.j", "process": "p", "postgres": "db.example:5432/etl"}
LIMITS = {"visibility_timeout": 43200, "task_soft_time_limit": 3300, "task_time_limit": 3600}


def worker(name: str = "w@h", queues: Sequence[str] = broker.QUEUES, **conf: object) -> WorkerFacts:
    said: Mapping[str, object] = {
        "etl_installation": OURS,
        "broker_transport_options": {"visibility_timeout": 43200},
        "task_soft_time_limit": 3300,
        "task_time_limit": 3600,
    }
    return WorkerFacts(name, frozenset(queues), {**said, **conf})


def test_queues_without_consumers_are_told_with_what_waits_there() -> None:
    found = broker.queue_opinions([worker(queues=["plan", "extract"]), worker(queues=["publish"])], {"backfill": 12})
    assert [each.verdict for each in found] == [Verdict.FAIL]
    assert "queue backfill, where 12 messages wait" in found[0].found
    assert "-Q backfill" in found[0].cure
    assert [each.verdict for each in broker.queue_opinions([worker()], {})] == [Verdict.OK]


@pytest.mark.parametrize(
    ("theirs", "declared", "verdict", "words"),
    [
        (OURS, ["plan", "celeryev.1-2", "x.reply.celery.pidbox", "h.celery.pidbox"], Verdict.OK, "ours alone"),
        ({**OURS, "clean": "stg.other"}, [], Verdict.FAIL, "clean stg.other"),
        ({**OURS, "postgres": "localhost:5432/etl"}, [], Verdict.WARN, "localhost:5432/etl"),
        (None, [], Verdict.FAIL, "another application"),
        (OURS, ["plan", "invoices"], Verdict.WARN, "invoices"),
    ],
)
def test_others_on_our_redis(
    theirs: Mapping[str, str] | None, declared: Sequence[str], verdict: Verdict, words: str
) -> None:
    (found,) = broker.neighbour_opinions([worker(etl_installation=theirs)], declared, OURS)
    assert found.verdict is verdict
    assert words in found.found


def test_the_ladder_of_time_outs() -> None:
    rungs = [("CONNECT", 5.0), ("READ", 300.0), ("SOFT", 3300.0)]
    assert [each.verdict for each in broker.ladder_opinions(rungs, [], [worker()], LIMITS)] == [Verdict.OK]
    (equal,) = broker.ladder_opinions([("CONNECT", 5.0), ("READ", 5.0)], [], [], LIMITS)
    assert (equal.verdict, "lower CONNECT or raise READ" in equal.cure) == (Verdict.FAIL, True)
    (other,) = broker.ladder_opinions(rungs, [], [worker(task_time_limit=60)], LIMITS)
    assert "task_time_limit 60 instead of 3600" in other.found


@pytest.mark.parametrize(
    ("append_only", "saves", "verdict"),
    [(True, "", Verdict.OK), (False, "3600 1", Verdict.OK), (False, None, Verdict.OK), (False, "", Verdict.WARN)],
)
def test_persistence(append_only: bool, saves: str | None, verdict: Verdict) -> None:
    assert broker.persistence_opinion(RedisFacts("7.2", append_only, saves, "noeviction", 0)).verdict is verdict


# -- the journal -------------------------------------------------------------------------------------------------------


def minutes_ago(*minutes: float) -> list[datetime]:
    return [NOW - timedelta(minutes=each) for each in minutes]


@pytest.mark.parametrize(
    ("planned_at", "verdict"),
    [
        ([], Verdict.FAIL),
        (minutes_ago(21, 31, 41), Verdict.FAIL),
        (minutes_ago(19), Verdict.OK),
        (minutes_ago(0.1, 10, 20, 30), Verdict.OK),
        # One message had waited nearly a step for a worker.
        (minutes_ago(0.1, 10, 20, 29.9, 30), Verdict.OK),
        # Two beats, in step and out of step.
        (minutes_ago(1, 1.1, 11, 11.1, 21, 21.1), Verdict.FAIL),
        (minutes_ago(1, 6, 11, 16, 21, 26), Verdict.FAIL),
    ],
)
def test_beat_by_what_it_leaves(planned_at: Sequence[datetime], verdict: Verdict) -> None:
    assert journal.beat_opinion(planned_at, NOW, 10, "p").verdict is verdict


@pytest.mark.parametrize(
    ("longest_ms", "verdict", "words"),
    [
        (1_000, Verdict.OK, ""),
        (899_000, Verdict.OK, ""),  # 4 × 14.98 min < 60 min
        (901_000, Verdict.WARN, "PUBLISH_EVERY_MINUTES=76"),
        (86 * 60_000, Verdict.FAIL, "PUBLISH_SOFT_TIME_LIMIT_MIN"),
    ],
)
def test_the_cost_of_publishes(longest_ms: int, verdict: Verdict, words: str) -> None:
    opinion = journal.publish_cost_opinion(
        PublishCost(5, longest_ms, 20261124), step_min=10, every_minutes=60, soft_limit_min=170
    )
    assert opinion.verdict is verdict
    assert words in opinion.cure


def test_the_schema_that_is_wanted_is_that_of_the_file() -> None:
    wanted = wanted_schema("stg.my_runs")

    assert set(wanted.columns) == {
        "my_runs", "my_runs_slices", "my_runs_run_partitions", "my_runs_partitions", "my_runs_rejects",
        "my_runs_fences", "my_runs_reconciles", "my_runs_totals",
        "my_runs_read_limits", "my_runs_read_turns",
    }  # fmt: skip
    assert wanted.columns["my_runs_fences"] == {"clean_table", "token", "version_ms"}
    assert {"id", "process_name", "watermark", "open_partitions"} <= wanted.columns["my_runs"]
    assert {"CONSTRAINT", "PRIMARY", "CHECK"}.isdisjoint(wanted.columns["my_runs_slices"])
    assert wanted.indexes["my_runs_active_one_uq_idx"] == JournalIndex("my_runs_active_one_uq_idx", True, True)
    assert wanted.indexes["my_runs_slices_running_idx"].unique is False
    assert "my_runs_fences_pkey" in wanted.indexes
    assert "my_runs_pkey" not in wanted.indexes


def test_what_the_journal_lacks() -> None:
    wanted = wanted_schema("public.inc_processing")
    there = JournalSchema(
        {**wanted.columns, "inc_processing_fences": frozenset({"clean_table", "token"})},
        {
            name: JournalIndex(name, index.valid, unique=False if name == "inc_processing_id_uq_idx" else index.unique)
            for name, index in wanted.indexes.items()
        },
    )
    assert [each.found for each in journal.table_opinions(wanted, there)] == [
        "inc_processing_fences lacks the column version_ms"
    ]
    assert [each.found for each in journal.index_opinions(wanted, there)] == [
        "the index inc_processing_id_uq_idx is not unique"
    ]
    for rule in (journal.table_opinions, journal.index_opinions):
        assert [each.verdict for each in rule(wanted, wanted)] == [Verdict.OK]


# -- ClickHouse --------------------------------------------------------------------------------------------------------


def setting(name: str, value: str, low: str = "", high: str = "", fixed: bool = False) -> ServerSetting:
    return ServerSetting(name, value, low, high, fixed)


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ([setting("alter_sync", "1"), setting("max_execution_time", "0")], None),
        # The old name does as well; a value that is there already is not refused.
        ([setting("replication_alter_partitions_sync", "1", fixed=True), setting("max_execution_time", "0")], None),
        ([setting("max_execution_time", "0")], "does not know the setting alter_sync"),
        ([setting("alter_sync", "2", fixed=True), setting("max_execution_time", "0")], "forbids alter_sync = 1"),
        ([setting("alter_sync", "1"), setting("max_execution_time", "60", high="120")], "max_execution_time = 600"),
        ([setting("alter_sync", "1"), setting("max_execution_time", "900", low="601")], "max_execution_time = 600"),
        ([setting("readonly", "2")], "readonly = 2"),
    ],
)
def test_settings_of_the_profile(there: Sequence[ServerSetting], words: str | None) -> None:
    found = tables.setting_opinions(
        "ch.example:9000",
        {each.name: each for each in there},
        {"alter_sync": "1", "max_execution_time": "600", "async_insert": "0"},
        {"alter_sync": "replication_alter_partitions_sync"},
        frozenset({"async_insert"}),
    )
    assert len(found) == (words is not None)
    assert all(words is not None and words in each.found for each in found)


@pytest.mark.parametrize(
    ("range_ms", "words"),
    [
        (tables.FULL_YEARS_MS, None),
        ((-2_208_988_800_000, 10_413_791_999_999), "1900 to 2299"),
        ((-1_420_070_400_000, 9_904_550_399_999), "1925 to 2283"),
    ],
)
def test_years_of_datetime64(range_ms: tuple[int, int], words: str | None) -> None:
    opinion = tables.datetime64_opinion(range_ms)
    assert opinion.verdict is (Verdict.OK if words is None else Verdict.WARN)
    assert (words or "") in opinion.found


def local(engine_full: str, name: str = "stg.t", columns: Sequence[str] = ("c", "ingested_at")) -> LocalTable:
    engine = engine_full.partition("(")[0].partition(" ")[0]
    return LocalTable(name, "ch.example:9000", engine_full, engine, frozenset(columns))


MERGE_TREE = "MergeTree PARTITION BY toYYYYMMDD(opd) ORDER BY (c, opd, t)"


@pytest.mark.parametrize(
    ("raw", "buffer", "clean", "words"),
    [
        ("TTL toDateTime(ingested_at) + toIntervalDay(5)", "", "TTL toDateTime(opd) + toIntervalDay(180)", []),
        ("TTL toDateTime(ingested_at) + toIntervalDay(9)", "", "", []),
        ("", "", "", ["grows for ever"]),
        ("TTL toDateTime(opd) + toIntervalDay(5)", "", "", ["not by ingested_at"]),
        ("TTL toDateTime(ingested_at) + toIntervalHour(24)", "", "", ["keeps rows for 24 h"]),
        (
            "TTL toDateTime(ingested_at) + toIntervalDay(5)",
            "TTL toDateTime(opd) + toIntervalDay(5)",
            "TTL toDate(opd) + toIntervalDay(5)",
            ["buffers made like it", "expires by toDate(opd)"],
        ),
        ("TTL toDateTime(ingested_at) + toIntervalDay(5)", "", "TTL `opd` + toIntervalDay(5) SETTINGS x = 1", []),
    ],
)
def test_ttls(raw: str, buffer: str, clean: str, words: Sequence[str]) -> None:
    found = tables.ttl_opinions(
        [local(f"Replacing{MERGE_TREE} {raw}")],
        [local(f"Replacing{MERGE_TREE} {buffer}")],
        [local(f"{MERGE_TREE} {clean}")],
        ttl_seconds,
        ts_column="opd",
        version_column="ingested_at",
        raw_ttl_hours=120,
        cadence_min=60,
    )
    bad = [each for each in found if each.verdict is not Verdict.OK]
    assert len(bad) == len(words)
    assert all(word in each.found for word, each in zip(words, bad, strict=True))


@pytest.mark.parametrize(
    ("engine_full", "verdict"),
    [
        ("ReplacingMergeTree(ingested_at) PARTITION BY toYYYYMMDD(opd)", Verdict.OK),
        ("ReplicatedReplacingMergeTree('/clickhouse/t', '{replica}', ingested_at) ORDER BY c", Verdict.OK),
        ("ReplacingMergeTree ORDER BY ingested_at", Verdict.FAIL),
        ("ReplacingMergeTree(tm) ORDER BY c TTL toDateTime(ingested_at) + toIntervalDay(5)", Verdict.FAIL),
        ("MergeTree PARTITION BY toYYYYMMDD(opd) ORDER BY c", Verdict.FAIL),
    ],
)
def test_raw_s_engine(engine_full: str, verdict: Verdict) -> None:
    opinion = tables.raw_engine_opinion([local(engine_full)], "ingested_at")
    assert opinion.verdict is verdict


@pytest.mark.parametrize(
    ("versions", "statements", "old_rows", "verdict"),
    [
        ([], 0, [], Verdict.OK),
        ([NewestVersion("stg.c", "h", NOON_MS, 0)], 0, [], Verdict.OK),
        ([NewestVersion("stg.c", "h", NOON_MS + 1, 3)], 0, [], Verdict.FAIL),
        ([], 1, [], Verdict.WARN),
        ([], 3, [], Verdict.FAIL),
        ([], 0, [OldRow("old", NOW)], Verdict.FAIL),
    ],
)
def test_signs_of_an_old_job(
    versions: Sequence[NewestVersion], statements: int, old_rows: Sequence[OldRow], verdict: Verdict
) -> None:
    strange = [StrangeInsert("h", "old", "python", statements, NOW, "INSERT INTO stg.c")] if statements else []
    assert tables.old_job_opinion(versions, NOON_MS, strange, old_rows).verdict is verdict


@pytest.mark.parametrize(
    ("statement", "writes"),
    [
        ("INSERT INTO stg.codes (c, t) VALUES", True),
        ("insert into `stg`.`codes`(c) select 1", True),
        ("/* old job */ INSERT INTO TABLE codes SELECT 1", True),
        ("ALTER TABLE stg.codes REPLACE PARTITION 20261124 FROM stg.buf", True),
        ("ALTER TABLE stg.codes ADD COLUMN x String", False),
        ("INSERT INTO report SELECT * FROM stg.codes", False),
        ("INSERT INTO stg.codes_of_others VALUES", False),
        ("INSERT INTO stg.codesXraw VALUES", False),
        ("SELECT 'INSERT INTO stg.codes VALUES'", False),
    ],
)
def test_statements_that_write_into_our_tables(statement: str, writes: bool) -> None:
    pattern = writes_into([TableName("stg", "codes"), TableName("stg", "codes.raw")])
    assert bool(re.search(pattern, statement)) is writes


def test_misplaced_keys_are_counted_over_all_shards() -> None:
    looked_at = [Misplaced("a", 1_000, 0, ""), Misplaced("b", 2_000, 2, "('x',1)")]
    assert tables.misplaced_opinion(looked_at[:1], "cityHash64(c)").verdict is Verdict.OK
    told = tables.misplaced_opinion(looked_at, "cityHash64(c)")
    assert (told.verdict, "2 of 2,000 rows on b" in told.found) == (Verdict.FAIL, True)


# -- the runner --------------------------------------------------------------------------------------------------------


def gone() -> Opinion:
    raise Unreachable("the service does not answer")


def broken() -> Opinion:
    raise ZeroDivisionError("a slip of ours")


CHECKS = [
    Check("service", gone),
    Check("table", lambda: ok("fine"), ["service"]),
    Check("rows", lambda: ok("fine"), ["table"]),
    Check("slip", broken),
    Check("other", lambda: [ok("one"), warn("two", "mend it")]),
    Check("last", lambda: fail("three", "mend it"), ["other"]),
]


def test_what_a_check_meets_never_keeps_the_next_one_from_running() -> None:
    found = list(examine(CHECKS))

    assert [(each.check, each.verdict) for each in found] == [
        ("service", Verdict.FAIL),
        ("table", Verdict.NOT_CHECKED),
        ("rows", Verdict.NOT_CHECKED),
        ("slip", Verdict.FAIL),
        ("other", Verdict.OK),
        ("other", Verdict.WARN),
        ("last", Verdict.FAIL),
    ]
    assert found[0].found == "the service does not answer"
    assert "ZeroDivisionError: a slip of ours" in found[3].found
    assert all(each.cure for each in found if each.verdict in (Verdict.WARN, Verdict.FAIL))
    assert counted(found) == {Verdict.OK: 1, Verdict.WARN: 1, Verdict.FAIL: 3, Verdict.NOT_CHECKED: 2}
    assert counted([Finding("x", Verdict.OK, "")])[Verdict.FAIL] == 0


def test_a_check_by_name_brings_what_it_needs() -> None:
    assert [each.name for each in chosen(CHECKS, ["rows"])] == ["service", "table", "rows"]
    assert chosen(CHECKS, []) == CHECKS
    with pytest.raises(UsageError, match="no check hearts"):
        chosen(CHECKS, ["hearts"])
