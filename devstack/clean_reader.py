"""A reader of CLEAN that looks at every shard again and again, as a dashboard would, and never may see less."""

from __future__ import annotations

import threading
from collections import Counter
from types import TracebackType

from clickhouse_driver import Client
from clickhouse_driver import errors as driver

EVERY_S = 0.1
LOOK = "SELECT toYYYYMMDD(opd) AS day, count(), uniqExact(c, t, opd) FROM {table} GROUP BY day"


class CleanReader:
    """Context manager. ``faults`` has a sentence for each partition seen gone, shrunk or with a key twice.

    Right only where no row leaves CLEAN by itself: no TTL that strikes, no deletes. A shard that is away is no fault;
    ``looks`` counts the answers, by shard.
    """

    def __init__(self, endpoints: list[tuple[str, int]], user: str, password: str, table: str) -> None:
        self._endpoints = endpoints
        self._login = {"user": user, "password": password}
        self._table = table
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self.looks: Counter[int] = Counter()
        self.away: Counter[int] = Counter()
        self.faults: list[str] = []
        self.most: dict[tuple[int, int], int] = {}

    def __enter__(self) -> CleanReader:
        self._threads = [
            threading.Thread(target=self._look_until_ended, args=(shard,), daemon=True, name=f"reader of shard {shard}")
            for shard in range(1, len(self._endpoints) + 1)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=15)

    def judge(self, shard: int, seen: dict[int, tuple[int, int]]) -> None:
        """Compare one look (partition → rows, keys) with the fullest before it."""
        for partition, (rows, keys) in seen.items():
            if rows != keys:
                self.faults.append(f"shard {shard}, {partition}: {rows} rows of {keys} keys")
            most = self.most.get((shard, partition), 0)
            if rows < most:
                self.faults.append(f"shard {shard}, {partition}: {rows} rows after {most}")
            self.most[shard, partition] = max(rows, most)
        for (where, partition), most in self.most.items():
            if where == shard and most and partition not in seen:
                self.faults.append(f"shard {shard}, {partition}: gone, it had {most} rows")

    def _look_until_ended(self, shard: int) -> None:
        try:
            self._look(shard)
        except Exception as error:
            self.faults.append(f"the reader of shard {shard} broke: {type(error).__name__}: {error}")

    def _look(self, shard: int) -> None:
        name, port = self._endpoints[shard - 1]
        client = self._client(name, port)
        sql = LOOK.format(table=self._table)
        while not self._ended.wait(EVERY_S):
            try:
                rows = client.execute(sql)
            except (driver.Error, OSError, EOFError):
                self.away[shard] += 1
                client.disconnect()
                client = self._client(name, port)
                self._ended.wait(0.2)
                continue
            self.looks[shard] += 1
            self.judge(shard, {day: (count, keys) for day, count, keys in rows})
        client.disconnect()

    def _client(self, name: str, port: int) -> Client:
        return Client(name, port, **self._login, connect_timeout=2, send_receive_timeout=5, sync_request_timeout=2)
