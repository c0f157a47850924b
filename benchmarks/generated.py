"""A day of rows that ClickHouse makes itself, in the product's own tables on one node or two shards, and what is to
come of them.

A row's values follow from its number and its version, so that what CLEAN must hold is computed from ``numbers()``
alone, without RAW and without any publish.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from clickhouse_driver import Client

from devstack.clickhouse import CLUSTER
from devstack.deployment import midnight, ms
from etl_tasks.adapters.clickhouse import ClickHouseConfig, ClickHouseTarget, Host
from etl_tasks.adapters.clickhouse.ddl import apply
from etl_tasks.core.publishing import LoadedWindow, PublishRequest
from etl_tasks.core.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devstack.stack import Stack

T = TypeVar("T")
MEMORY_BYTES = 3_000_000_000
"""What a statement may hold; and half of it, before it goes on on disk where its form can."""
LIMITS = {
    "max_memory_usage": MEMORY_BYTES,
    "max_bytes_before_external_group_by": MEMORY_BYTES // 2,
    "max_bytes_before_external_sort": MEMORY_BYTES // 2,
    "max_execution_time": 3_600,
}
DAY_MS = 86_400_000
KEY = ("c", "opd", "t")
VERSION = "ingested_at"

# ``h`` is of the row's number, ``v`` of its number and version; {time} is the row's millisecond.
EXPRESSIONS: Mapping[str, str] = {
    "c": "concat('010460', leftPad(toString(h % 100000000), 8, '0'), '21', hex(cityHash64(h, 7)), char(33 + h % 14))",
    "t": "toUInt8(1 + number % 3)",
    "opd": "fromUnixTimestamp64Milli(toInt64({time}), 'UTC')",
    "id": "toString(h)",
    "did": "toString(v % 100000)",
    "rid": "hex(v)",
    "rinn": "toString(h % 10000)",
    "rn": "concat('name of ', toString(v % 5000))",
    "sid": "hex(v + 1)",
    "sinn": "toString(h % 9999)",
    "sn": "NULL",
    "gt": "concat('0460', toString(h % 100000))",
    "prid": "toString(v % 77777)",
    "st": "toUInt8(v % 5)",
    "ste": "toUInt8(v % 7)",
    "elr": "toUInt8(v % 3)",
    "emd": "fromUnixTimestamp64Milli(toInt64({time} + v % 1000000), 'UTC')",
    "apd": "fromUnixTimestamp64Milli(toInt64({time} + v % 9000000), 'UTC')",
    "exd": "fromUnixTimestamp64Milli(toInt64({time} + v % 100000), 'UTC')",
    "p": "hex(h)",
    "pt": "toUInt8(v % 9)",
    "o": "hex(h + 2)",
    "pn": "hex(v + 3)",
    "b": "toString(v % 1000)",
    "tt": "toInt64(v % 1000000000)",
    "tm": "fromUnixTimestamp64Milli(toInt64({time} + v % 7000000), 'UTC')",
    "ch": "if(number % 3 = 0, [hex(v), hex(h)], [])",
    "j": """concat('{{"k":"', hex(v), '","n":', toString(v % 1000), '}}')""",
    "pg": "toUInt16(v % 60000)",
    "et": "toUInt8(v % 11)",
    "pvad": "if(v % 4 = 0, hex(h), NULL)",
    "ag": """if(v % 8 = 0, concat('{{"ag":"', hex(v), '"}}'), NULL)""",
}
NARROW = ("c", "t", "opd", "id", "did", "st", "emd", "tt", "pvad")


@dataclass(frozen=True)
class Cost:
    """What statements took: seconds as seen from outside, the most memory that one held on a node, CPU seconds of all
    nodes' servers.
    """

    seconds: float
    peak_mb: float
    cpu_s: float


class GeneratedDay:
    """Yesterday's partition in a database of its own; a context manager removes it.

    It is on the stack's first node, or with ``shards`` on both of them, each of which has every other row. ``columns``
    are the table's, ``None`` for all 32. RAW merges nothing, so that its repeats stay.
    """

    def __init__(
        self,
        stack: Stack,
        name: str,
        spread_rows: int,
        columns: tuple[str, ...] | None = None,
        *,
        shards: bool = False,
    ) -> None:
        env = stack.env()
        self.database = f"bench_{name}_{uuid.uuid4().hex[:8]}"
        addresses = [address.rpartition(":") for address in env["CH_HOSTS"].split(",")]
        over_all = "_all" if shards else ""
        self.config = ClickHouseConfig(
            hosts=tuple(Host(host, int(port)) for host, _, port in addresses[: None if shards else 1]),
            user=env["CH_USER"],
            password=env["CH_PASSWORD"],
            database=self.database,
            raw_table=f"{self.database}.codes_raw{over_all}",
            clean_table=f"{self.database}.codes",
            clean_all_table=f"{self.database}.codes{over_all}",
            dedup_buf_table=f"{self.database}.codes_dedup_buf",
            cluster=CLUSTER if shards else None,
        )
        self.raw_table = f"{self.database}.codes_raw"
        """Each node's own."""
        self.columns = columns or tuple(EXPRESSIONS)
        self.since = midnight(1)
        self.day = Window(self.since, self.since + timedelta(days=1))
        self.partition = int(f"{self.since:%Y%m%d}")
        self._step = max(1, DAY_MS // spread_rows)
        self._token = time.time_ns() // 1_000_000
        self._nodes = [self._connect(host) for host in self.config.hosts]
        self._pool = ThreadPoolExecutor(len(self._nodes))
        self._target = ClickHouseTarget(self.config)

    def __enter__(self) -> GeneratedDay:
        apply(self.config)
        dropped = [f"DROP COLUMN {name}" for name in EXPRESSIONS if name not in self.columns]
        over_all = (self.config.raw_table, self.config.clean_all_table)
        for table in dict.fromkeys((self.config.clean_table, self.config.dedup_buf_table, self.raw_table, *over_all)):
            if dropped:
                self.query(f"ALTER TABLE {table} {', '.join(dropped)}")
        self.query(f"SYSTEM STOP MERGES {self.raw_table}")
        return self

    def __exit__(self, *_: object) -> None:
        self._target.close()
        self.query(f"DROP DATABASE IF EXISTS {self.database} SYNC", max_table_size_to_drop=0)
        for node in self._nodes:
            node.disconnect()
        self._pool.shutdown()

    def query(self, sql: str, **settings: Any) -> list[tuple[Any, ...]]:
        """The rows of one statement, every node's."""
        found = self._on_each(lambda _, node: node.execute(sql, settings={**LIMITS, **settings}))
        return [row for rows in found if isinstance(rows, list) for row in rows]

    def fill(self, first: int, rows: int, version: int) -> float:
        """Insert rows by number into RAW, in seconds, which hold their making; a higher version is a later one."""
        began = time.monotonic()

        def insert(number: int, node: Client) -> None:
            nodes = len(self._nodes)
            skipped = (number - first) % nodes
            its_own = f"numbers({first + skipped}, {rows - skipped}, {nodes})"
            # In blocks of the product's size; one thread, as one worker after the other would.
            node.execute(
                f"INSERT INTO {self.raw_table} ({', '.join((*self.columns, VERSION))}) "
                f"{self._select(f'{version}', its_own, f'now64(3) - 1000 + {version}')}",
                settings={**LIMITS, "max_insert_threads": 1},
            )

        self._on_each(insert)
        return time.monotonic() - began

    def expected(self, rows: int, newer: range) -> tuple[int, int]:
        """Rows and hash of all columns of numbers ``0 .. rows``, of which those of ``newer`` are in version 2."""
        version = f"if(number >= {newer.start} AND number < {newer.stop}, 2, 1)"
        made = f"({self._select(version, f'numbers({rows})', 'now64(3)')})"
        return _sum(self._nodes[0].execute(self._digest(made), settings=LIMITS))

    def found(self, table: str) -> tuple[int, int]:
        """Rows and hash of all columns of a table, of all nodes together."""
        return _sum(self.query(self._digest(table)))

    def publish(self, window: Window | None = None) -> Cost:
        """One publish by the product, of the rows that RAW has of the window (the day)."""
        self._token += 1
        request = PublishRequest(self.partition, self._token, [LoadedWindow(1, window or self.day, 0)])
        with self._merging() as merge_peak:
            began = time.monotonic()
            self._target.publish(
                request,
                checkpoint=lambda: None,
                before_replace=lambda: None,
                on_stage=lambda metric: print(f"    {metric.stage} {metric.ms} ms", flush=True),
            )
            seconds = time.monotonic() - began
        cost = self._cost(f"etl-publish-{self.config.clean_table}-{self.partition}-{self._token}", seconds)
        return Cost(seconds, max(cost.peak_mb, merge_peak[0]), cost.cpu_s)

    def timed(self, statements: list[str]) -> Cost:
        """The cost of statements, one after the other, on all nodes side by side."""
        tag = f"bench-{uuid.uuid4().hex}"
        began = time.monotonic()

        def run(_: int, node: Client) -> None:
            for number, sql in enumerate(statements):
                node.execute(sql, settings=LIMITS, query_id=f"{tag}-{number}")

        self._on_each(run)
        return self._cost(tag, time.monotonic() - began)

    def _on_each(self, step: Callable[[int, Client], T]) -> list[T]:
        """``step`` with every node's place and connection, side by side; raises what a node raised when all ended."""
        taken = [self._pool.submit(step, number, node) for number, node in enumerate(self._nodes)]
        wait(taken)
        return [one.result() for one in taken]

    def _select(self, version: str, source: str, stamp: str) -> str:
        time_sql = f"({self.day.start_ms} + (number * {self._step}) % {DAY_MS})"
        values = ", ".join(f"{EXPRESSIONS[name].format(time=time_sql)} AS {name}" for name in self.columns)
        return (
            f"WITH cityHash64(number) AS h, cityHash64(number, {version}) AS v "
            f"SELECT {values}, {stamp} AS {VERSION} FROM {source}"
        )

    def _digest(self, source: str) -> str:
        # As text, since a hash of NULL is NULL.
        return f"SELECT count(), sum(cityHash64(toString(tuple({', '.join(self.columns)})))) FROM {source}"

    def _cost(self, tag: str, seconds: float) -> Cost:
        self.query("SYSTEM FLUSH LOGS")
        costs = self.query(
            "SELECT max(memory_usage) / 1e6, "
            "sum(ProfileEvents['UserTimeMicroseconds'] + ProfileEvents['SystemTimeMicroseconds']) / 1e6 "
            f"FROM system.query_log WHERE startsWith(query_id, '{tag}') AND type <> 'QueryStart'"
        )
        return Cost(seconds, max(float(peak) for peak, _ in costs), sum(float(cpu) for _, cpu in costs))

    @contextmanager
    def _merging(self) -> Iterator[list[float]]:
        """The most memory that a merge of this database held, in MB: a merge is not on its statement's account."""
        most = [0.0]
        over = threading.Event()

        def watch() -> None:
            clients = [self._connect(host) for host in self.config.hosts]
            while not over.wait(0.1):
                for client in clients:
                    ((held,),) = client.execute(
                        f"SELECT max(memory_usage) / 1e6 FROM system.merges WHERE database = '{self.database}'"
                    )
                    most[0] = max(most[0], float(held or 0))
            for client in clients:
                client.disconnect()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield most
        finally:
            over.set()
            watcher.join()

    def _connect(self, host: Host) -> Client:
        return Client(
            host.name,
            port=host.port,
            user=self.config.user,
            password=self.config.password,
            send_receive_timeout=3_600,
        )


def _sum(digests: list[tuple[int, int]]) -> tuple[int, int]:
    """Rows and hash of several parts of one table. ClickHouse's sum of UInt64 wraps, and so does this one."""
    return sum(rows for rows, _ in digests), sum(digest for _, digest in digests) % 2**64


def window_of(day: GeneratedDay, first_minute: int, minutes: int) -> Window:
    """Minutes of the day."""
    since = day.since + timedelta(minutes=first_minute)
    assert ms(since) >= day.day.start_ms
    return Window(since, since + timedelta(minutes=minutes))
