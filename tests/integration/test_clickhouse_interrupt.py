"""Threads that wait for a real ClickHouse node are ended from another thread."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable

from etl_tasks.adapters.clickhouse import ClickHouseConfig, Host
from etl_tasks.adapters.clickhouse import client as client_module
from etl_tasks.adapters.clickhouse.client import Connection
from etl_tasks.errors import Unreachable
from tests.integration.test_clickhouse import blank, config, everywhere

__all__ = ["blank", "config"]


def _at_work(work: Callable[[], None], config: ClickHouseConfig, tag: str) -> threading.Thread:
    """A thread that does the work, whose statement runs on the first host."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    count = f"SELECT count() FROM system.processes WHERE startsWith(query_id, '{tag}')"
    deadline = time.monotonic() + 10
    while everywhere(config, count)[0] == [(0,)]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return thread


def test_whoever_is_interrupted_while_waiting_gets_an_error_and_asks_nothing_more(config: ClickHouseConfig) -> None:
    connection = Connection(config, config.hosts[0])
    tag = f"test-{uuid.uuid4().hex[:8]}"
    said: list[Exception] = []

    def work() -> None:
        for _ in range(2):
            try:
                connection.execute("SELECT sleepEachRow(1) FROM numbers(60) SETTINGS max_block_size = 1", tag=tag)
            except Unreachable as error:
                said.append(error)

    thread = _at_work(work, config, tag)

    connection.interrupt()

    thread.join(timeout=10)
    assert not thread.is_alive()
    connection.close()
    assert "broke off" in str(said[0])
    assert "is asked nothing more" in str(said[1])


def test_a_thread_interrupted_at_any_moment_ends(config: ClickHouseConfig) -> None:
    """Where its socket was closed under it instead, 3 of 14 such threads waited on, for up to 300 s."""
    moments = random.Random(7)
    ended = 0
    for _ in range(60):
        connection = Connection(config, config.hosts[0])
        thread = threading.Thread(target=_ask_until_refused, args=(connection,), daemon=True)
        thread.start()
        time.sleep(moments.random() * 0.04)
        for _ in range(10):
            connection.interrupt()
            # What takes the number of a closed socket.
            client_module.probe(config, config.hosts[1])
            thread.join(timeout=1)
            if not thread.is_alive():
                ended += 1
                break
        connection.close()
    assert ended == 60


def _ask_until_refused(connection: Connection) -> None:
    for _ in range(10_000):
        try:
            connection.execute("SELECT groupArray(name) FROM system.columns WHERE database = 'system'", tag="test")
        except Unreachable:
            return


def test_whoever_waits_for_any_host_is_interrupted_and_no_other_host_is_tried(config: ClickHouseConfig) -> None:
    failover = client_module.Failover(config)
    tag = f"test-{uuid.uuid4().hex[:8]}"
    asked: list[Host] = []
    said: list[Unreachable] = []

    def ask(connection: Connection) -> None:
        asked.append(connection.host)
        connection.execute("SELECT sleepEachRow(1) FROM numbers(60) SETTINGS max_block_size = 1", tag=tag)

    def work() -> None:
        try:
            failover.run(ask)
        except Unreachable as error:
            said.append(error)

    thread = _at_work(work, config, tag)

    failover.interrupt()

    thread.join(timeout=10)
    assert not thread.is_alive()
    failover.close()
    assert set(asked) == {config.hosts[0]}
    assert "is asked nothing more" in str(said[0])
