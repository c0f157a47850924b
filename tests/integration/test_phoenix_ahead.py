"""The next frame is asked for while one is decoded: by requests that the real Query Server got, and what is left."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
from phoenixdb.avatica.proto.common_pb2 import WireMessage
from phoenixdb.avatica.proto.responses_pb2 import FetchResponse

from devstack.dataset import MAIN_COLUMNS, rows_of
from devstack.query_server_proxy import QueryServerProxy
from devstack.relay import Relay
from etl_tasks.adapters.phoenix import PhoenixConfig, PhoenixSource, connection
from etl_tasks.adapters.phoenix.connection import FIRST_FRAME_ROWS
from etl_tasks.errors import EtlError
from tests.integration.test_phoenix import ALL, SPEC, as_read, by_key, pqs_url, rows_read, seeder, table

__all__ = ["pqs_url", "seeder", "table"]

pytestmark = pytest.mark.integration

WAIT_S = 20.0
FETCH_ROWS = 500


@pytest.fixture
def through(table: str) -> Iterator[Callable[..., PhoenixSource]]:
    """Makes a source that asks at another address."""
    made: list[PhoenixSource] = []

    def make(url: str, **more: Any) -> PhoenixSource:
        settings: dict[str, Any] = {"table": table, "ts_column": "opd", "columns": MAIN_COLUMNS, **more}
        made.append(PhoenixSource(PhoenixConfig(url=url, fetch_rows=FETCH_ROWS, **settings)))
        return made[-1]

    yield make
    for one in made:
        one.discard()


@pytest.fixture
def relay(pqs_url: str) -> Iterator[Relay]:
    with Relay(urlsplit(pqs_url).port or 0) as between:
        yield between


def asking() -> list[threading.Thread]:
    """The threads that wait for answers."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("ask")]


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_one_frame_is_asked_for_ahead_and_none_behind_the_last(
    pqs_url: str, through: Callable[..., PhoenixSource]
) -> None:
    with QueryServerProxy(pqs_url) as proxy:
        reading = through(proxy.url).read(ALL)
        batches = [next(reading)]
        until(lambda: len(proxy.asked("Fetch")) == 1, "the next frame was not asked for")
        time.sleep(0.5)
        assert len(proxy.asked("Fetch")) == 1, "one frame ahead, not more"
        batches += reading
        # Of 6,500 rows. A frame without rows, to say that it was the last one, is no batch.
        rows = [FIRST_FRAME_ROWS, 8, 64, *[FETCH_ROWS] * 12, 427]
        assert [batch.rows for batch in batches] == rows
        answers = [
            FetchResponse.FromString(WireMessage.FromString(one.answered.body).wrapped_message).frame
            for one in proxy.asked("Fetch")
        ]
        assert [frame.done for frame in answers] == [False] * (len(answers) - 1) + [True]
    assert by_key(rows_read(iter(batches))) == by_key([as_read(row) for row in rows_of(SPEC)])


def test_a_read_that_is_given_up_leaves_nobody_waiting_for_its_next_frame(
    relay: Relay, through: Callable[..., PhoenixSource]
) -> None:
    reader = through(f"http://127.0.0.1:{relay.port}/")
    relay.silence_at(b"FetchRequest")
    before = asking()
    reading = reader.read(ALL)
    assert next(reading).rows == FIRST_FRAME_ROWS
    (waiting,) = [thread for thread in asking() if thread not in before]
    reading.close()  # type: ignore[attr-defined]

    waiting.join(5.0)
    assert not waiting.is_alive()
    relay.restore()
    assert reader.count(ALL) == SPEC.rows


def test_an_answer_that_nobody_comes_for_is_taken_off_the_wire(
    relay: Relay, through: Callable[..., PhoenixSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while an insert hangs: the Query Server would break it off after some time."""
    taken = threading.Event()
    take = connection.BoundedBody.take

    def took(body: connection.BoundedBody) -> None:
        take(body)
        taken.set()

    monkeypatch.setattr(connection, "_LEFT_LYING_S", 0.2)
    monkeypatch.setattr(connection.BoundedBody, "take", took)
    reading = through(f"http://127.0.0.1:{relay.port}/").read(ALL)
    assert next(reading).rows == FIRST_FRAME_ROWS
    assert taken.wait(WAIT_S)
    relay.cut()
    relay.refuse()
    assert next(reading).rows == 8, "it is here already"
    with pytest.raises(EtlError):
        next(reading)


def test_over_tls_a_frame_is_asked_for_ahead_as_well_and_a_read_may_be_given_up(
    pqs_url: str, through: Callable[..., PhoenixSource], tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with QueryServerProxy(pqs_url, tls) as proxy:
        reading = through(proxy.url, ca_file=str(tmp_path / "ca.pem")).read(ALL)
        batches = [next(reading)]
        until(lambda: len(proxy.asked("Fetch")) == 1, "the next frame was not asked for")
        batches += reading
        assert by_key(rows_read(iter(batches))) == by_key([as_read(row) for row in rows_of(SPEC)])

    with QueryServerProxy(pqs_url, tls) as proxy:
        reader = through(proxy.url, ca_file=str(tmp_path / "ca.pem"))
        held = proxy.hold_answer("Fetch")
        before = asking()
        given_up = reader.read(ALL)
        assert next(given_up).rows == FIRST_FRAME_ROWS
        (waiting,) = [thread for thread in asking() if thread not in before]
        given_up.close()  # type: ignore[attr-defined]

        waiting.join(5.0)
        assert not waiting.is_alive()
        held.set()
        assert reader.count(ALL) == SPEC.rows
