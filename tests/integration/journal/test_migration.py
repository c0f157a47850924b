"""The journal makes itself, again and again, over what the old system left, under any name it may have."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from functools import partial

import psycopg2
import pytest

from etl_tasks.adapters.journal import Journal, JournalConfig
from etl_tasks.adapters.journal.queries import load_queries
from etl_tasks.core.records import SanitizeRules
from etl_tasks.errors import AuthenticationFailed, SchemaError, Unreachable
from tests.integration.journal.world import AT_END, CLEAN, LANE, World, at, even_windows, hours, result, side_by_side

pytestmark = pytest.mark.integration

LEGACY = """
    DROP TABLE public.inc_processing, public.inc_processing_slices, public.inc_processing_run_partitions,
        public.inc_processing_partitions, public.inc_processing_rejects, public.inc_processing_fences,
        public.inc_processing_reconciles, public.inc_processing_totals, public.inc_processing_read_limits,
        public.inc_processing_read_turns;
    CREATE TABLE public.inc_processing (
        process_name text NOT NULL, status text NOT NULL, ts_start {time} NOT NULL, ts_end {time}, watermark {time},
        details {json}, host text);
    INSERT INTO public.inc_processing (process_name, status, ts_start, ts_end, watermark, details, host) VALUES
        ('codes', 'ok', '2025-08-07 01:00', '2025-08-07 02:00', '2025-08-07 12:00', '{{"rows": 5}}', 'old-1'),
        ('codes', 'ok', '2025-08-08 01:00', '2025-08-08 02:00', '2025-08-08 00:00', '{{"rows": 7}}', 'old-1'),
        ('codes', 'error', '2025-08-08 02:00', '2025-08-08 03:00', '2025-08-09 00:00', NULL, 'old-2'),
        ('codes', 'running', '2025-08-08 03:00', NULL, '2025-08-10 00:00', NULL, 'old-2');
"""


@pytest.fixture
def other_journal(dsn: str) -> Iterator[Journal]:
    """A journal whose table has capitals and digits, in a schema with capitals."""
    schema = f"Journal_{uuid.uuid4().hex[:8]}"
    journal = Journal(JournalConfig(dsn=dsn, table=f"{schema}.Inc_Processing2"), CLEAN, AT_END)
    yield journal
    journal.close()
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    connection.cursor().execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
    connection.close()


@pytest.mark.parametrize(("time", "json"), [("timestamptz", "jsonb"), ("timestamp", "json"), ("timestamptz", "text")])
def test_an_old_table_keeps_its_rows_and_its_watermark(world: World, time: str, json: str) -> None:
    world.rows(LEGACY.format(time=time, json=json))
    for _ in range(3):
        world.journal.ensure()
    rows = world.rows("SELECT status, host, watermark IS NULL FROM public.inc_processing ORDER BY ts_start")
    assert rows == [
        ("ok", "old-1", False),
        ("ok", "old-1", False),
        ("error", "old-2", False),
        ("running", "old-2", False),
    ]
    assert len({row.id for row in world.rows("SELECT id FROM public.inc_processing")}) == 4
    assert world.journal.runs.watermark(LANE) == at(0), "of the last ok run, not of those that failed or go on"
    # The old job's dead run is closed like any other, and keeps what it noted.
    assert world.plan([hours(0, 1)]).status == "skipped"
    (ended,) = world.journal.sweeps.sanitize_stale(SanitizeRules(), LANE)
    assert ended.status == "error"
    closed = world.run_row(ended.run_id)
    assert str(closed.watermark).startswith("2025-08-10")
    assert closed.details["error"] == ended.reason
    assert world.journal.runs.watermark(LANE) == at(0)
    world.load_publish_end([hours(0, 1)])
    assert world.journal.runs.watermark(LANE) == at(1)
    assert world.journal.sweeps.prune(1) == 0, "the old system's rows are not ours to prune"


def test_many_make_it_at_once(world: World) -> None:
    world.rows(f'DROP SCHEMA "{world.schema}" CASCADE')
    journals = [world.another() for _ in range(8)]
    assert side_by_side([journal.ensure_once for journal in journals]) == [None] * 8
    assert world.plan([hours(0, 1)]).status == "planned"


def test_migrating_again_beside_workers_harms_nothing(world: World) -> None:
    """Workers go on while the DDL is applied again; at worst one is asked to try again."""
    run_id = world.plan(even_windows(48)).run_id
    claims = [world.must_claim(each) for each in world.slices(run_id)]
    migrating, loading = world.another(), world.another()

    def migrate() -> None:
        for _ in range(5):
            migrating.ensure()

    def load() -> int:
        return sum(loading.slices.finish(claim, result()).publish_due for claim in claims)

    assert side_by_side([migrate, load]) == [None, 1]


def test_names_with_capitals_in_another_schema(other_journal: Journal, dsn: str) -> None:
    other_journal.ensure_once()
    refused = other_journal.runs.refuse(LANE, CLEAN, False, "no watermark")
    assert refused.run_id == 1
    again = Journal(other_journal.config, CLEAN, AT_END)
    again.database.ensure = partial(pytest.fail, "it is there already")  # type: ignore[method-assign]
    again.ensure_once()
    again.close()
    schema = other_journal.config.table.partition(".")[0]
    with other_journal.database.transaction() as transaction:
        cursor = transaction._cursor
        cursor.execute("SELECT indexname FROM pg_indexes WHERE schemaname = %s", (schema,))
        names = {row.indexname for row in cursor.fetchall()}
    assert "Inc_Processing2_active_one_uq_idx" in names
    assert not {name for name in names if name.startswith("inc_processing")}


def test_the_longest_name_allowed_works(world: World, dsn: str) -> None:
    base = "j" * (63 - len("_run_partitions_open_idx"))
    journal = Journal(JournalConfig(dsn=dsn, table=f"{world.schema}.{base}"), CLEAN, AT_END)
    try:
        journal.ensure()
        journal.ensure()
        assert journal.runs.refuse(LANE, CLEAN, False, "x").run_id == 1
        tables = [
            row.relname
            for row in world.rows("SELECT relname FROM pg_class WHERE relkind = 'i' AND relname LIKE 'jjjj%%open_idx'")
        ]
        assert tables == [f"{base}_run_partitions_open_idx"]
    finally:
        journal.close()


def test_every_query_fits_the_tables(world: World) -> None:
    """Each named query parses against the journal's columns, whether or not a test comes by it."""
    failures = {}
    for name, sql in load_queries(world.config.table).items():
        if "\nSET TRANSACTION" in sql:
            continue  # of no table, and PREPARE takes no such statement
        with world.journal.database.transaction() as transaction:
            cursor = transaction._cursor
            cursor.execute("SAVEPOINT each")
            try:
                cursor.execute(f"PREPARE each AS {_numbered(sql)}")
            except psycopg2.Error as error:
                failures[name] = str(error).splitlines()[0]
            cursor.execute("ROLLBACK TO SAVEPOINT each")
            cursor.execute("DEALLOCATE ALL")
    assert failures == {}


def _numbered(sql: str) -> str:
    """With $1, $2 … for the named parameters, as PREPARE has them."""
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"${numbers.setdefault(match.group(1), len(numbers) + 1)}"

    return re.sub(r"%\((\w+)\)s", number, sql).replace("%%", "%")


def test_a_journal_that_is_not_there_says_what_to_do(world: World) -> None:
    world.rows(f'DROP SCHEMA "{world.schema}" CASCADE')
    with pytest.raises(SchemaError, match="etl_tasks migrate"):
        world.journal.runs.watermark(LANE)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"port": "1"}, Unreachable, "check PG_DSN"),
        ({"password": "canary-wrong"}, AuthenticationFailed, "PG_DSN"),
        ({"dbname": "no_such_db"}, SchemaError, "check the database name"),
    ],
)
def test_a_wrong_dsn_says_what_is_wrong_without_the_password(
    dsn: str, change: dict[str, str], error: type[Exception], text: str
) -> None:
    parts = psycopg2.extensions.parse_dsn(dsn)
    changed = psycopg2.extensions.make_dsn(**{**parts, **change})
    journal = Journal(JournalConfig(dsn=changed), CLEAN, AT_END)
    with pytest.raises(error, match=text) as caught:
        journal.now()
    for secret in (parts.get("password", "-"), "canary-wrong"):
        assert secret not in str(caught.value)
    assert "canary-wrong" not in repr(journal.config)
