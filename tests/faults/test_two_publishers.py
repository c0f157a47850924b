"""Two live publishers of one partition that both believe they hold the lock, in forty random interleavings.

The fence is real (tokens of the journal in PostgreSQL, buffers named by them in ClickHouse); what is taken away is all
that only saves work: lock and leases.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import psycopg2
import pytest
from clickhouse_driver import Client

from devstack.clean_reader import CleanReader
from devstack.deployment import midnight, ms
from devstack.stack import Stack
from etl_tasks.adapters.clickhouse import ClickHouseConfig, ClickHouseTarget, Host, ddl, publish
from etl_tasks.adapters.clickhouse.buffers import Fence
from etl_tasks.adapters.clickhouse.identifiers import TableName
from etl_tasks.adapters.journal import JournalConfig
from etl_tasks.adapters.journal.database import Database
from etl_tasks.core.batch import ColumnBatch
from etl_tasks.core.publishing import LoadedWindow, PublishRequest
from etl_tasks.core.windows import Window
from etl_tasks.errors import LostOwnership, TransientError

SEEDS = range(40)
DAY = Window(midnight(1), midnight(1) + timedelta(days=1))
PARTITION = int(f"{DAY.start:%Y%m%d}")
KEYS = 300
STAGES = (
    *("drop_buf", "attach_clean", "insert_dedup", "optimize_buf", "check"),
    *("replace_clean", "materialize_ttl", "drop_buf_cleanup"),
)
PLACES = [(stage, when) for stage in STAGES for when in ("before", "after")]
LONGEST_PAUSE_S = 0.04
Row = tuple[str, int, int, str, None]


@dataclass
class Publisher:
    """One publisher's thread, and what became of it."""

    name: str
    token: int = 0
    error: Exception | None = None
    ended_at: float = 0.0


@dataclass
class Arena:
    """CLEAN and RAW in a database of the test's own, the fence in a schema of the journal."""

    config: ClickHouseConfig
    fences: JournalConfig
    version_ms: int = field(default_factory=lambda: int(time.time() * 1000))
    expected: dict[tuple[str, int, int], Row] = field(default_factory=dict)
    keys: int = 0

    def load(self, text: str, new_keys: int) -> None:
        """Every key gets this text, and some keys are new; into RAW."""
        self.keys = max(self.keys, KEYS) + new_keys
        self.version_ms += 1
        rows: list[Row] = [(f"0104'{n}", 1, ms(DAY.start) + n * 1000, text, None) for n in range(self.keys)]
        self.expected = {row[:3]: row for row in rows}
        target = ClickHouseTarget(self.config)
        columns = [list(column) for column in zip(*rows, strict=True)]
        target.insert(ColumnBatch(["c", "t", "opd", "id", "exd"], columns, len(rows)), self.version_ms)
        target.close()

    def publish(self, publisher: Publisher) -> None:
        """One publish under the newest token; its error, if any, stays in ``publisher``."""
        database, target = Database(self.fences), ClickHouseTarget(self.config)
        clean_table = self.config.clean_table

        def still_newest() -> None:
            # As the pipeline asks before the first REPLACE, without lock and lease.
            if self.newest_token() != publisher.token:
                raise LostOwnership("a newer token was given")

        try:
            with database.transaction() as transaction:
                publisher.token = int(transaction.one("next_token", clean_table=clean_table).token)
            target.publish(
                PublishRequest(PARTITION, publisher.token, [LoadedWindow(1, DAY, KEYS)]),
                checkpoint=lambda: None,
                before_replace=still_newest,
                on_stage=lambda metric: None,
            )
        except Exception as error:
            publisher.error = error
        finally:
            publisher.ended_at = time.monotonic()
            target.close()
            database.close()

    def newest_token(self) -> int:
        """The token that the journal gave last."""
        connection = psycopg2.connect(self.fences.dsn)
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT token FROM {self.fences.table}_fences")
                (row,) = cursor.fetchall()
        finally:
            connection.close()
        return int(row[0])

    def clean(self) -> list[Row]:
        """CLEAN over all shards."""
        target = ClickHouseTarget(self.config)
        rows = sorted(target.rows(self.config.clean_all_table, DAY, ["c", "t", "opd", "id", "exd"]))
        target.close()
        return rows  # type: ignore[return-value]

    def buffers(self) -> list[str]:
        """What publishes have left on any shard."""
        left = []
        for host in self.config.hosts:
            client = Client(host.name, port=host.port, user=self.config.user, password=self.config.password)
            sql = f"SELECT name FROM system.tables WHERE database = '{self.config.database}' AND name LIKE '%buf_2%'"
            left += [name for (name,) in client.execute(sql)]
            client.disconnect()
        return left

    def reader(self) -> CleanReader:
        """A reader of CLEAN on every shard."""
        endpoints = [(host.name, host.port) for host in self.config.hosts]
        return CleanReader(endpoints, self.config.user, self.config.password, self.config.clean_table)


@pytest.fixture
def arena(stack: Stack) -> Iterator[Arena]:
    """Tables and fence, with ``KEYS`` rows published once."""
    env, database = stack.env(), f"two_publishers_{uuid.uuid4().hex[:8]}"
    hosts = tuple(Host(name, int(port)) for name, _, port in (one.partition(":") for one in env["CH_HOSTS"].split(",")))
    config = ClickHouseConfig(
        hosts=hosts,
        user=env["CH_USER"],
        password=env["CH_PASSWORD"],
        database=database,
        raw_table=f"{database}.codes_raw_all",
        clean_table=f"{database}.codes",
        clean_all_table=f"{database}.codes_all",
        dedup_buf_table=f"{database}.codes_dedup_buf",
        cluster=env["CH_CLUSTER"],
        publish_drain_timeout_s=20.0,
    )
    ddl.apply(config)
    arena = Arena(config, JournalConfig(env["PG_DSN"], f"{database}.inc_processing"))
    fences = Database(arena.fences)
    fences.ensure()
    fences.close()
    arena.load("first", 0)
    arena.publish(Publisher("first"))
    yield arena
    for host in hosts:
        client = Client(host.name, port=host.port, user=config.user, password=config.password)
        client.execute(f"DROP DATABASE {database} SYNC")
        client.disconnect()
    connection = psycopg2.connect(arena.fences.dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA {database} CASCADE")
    connection.close()


@dataclass(frozen=True)
class Outcome:
    """How a round ended: ``faults`` is empty when all was right."""

    faults: tuple[str, ...]
    older: str
    newer: str
    overlapped: bool


def test_in_forty_interleavings_the_newer_one_wins_and_readers_see_whole_partitions(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = [play(arena, seed, monkeypatch) for seed in SEEDS]

    wrong = {seed: outcome.faults for seed, outcome in zip(SEEDS, outcomes, strict=True) if outcome.faults}
    assert not wrong
    seen = Counter(outcome.older for outcome in outcomes)
    # The interleavings were of every kind: the older one got through before the newer one, and was stopped on its way.
    assert seen["published"] >= 3, seen
    assert seen["LostOwnership"] + seen["NewerPublish"] >= 10, seen
    assert all(outcome.overlapped for outcome in outcomes)
    assert arena.buffers() == []


def test_with_one_buffer_for_both_the_same_interleavings_go_wrong(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As it was in the system this one replaces: the buffer's name does not say whose it is.
    def shared(self: Fence) -> TableName:
        return TableName(self.template.database, f"{self.template.table}_{self.partition:d}_0")

    monkeypatch.setattr(Fence, "buffer", property(shared))

    wrong: list[Outcome] = []
    for seed in SEEDS:
        outcome = play(arena, seed, monkeypatch)
        # A publisher that ends in an error has done no harm: only what CLEAN or its reader shows counts.
        if any(not fault.startswith(("the newer one", "the older one")) for fault in outcome.faults):
            wrong.append(outcome)
        if len(wrong) == 3:
            break

    assert wrong, "40 of 40 were right: the test of the fence shows nothing"


def play(arena: Arena, seed: int, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """One round: an older publisher, newer rows, a newer publisher, each pausing where the seed says.

    The older one waits at the seed's place until the newer one has been started; from there on chance decides.
    """
    place = (*PLACES[seed % len(PLACES)], 1 + seed // len(PLACES) % 2)
    older, newer = Publisher("older"), Publisher("newer")
    there, go_on = threading.Event(), threading.Event()

    def pause(name: object, *, token: int, stage: str, when: str, shard: int, partition: int) -> None:
        who = newer if token == newer.token else older
        if who is older and (stage, when, shard) == place:
            there.set()
            assert go_on.wait(60)
        # By the place, not by the order of arrival: a seed's pauses are the same however threads are scheduled.
        time.sleep(random.Random(f"{seed} {who.name} {stage} {when} {shard}").uniform(0, LONGEST_PAUSE_S))

    monkeypatch.setattr(publish, "reach", pause)
    with arena.reader() as reader:
        arena.load(f"older rows of {seed}", new_keys=1)
        threads = [threading.Thread(target=arena.publish, args=(one,)) for one in (older, newer)]
        threads[0].start()
        assert there.wait(60)
        arena.load(f"newer rows of {seed}", new_keys=1)
        began = time.monotonic()
        threads[1].start()
        time.sleep(random.Random(seed).uniform(0, 4 * LONGEST_PAUSE_S))
        go_on.set()
        for thread in threads:
            thread.join()
    clean = arena.clean()
    faults = list(reader.faults[:3])
    if newer.error is not None:
        faults.append(f"the newer one did not publish: {newer.error!r}")
    if older.error is not None and not isinstance(older.error, LostOwnership | TransientError):
        faults.append(f"the older one ended in {older.error!r}")
    if clean != sorted(arena.expected.values()):
        texts = Counter(row[3] for row in clean)
        faults.append(f"CLEAN has {len(clean)} rows of {len(arena.expected)}: {texts}")
    return Outcome(
        tuple(faults),
        type(older.error).__name__ if older.error else "published",
        type(newer.error).__name__ if newer.error else "published",
        overlapped=older.ended_at > began,
    )
