"""Inserting, reading and finding one's way on two real ClickHouse nodes, with hosts that are dead, deaf or cut off."""

from __future__ import annotations

import dataclasses
import selectors
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from clickhouse_driver import Client

from etl_tasks.adapters.clickhouse import ClickHouseConfig, ClickHouseTarget, Host
from etl_tasks.adapters.clickhouse import client as client_module
from etl_tasks.adapters.clickhouse.client import Connection
from etl_tasks.adapters.clickhouse.ddl import CLUSTER, FILE, Form, TableNames, apply, split_statements, statements
from etl_tasks.core.batch import ColumnBatch
from etl_tasks.core.publishing import LoadedWindow, PublishRequest
from etl_tasks.core.windows import Window
from etl_tasks.errors import AuthenticationFailed, ConfigError, SchemaError, TerminalError, TransientError, Unreachable

# fmt: off
MAIN_COLUMNS = [
    "c", "t", "opd", "id", "did", "rid", "rinn", "rn", "sid", "sinn", "sn", "gt", "prid", "st", "ste", "elr", "emd",
    "apd", "exd", "p", "pt", "o", "pn", "b", "tt", "tm", "ch", "j", "pg", "et", "pvad", "ag",
]
# fmt: on
KEY = ["c", "t", "opd"]
MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
DAY = Window(MIDNIGHT, MIDNIGHT + timedelta(days=1))


@pytest.fixture
def blank(own_clickhouse: Callable[..., ClickHouseConfig]) -> Iterator[ClickHouseConfig]:
    """Settings for a database of this test's own, which is not there yet."""
    config = own_clickhouse("test_clickhouse", connect_timeout_s=2.0)
    try:
        yield config
    finally:
        everywhere(config, f"DROP DATABASE IF EXISTS {config.database} SYNC")


@pytest.fixture
def config(blank: ClickHouseConfig) -> ClickHouseConfig:
    """Settings for tables that are there and empty."""
    apply(blank)
    return blank


@pytest.fixture
def target(config: ClickHouseConfig) -> Iterator[ClickHouseTarget]:
    """The target over both hosts."""
    target = ClickHouseTarget(config, tag=f"test-{uuid.uuid4().hex[:8]}")
    yield target
    target.close()


def everywhere(config: ClickHouseConfig, sql: str) -> list[list[Any]]:
    """What each host answers."""
    answers = []
    for host in config.hosts:
        client = Client(host.name, port=host.port, user=config.user, password=config.password)
        answers.append(client.execute(sql))
        client.disconnect()
    return answers


def batch(count: int, **columns: list[Any]) -> ColumnBatch:
    """Keys a second apart from midnight on, and more columns."""
    all_columns: dict[str, list[Any]] = {
        "c": [f"010460'%{n}" for n in range(count)],
        "t": [1] * count,
        "opd": [DAY.start_ms + n * 1000 + 7 for n in range(count)],
        **columns,
    }
    return ColumnBatch(list(all_columns), list(all_columns.values()), count)


def now_ms() -> int:
    """A version."""
    return int(time.time() * 1000)


class Proxy:
    """A host in front of a real one that breaks off after so many bytes from the client, ``cuts`` times."""

    def __init__(self, behind: Host, after_bytes: int, cuts: int) -> None:
        self.behind = behind
        self.after_bytes = after_bytes
        self.cuts = cuts
        self.cut = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = Host("127.0.0.1", self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            far = socket.create_connection(self.behind)
            if not self.host.port:
                break
            thread = threading.Thread(target=self._pass_on, args=(near, far))
            self._threads.append(thread)
            thread.start()
        near.close()
        far.close()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        passed = 0
        with near, far, selectors.DefaultSelector() as selector:
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            while True:
                for key, _ in selector.select():
                    assert isinstance(key.fileobj, socket.socket)
                    try:
                        data = key.fileobj.recv(65536)
                        passed += len(data) if key.fileobj is near else 0
                        if data and passed > self.after_bytes and self.cut < self.cuts:
                            self.cut += 1
                            return
                        if not data:
                            return
                        key.data.sendall(data)
                    except ConnectionError:
                        return

    def close(self) -> None:
        """Stop listening and wait for the conversations to end."""
        port, self.host = self.host.port, Host("127.0.0.1", 0)
        socket.create_connection(("127.0.0.1", port)).close()
        for thread in self._threads:
            thread.join(timeout=10)
        self._listener.close()


def test_what_is_inserted_comes_back_exactly(target: ClickHouseTarget, config: ClickHouseConfig) -> None:
    texts = ["it's", '"quoted"', "back\\slash \\n", "tab\t\r\n", "%s %(x)s {}", "東京 🧀", "", None]
    values: dict[str, list[Any]] = {
        "id": list(texts),
        "st": [0, 255, None, 1, 2, 3, 4, 5],
        "exd": [253402300799999, -62135596800000, -1, 0, 1, None, 7, -86400001],
        "tt": [-(2**63), 2**63 - 1, None, 0, 1, 2, 3, 4],
        "ch": [[], ["a"], ["", "b'"], ["x"] * 50, [], [], [], []],
        "pg": [65535, 0, None, 1, 2, 3, 4, 5],
    }
    sent = batch(8, **values)
    version = now_ms()
    target.insert(sent, version)
    names = [*sent.names, "ingested_at"]
    found = sorted(target.rows(config.raw_table, DAY, names))
    assert found == sorted(zip(*sent.columns, [version] * 8, strict=True))


def test_an_insert_is_one_block_and_on_every_shard_when_it_returns(
    target: ClickHouseTarget, config: ClickHouseConfig
) -> None:
    everywhere(config, f"SYSTEM STOP MERGES {config.database}.codes_raw")
    count = 1_200_000  # more than the driver's and the server's own block sizes
    sent = ColumnBatch(["c", "t", "opd"], [[str(n) for n in range(count)], [1] * count, [DAY.start_ms] * count], count)
    target.insert(sent, now_ms())
    parts = everywhere(
        config, f"SELECT count(), sum(rows) FROM system.parts WHERE active AND database = '{config.database}'"
    )
    assert [found for [(found, _)] in parts] == [1, 1]
    assert sum(rows for [(_, rows)] in parts) == count


def test_an_empty_batch_is_no_insert_and_uneven_columns_are_refused(target: ClickHouseTarget) -> None:
    target.insert(ColumnBatch(["c", "t", "opd"], [[], [], []], 0), now_ms())
    with pytest.raises(TerminalError, match="other lengths"):
        target.insert(ColumnBatch(["c", "t", "opd"], [["a"], [], []], 1), now_ms())


@pytest.mark.parametrize("cuts", [1, 2, 9])
def test_a_host_that_breaks_off_in_the_middle_of_an_insert(config: ClickHouseConfig, cuts: int) -> None:
    proxy = Proxy(config.hosts[0], after_bytes=40_000, cuts=cuts)
    hosts = (proxy.host, config.hosts[1])
    target = ClickHouseTarget(dataclasses.replace(config, hosts=hosts, compression="none"))
    sent = batch(20_000, id=[None if n % 3 else f"value {n}" for n in range(20_000)])
    try:
        target.insert(sent, now_ms())
        found = sorted(target.rows(config.raw_table, DAY, ["c", "t", "opd", "id"]))
    finally:
        target.close()
        proxy.close()
    assert proxy.cut == min(cuts, 2)  # one repeat there, then the next host
    assert found == sorted(zip(*sent.columns, strict=True))


def test_dead_and_deaf_hosts_are_passed_over(config: ClickHouseConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PROBE_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        hosts = (Host("127.0.0.1", 1), Host("127.0.0.1", deaf.getsockname()[1]), config.hosts[1])
        target = ClickHouseTarget(dataclasses.replace(config, hosts=hosts))
        started = time.monotonic()
        target.insert(batch(10), now_ms())
        assert target.replicas() == [str(host) for host in config.hosts]
        target.close()
    assert time.monotonic() - started < 15
    assert sum(rows for [(rows,)] in everywhere(config, f"SELECT count() FROM {config.database}.codes_raw")) == 10


def test_when_no_host_answers_each_is_named(config: ClickHouseConfig) -> None:
    hosts = (Host("127.0.0.1", 1), Host("127.0.0.1", 2))
    target = ClickHouseTarget(dataclasses.replace(config, hosts=hosts))
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 .*127\.0\.0\.1:2 "):
        target.insert(batch(1), now_ms())
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 .*127\.0\.0\.1:2 "):
        target.kill_queries("test-nothing")


def test_a_refused_password_is_said_without_the_password(config: ClickHouseConfig) -> None:
    target = ClickHouseTarget(dataclasses.replace(config, password="s3cret-and-wrong"))
    with pytest.raises(AuthenticationFailed) as caught:
        target.insert(batch(1), now_ms())
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(target._config)


def test_what_does_not_fit_is_a_schema_error_and_nothing_is_inserted(
    target: ClickHouseTarget, config: ClickHouseConfig
) -> None:
    with pytest.raises(SchemaError, match="does not fit"):
        target.insert(batch(3, st=[1, 300, 2]), now_ms())
    with pytest.raises(SchemaError, match="no_such"):
        target.insert(batch(3, no_such=[1, 2, 3]), now_ms())
    assert target.count_windows(config.raw_table, [DAY]) == [0]
    target.insert(batch(3), now_ms())
    assert target.count_windows(config.raw_table, [DAY]) == [3]


def test_windows_are_half_open_and_raw_is_counted_without_repeats(
    target: ClickHouseTarget, config: ClickHouseConfig
) -> None:
    sent = batch(100)
    sent.columns[2] = [DAY.start_ms + n * 1000 for n in range(100)]
    for _ in range(3):
        target.insert(sent, now_ms())

    def seconds(first: int, past: int) -> Window:
        return Window(MIDNIGHT + timedelta(seconds=first), MIDNIGHT + timedelta(seconds=past))

    year = Window(MIDNIGHT - timedelta(days=300), MIDNIGHT + timedelta(days=2))
    windows = [seconds(10, 20), year, seconds(0, 10), seconds(15, 95), seconds(99, 200), seconds(100, 200)]
    assert target.count_windows(config.raw_table, windows) == [10, 100, 10, 80, 1, 0]
    assert target.count_windows(config.raw_table, []) == []
    assert sorted(row[2] for row in target.rows(config.raw_table, seconds(10, 12), ["c", "t", "opd"])) == [
        DAY.start_ms + 10_000,
        DAY.start_ms + 11_000,
    ]
    with pytest.raises(SchemaError, match="nope"):
        list(target.rows(config.raw_table, DAY, ["nope"]))


def test_rows_that_are_not_taken_to_the_end_do_not_spoil_the_next_statement(
    target: ClickHouseTarget, config: ClickHouseConfig
) -> None:
    target.insert(batch(1000), now_ms())
    some = target.rows(config.raw_table, DAY, ["c"])
    next(some)
    some.close()  # type: ignore[attr-defined]
    assert target.count_windows(config.raw_table, [DAY]) == [1000]


def test_the_tables_are_checked_for_all_faults_at_once(target: ClickHouseTarget, config: ClickHouseConfig) -> None:
    columns = target.check_tables(MAIN_COLUMNS, KEY)
    assert [column.name for column in columns][: len(MAIN_COLUMNS)] == MAIN_COLUMNS
    assert {column.name: column.type for column in columns}["ch"] == "Array(String)"
    assert target.datetime64_range_ms() == (-62135596800000, 253402300799999)
    everywhere(config, f"ALTER TABLE {config.dedup_buf_table} MODIFY COLUMN pg Nullable(UInt32)")
    everywhere(config, f"ALTER TABLE {config.clean_table} DROP COLUMN j, ADD COLUMN extra Int8")
    with pytest.raises(SchemaError) as caught:
        target.check_tables([*MAIN_COLUMNS, "missing"], KEY)
    for said in ("missing", "pg", "codes on", "extra", str(config.hosts[1])):
        assert said in str(caught.value)
    with pytest.raises(SchemaError, match="migrate"):
        target.columns(f"{config.database}.nowhere")


def test_tables_sorted_by_another_key_than_the_sources_are_refused(
    target: ClickHouseTarget, config: ClickHouseConfig
) -> None:
    target.check_tables(MAIN_COLUMNS, ["opd", "t", "c"])
    for key in (["c", "t", "opd", "id"], ["c", "opd"]):
        with pytest.raises(SchemaError) as caught:
            target.check_tables(MAIN_COLUMNS, key)
        for table in ("codes", "codes_raw"):
            for host in config.hosts:
                said = (
                    f"{config.database}.{table} on {host} is ordered by c, opd, t; it must be ordered by the source's"
                )
                assert said in str(caught.value)
        assert f"primary key ({', '.join(key)})" in str(caught.value)


@pytest.mark.parametrize("sharding", ["rand()", "cityHash64(ingested_at)", "cityHash64(c, rand())", None])
def test_a_sharding_that_spreads_a_key_is_refused(config: ClickHouseConfig, sharding: str | None) -> None:
    table = config.raw_table
    argument = f", {sharding}" if sharding else ""
    everywhere(config, f"DROP TABLE {table} SYNC")
    everywhere(
        config,
        f"CREATE TABLE {table} AS {config.database}.codes_raw "
        f"ENGINE = Distributed('{config.cluster}', '{config.database}', 'codes_raw'{argument})",
    )
    target = ClickHouseTarget(config)
    with pytest.raises(SchemaError, match="hash of columns of the key"):
        target.check_tables(MAIN_COLUMNS, KEY)
    target.close()


def test_queries_are_killed_by_the_beginning_of_their_id(target: ClickHouseTarget, config: ClickHouseConfig) -> None:
    failures: list[Exception] = []
    slow = (
        "SELECT sleepEachRow(0.1) FROM numbers(600) "
        "SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0"
    )

    def run() -> None:
        connection = Connection(config, config.hosts[1])
        try:
            connection.execute(slow, tag=target.tag)
        except TransientError as error:
            failures.append(error)
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    # Killed while it begins it may end without an error.
    count = f"SELECT count() FROM system.processes WHERE startsWith(query_id, '{target.tag}') AND read_rows > 0"
    deadline = time.monotonic() + 10
    while everywhere(config, count)[1] == [(0,)] and time.monotonic() < deadline:
        time.sleep(0.05)
    target.kill_queries(target.tag)
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert "QUERY_WAS_CANCELLED" in str(failures[0])
    with pytest.raises(ValueError, match="empty tag"):
        target.kill_queries(" ")


def test_a_setting_that_the_server_does_not_know_is_an_error(config: ClickHouseConfig) -> None:
    connection = Connection(config, config.hosts[0])
    with pytest.raises(TerminalError, match="does not know the setting no_such_setting"):
        connection.execute("SELECT 1", tag="test", settings={"no_such_setting": 1})
    connection.close()


def test_one_plain_node_is_the_same_code(blank: ClickHouseConfig) -> None:
    config = dataclasses.replace(blank, cluster=None, hosts=blank.hosts[:1])
    assert "node" in " ".join(apply(config))
    target = ClickHouseTarget(config)
    target.check_tables(MAIN_COLUMNS, KEY)
    target.insert(batch(100), now_ms())
    target.insert(batch(100), now_ms() + 1)
    assert target.count_windows(config.raw_table, [DAY]) == [100]
    request = PublishRequest(int(f"{MIDNIGHT:%Y%m%d}"), now_ms(), [LoadedWindow(1, DAY, 100)])
    result = target.publish(request, checkpoint=lambda: None, before_replace=lambda: None, on_stage=lambda metric: None)
    assert [(shard.rows_before, shard.rows_after) for shard in result.shards] == [(0, 100)]
    assert target.count_windows(config.clean_all_table, [DAY]) == [100]
    names = ["c", "opd_local", "opd_local_date"]
    assert len(list(target.rows(config.clean_all_table, DAY, names))) == 100
    target.close()
    with pytest.raises(ConfigError, match="CH_CLUSTER"):
        apply(dataclasses.replace(blank, cluster=None))


Columns = Sequence[tuple[str, ...]]


def columns_of(config: ClickHouseConfig) -> list[dict[str, Columns]]:
    """The columns of every table of the database on each host that has them."""
    sql = (
        "SELECT table, name, type, default_kind, default_expression, compression_codec FROM system.columns "
        f"WHERE database = '{config.database}' ORDER BY table, position"
    )
    found = []
    for answer in everywhere(config, sql):
        tables: dict[str, list[tuple[str, ...]]] = {}
        for table, *column in answer:
            tables.setdefault(table, []).append(tuple(column))
        found.append(tables)
    return found  # type: ignore[return-value]


def test_the_forms_have_the_same_columns_in_every_table(blank: ClickHouseConfig) -> None:
    apply(blank)
    on_shards = columns_of(blank)
    assert on_shards[0] == on_shards[1]
    everywhere(blank, f"DROP DATABASE {blank.database} SYNC")
    node = dataclasses.replace(blank, cluster=None, hosts=blank.hosts[:1])
    apply(node)
    (on_node,) = columns_of(node)
    everywhere(blank, f"DROP DATABASE IF EXISTS {blank.database} SYNC")
    # The replicated form cannot run without Keeper: its engines are made plain, its columns stay as they are.
    plain = [
        statement
        for statement in statements(Form.SHARDS, TableNames.of(blank), blank.cluster)
        if statement.startswith(("CREATE DATABASE", "CREATE TABLE", "ALTER TABLE"))
    ]
    replicated = statements(Form.REPLICATED, TableNames.of(blank), blank.cluster)
    assert len(plain) == len(replicated)
    names = [name for name, *_ in on_node["codes"]]
    assert names == [*MAIN_COLUMNS, "ingested_at", "opd_local", "opd_local_date"]
    for tables in (*on_shards, on_node):
        assert set(tables) == {"codes", "codes_all", "codes_dedup_buf", "codes_raw", "codes_raw_all"}
        for columns in tables.values():
            assert [column[:4] for column in columns] == [column[:4] for column in on_node["codes"]]
        assert tables["codes"] == tables["codes_raw"] == tables["codes_dedup_buf"]


def test_every_form_is_what_clickhouse_itself_can_parse(blank: ClickHouseConfig) -> None:
    host = blank.hosts[0]
    client = Client(host.name, port=host.port, user=blank.user, password=blank.password)
    as_it_is = split_statements(FILE.read_text(encoding="utf-8"))
    assert all(CLUSTER in statement for statement in as_it_is)
    for form in Form:
        cluster = None if form is Form.NODE else blank.cluster
        for statement in (*as_it_is, *statements(form, TableNames.of(blank), cluster)):
            ((formatted,),) = client.execute("SELECT formatQuery(%(statement)s)", {"statement": statement})
            assert formatted
    client.disconnect()


def test_migrate_again_changes_nothing(config: ClickHouseConfig) -> None:
    before = everywhere(
        config, f"SELECT name, uuid, create_table_query FROM system.tables WHERE database = '{config.database}'"
    )
    assert len(apply(config)) == len(config.hosts)
    assert before == everywhere(
        config, f"SELECT name, uuid, create_table_query FROM system.tables WHERE database = '{config.database}'"
    )


def test_a_clean_table_of_the_old_system_gets_a_version_that_loses(blank: ClickHouseConfig) -> None:
    apply(blank)
    for table in (blank.clean_table, blank.clean_all_table, blank.dedup_buf_table):
        if table == blank.dedup_buf_table:
            everywhere(blank, f"DROP TABLE {table} SYNC")
            everywhere(
                blank,
                f"CREATE TABLE {table} AS {blank.clean_table} ENGINE = MergeTree "
                "PARTITION BY toYYYYMMDD(opd) ORDER BY (c, opd, t)",
            )
        else:
            everywhere(blank, f"ALTER TABLE {table} DROP COLUMN ingested_at")
    everywhere(
        blank, f"INSERT INTO {blank.clean_table} (c, t, opd, id) VALUES ('old', 1, '{MIDNIGHT:%Y-%m-%d}', 'was')"
    )
    target = ClickHouseTarget(blank)
    with pytest.raises(SchemaError, match="ingested_at"):
        target.check_tables(MAIN_COLUMNS, KEY)
    apply(blank)
    target.check_tables(MAIN_COLUMNS, KEY)
    versions = everywhere(blank, f"SELECT toUnixTimestamp64Milli(ingested_at) FROM {blank.clean_table}")
    assert versions == [[(0,)], [(0,)]]
    target.close()


def test_an_unreachable_host_keeps_migrate_from_saying_it_is_done(blank: ClickHouseConfig) -> None:
    config = dataclasses.replace(blank, cluster=None, hosts=(Host("127.0.0.1", 1),))
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        apply(config)
