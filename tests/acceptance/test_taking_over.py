"""Taking over from the system before this one: its journal, its tables, its .env, and what it had loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from clickhouse_driver import Client

from devstack.dataset import MAIN_COLUMNS, DatasetSpec
from devstack.deployment import Deployment, iso, midnight, ms, named_settings
from devstack.oracle import Change, Late, Rows
from devstack.stack import Stack

SHIFT = timedelta(minutes=300)
OVERLAP = timedelta(minutes=5)
# The old job had come this far, in the source's time and in its business time.
LOADED_UNTIL = midnight(1) + timedelta(hours=12)
WATERMARK = LOADED_UNTIL + SHIFT
OLDEST = midnight(3)
OLD_ENV = {
    "HBASE_MAIN_COLUMNS": ",".join(MAIN_COLUMNS),
    "PHOENIX_TCP_PROBE_TIMEOUT_MS": "1200",
    "PHX_QUERY_SHIFT_MINUTES": "-300",
    "PHX_QUERY_OVERLAP_MINUTES": "5",
    "PHX_INITIAL_SLICE_MIN": "120",
}
OLD_JOURNAL = """
    CREATE SCHEMA IF NOT EXISTS {schema};
    CREATE TABLE {j} (
        process_name text NOT NULL, status text NOT NULL, ts_start timestamptz NOT NULL, ts_end timestamptz,
        watermark timestamptz, details jsonb, host text);
    CREATE UNIQUE INDEX inc_processing_active_one_uq_idx ON {j} (process_name)
        WHERE ts_end IS NULL AND status IN ('planned', 'running');
"""


@pytest.fixture
def old(stack: Stack, tmp_path: Path) -> Iterator[Deployment]:
    """An installation as the old system left it, empty; nothing of this system was there yet."""
    settings = {**named_settings(stack, "takeover"), **OLD_ENV}
    settings.pop("MAIN_COLUMNS", None)
    settings["CH_TABLE"] = settings.pop("CH_CLEAN_TABLE")
    with ExitStack() as made:
        deployment = Deployment(stack, tmp_path, settings)
        made.callback(deployment.close)
        deployment.destroy()
        deployment.seeder.create_table()
        _old_tables(deployment)
        deployment.journal(OLD_JOURNAL.format(schema=settings["CH_DB"], j="{j}"))
        yield deployment


def _old_tables(deployment: Deployment) -> None:
    """RAW with its version, and CLEAN and a plain buffer without one."""
    db = deployment.settings["CH_DB"]
    deployment.cli("migrate", "--only", "clickhouse")
    for table in ("codes", "codes_all"):
        deployment.each_shard(f"ALTER TABLE {db}.{table} DROP COLUMN ingested_at")
    deployment.each_shard(f"DROP TABLE {db}.codes_dedup_buf SYNC")
    deployment.each_shard(
        f"CREATE TABLE {db}.codes_dedup_buf AS {db}.codes ENGINE = MergeTree "
        "PARTITION BY toYYYYMMDD(opd) ORDER BY (c, opd, t)"
    )


def _load_as_the_old_job(deployment: Deployment, since: datetime, until: datetime) -> None:
    """Rows into RAW, some of them twice, and each day published by argMax column by column, as the old README has it.

    From each shard's own RAW: the old installation had one shard.
    """
    db = deployment.settings["CH_DB"]
    rows = [
        [list(cell) if isinstance(cell, tuple) else cell for cell in row] for row in deployment.expected(since, until)
    ]
    name, port = deployment.endpoints[0]
    client = Client(name, port, user=deployment.settings["CH_USER"], password=deployment.stack.env()["CH_PASSWORD"])
    insert = f"INSERT INTO {deployment.raw_all} ({', '.join(MAIN_COLUMNS)}, ingested_at) VALUES"
    for minutes, part in ((90, rows), (60, rows[::3])):
        read_at = ms(datetime.now(UTC) - timedelta(minutes=minutes))
        client.execute(insert, [[*row, read_at] for row in part], settings={"distributed_foreground_insert": 1})
    client.disconnect()
    others = ", ".join(f"argMax({column}, ingested_at)" for column in MAIN_COLUMNS[3:])
    day = since
    while day < until:
        part = f"{day:%Y%m%d}"
        for statement in (
            f"ALTER TABLE {db}.codes_dedup_buf DROP PARTITION {part}",
            f"INSERT INTO {db}.codes_dedup_buf ({', '.join(MAIN_COLUMNS)}) SELECT c, t, opd, {others} "
            f"FROM {db}.codes_raw WHERE toYYYYMMDD(opd) = {part} GROUP BY c, t, opd",
            f"ALTER TABLE {db}.codes REPLACE PARTITION {part} FROM {db}.codes_dedup_buf",
            f"ALTER TABLE {db}.codes_dedup_buf DROP PARTITION {part}",
        ):
            deployment.each_shard(statement)
        day += timedelta(days=1)


def _checked(deployment: Deployment, *checks: str) -> dict[str, str]:
    """The worst verdict of each of ``checks``, as doctor says it."""
    found = json.loads(deployment.cli("doctor", *checks, "--json", expect=None).stdout)["checks"]
    verdicts = {name: [each["verdict"] for each in found if each["check"] == name] for name in checks}
    order = ["ok", "not checked", "warn", "fail"]
    return {name: max(said, key=order.index) for name, said in verdicts.items()}


def test_from_the_old_journal_and_its_clean_nothing_is_lost_and_nothing_doubled(old: Deployment) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    spec = DatasetSpec(rows=6000, days=4, seed=61, until_ms=ms(now))
    old.seed(Rows(spec))
    _load_as_the_old_job(old, OLDEST, LOADED_UNTIL)
    process = old.settings["PROCESS_NAME"]
    old.journal(
        "INSERT INTO {j} (process_name, status, ts_start, ts_end, watermark, details, host) VALUES "
        "(%s, 'ok', now() - interval '20 h', now() - interval '19 h', %s, '{\"rows\": 5}', 'old-1'), "
        "(%s, 'ok', now() - interval '18 h', now() - interval '17 h', %s, '{\"rows\": 7}', 'old-1'), "
        "(%s, 'running', now() - interval '16 h', NULL, %s, NULL, 'old-1')",
        process, WATERMARK - timedelta(hours=6), process, WATERMARK, process, WATERMARK + timedelta(hours=3),
    )  # fmt: skip
    assert old.assert_exact(OLDEST, LOADED_UNTIL) > 1000
    # RAW has forgotten the oldest day by its TTL: only CLEAN has it.
    old.each_shard(f"ALTER TABLE {old.settings['CH_DB']}.codes_raw DROP PARTITION {OLDEST:%Y%m%d}")

    assert _checked(old, "clean-version")["clean-version"] == "fail"

    migrated = old.cli("migrate")

    old.each_shard("SYSTEM FLUSH LOGS")
    # Nothing of the old form is left but its writer, who was here within the day: doctor names what it wrote.
    assert _checked(old, "raw-engine", "clean-version", "ttl", "old-job") == {
        "raw-engine": "ok", "clean-version": "ok", "ttl": "ok", "old-job": "fail"
    }  # fmt: skip
    assert f"INTO {old.settings['CH_DB']}.codes" in old.cli("doctor", "old-job", expect=1).stdout
    assert f"the watermark of {process} is {iso(WATERMARK)}" in migrated.stdout
    for name, new in (("CH_TABLE", "CH_CLEAN_TABLE"), ("HBASE_MAIN_COLUMNS", "MAIN_COLUMNS")):
        assert f"{name} (environment) is an old name; write {new} instead" in migrated.stderr
    assert old.query(f"SELECT DISTINCT toUnixTimestamp64Milli(ingested_at) FROM {old.clean_all}") == [(0,)]
    assert old.assert_exact(OLDEST, LOADED_UNTIL) > 1000

    # Since the old job's last read: rows inside the overlap changed, and others came.
    changed = Change(spec, rows=5, since_ms=ms(LOADED_UNTIL - OVERLAP), until_ms=ms(LOADED_UNTIL), version=1)
    old.seed(changed)
    old.seed(Late(spec, rows=80, since_ms=ms(LOADED_UNTIL - OVERLAP), until_ms=ms(now), version=2))
    old.start_worker()
    old.cli("run")

    (first,) = [run for run in old.runs() if run.host is None]
    assert (first.status, first.since) == ("ok", WATERMARK)
    slices = old.slices(first.id)
    assert slices[0].window_from == LOADED_UNTIL - OVERLAP
    assert slices[-1].window_to == first.covered_until - SHIFT
    assert first.watermark == first.covered_until > WATERMARK
    old.assert_exact(OLDEST, now)

    # Two hours of the oldest day again, of which RAW has nothing: the new versions win, the other 22 hours stay.
    window = (OLDEST + timedelta(hours=10), OLDEST + timedelta(hours=12))
    old.seed(Change(spec, rows=20, since_ms=ms(window[0]), until_ms=ms(window[1]), version=3))
    old.cli("run", "--manual", "--since", iso(window[0] + SHIFT), "--until", iso(window[1] + SHIFT))
    old.assert_exact(OLDEST, now)

    # What the old job wrote in the journal stays; what it left running is closed, with a reason.
    left = old.journal("SELECT status, details FROM {j} WHERE host = 'old-1' ORDER BY ts_start")
    assert [row.status for row in left] == ["ok", "ok", "error"]
    assert [row.details.get("rows") for row in left] == [5, 7, None]
    assert "heartbeat" in left[2].details["error"]
