"""Which class of error each thing that ClickHouse or its driver says becomes, and what is left out of the message."""

from __future__ import annotations

import pickle
import socket
import ssl
from collections.abc import Iterator, Sequence

import pytest
from clickhouse_driver import errors as driver

from etl_tasks import errors
from etl_tasks.adapters.clickhouse.client import OLDER_NAMES, OPTIONAL_SETTINGS, query_id
from etl_tasks.adapters.clickhouse.config import ClickHouseConfig, Host
from etl_tasks.adapters.clickhouse.errors import (
    CLASS_OF,
    MAX_MESSAGE,
    AnswerTimedOut,
    ErrorCode,
    clickhouse_errors,
    code_of,
    scrub,
)
from etl_tasks.adapters.clickhouse.identifiers import beside_parameters, parse_table, quote_name, quote_text
from etl_tasks.adapters.clickhouse.topology import Shard, check_sharding, engine_arguments, place_hosts


def raised(error: Exception, *secrets: str) -> errors.EtlError:
    """What comes out of the translation."""
    with pytest.raises(errors.EtlError) as caught, clickhouse_errors("ch1:9000", secrets):
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (241, errors.ResourceExhausted),
        (252, errors.ResourceExhausted),
        (159, errors.ResourceExhausted),
        (202, errors.ResourceExhausted),
        (209, errors.Unreachable),
        (210, errors.Unreachable),
        (279, errors.Unreachable),
        (242, errors.Unreachable),
        (999, errors.Unreachable),
        (192, errors.AuthenticationFailed),
        (193, errors.AuthenticationFailed),
        (516, errors.AuthenticationFailed),
        (60, errors.SchemaError),
        (81, errors.SchemaError),
        (16, errors.SchemaError),
        (47, errors.SchemaError),
        (122, errors.SchemaError),
        (36, errors.TerminalError),
        (62, errors.TerminalError),
        (497, errors.TerminalError),
        (341, errors.TransientError),
        (394, errors.TransientError),
        (123456, errors.TransientError),
        (0, errors.TransientError),
    ],
)
def test_server_codes(code: int, expected: type[errors.EtlError]) -> None:
    error = raised(driver.ServerException("DB::Exception: no", code))
    assert type(error) is expected
    assert code_of(error) == code
    assert "ch1:9000" in str(error)


def test_every_named_code_has_a_class_and_is_said_by_name() -> None:
    assert set(CLASS_OF) == set(ErrorCode)
    assert "TOO_MANY_PARTS (252)" in str(raised(driver.ServerException("x", 252)))


@pytest.mark.parametrize(
    "error",
    [
        EOFError("Unexpected EOF while reading bytes"),
        ConnectionResetError(104, "Connection reset by peer"),
        socket.gaierror(-2, "Name or service not known"),
        BrokenPipeError(32, "Broken pipe"),
        driver.NetworkError("Connection refused (ch1:9000)"),
        driver.SocketTimeoutError("timed out (ch1:9000)"),
        driver.UnexpectedPacketFromServerError("expected EndOfStream"),
        driver.UnknownPacketFromServerError("97"),
        driver.ChecksumDoesntMatchError("x"),
        driver.PartiallyConsumedQueryError(),
        ssl.SSLError("handshake"),
    ],
)
def test_whatever_breaks_off_the_conversation_is_unreachable(error: Exception) -> None:
    made = raised(error)
    assert type(made) is errors.Unreachable
    assert code_of(made) == 0
    assert str(made)


def test_a_time_out_is_told_from_a_broken_conversation() -> None:
    assert type(raised(TimeoutError("timed out"))) is AnswerTimedOut


def test_a_value_of_a_wrong_type_and_a_certificate_do_not_go_away_by_themselves() -> None:
    assert type(raised(driver.TypeMismatchError("Column st: ubyte"))) is errors.SchemaError
    assert type(raised(ssl.SSLCertVerificationError(1, "self-signed"))) is errors.TerminalError


def test_what_is_no_business_of_clickhouse_passes_through() -> None:
    with pytest.raises(KeyError), clickhouse_errors("ch1:9000"):
        raise KeyError("bug")
    with pytest.raises(errors.LostOwnership), clickhouse_errors("ch1:9000"):
        raise errors.LostOwnership("ours")


@pytest.mark.parametrize(
    "text",
    [
        "failed for hunter2 at once",
        "connect to clickhouse://etl:hunter2@ch1:9000/",
        "CREATE USER x IDENTIFIED BY 'hunter2'",
        "remote(..., password = hunter2)",
        'password: "hunter2"',
    ],
)
def test_passwords_do_not_get_into_messages(text: str) -> None:
    assert "hunter2" not in scrub(text, ("hunter2",))
    if "at once" not in text:
        assert "hunter2" not in scrub(text)
    error = raised(driver.ServerException(text, 60), "hunter2")
    assert "hunter2" not in str(error)
    assert "hunter2" not in repr(error.__cause__)
    assert error.__suppress_context__


def test_messages_are_bounded_on_one_line_and_without_stack_traces() -> None:
    text = scrub("DB::Exception:\nno\0 Stack trace:\n\n0. ? @ 0x1")
    assert text == "DB::Exception: no\\0"
    assert len(scrub("x" * 10_000)) == MAX_MESSAGE


def test_errors_survive_pickling() -> None:
    error = raised(driver.ServerException("no", 252))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.ResourceExhausted
    assert str(again) == str(error)


def test_names_are_quoted_by_one_function() -> None:
    assert quote_name("a`b\\c") == "`a\\`b\\\\c`"
    # The driver would take a % for a parameter, with and without parameters alike.
    assert quote_name("%(a)s %") == "`\\x25(a)s \\x25`"
    assert beside_parameters("cityHash64(`%`) % 2") % {} == "cityHash64(`%`) % 2"
    assert quote_text("it's \\") == "'it\\'s \\\\'"
    assert parse_table("stg.codes").sql == "`stg`.`codes`"
    for wrong in ("codes", "a.b.c", ".x", "x.", ""):
        with pytest.raises(errors.ConfigError):
            parse_table(wrong)
    with pytest.raises(errors.ConfigError):
        quote_name("")


@pytest.mark.parametrize(
    ("engine", "arguments"),
    [
        ("Distributed('c', 'stg', 'raw', cityHash64(c))", ["c", "stg", "raw", "cityHash64(c)"]),
        ("Distributed(c, stg, `raw`, cityHash64(c, t), 'policy')", ["c", "stg", "raw", "cityHash64(c, t)", "policy"]),
        ("Distributed('c', '', 'it\\'s, (odd)')", ["c", "", "it's, (odd)"]),
        ("ReplacingMergeTree(ingested_at) PARTITION BY toYYYYMMDD(opd)", ["ingested_at"]),
        ("MergeTree PARTITION BY toYYYYMMDD(opd) ORDER BY (c, opd)", []),
        ("View", []),
    ],
)
def test_engine_arguments(engine: str, arguments: list[str]) -> None:
    assert engine_arguments(engine) == arguments


@pytest.mark.parametrize("expression", ["cityHash64(c)", "c", "xxHash32(c, t)", "sipHash64(`c`)", "intHash64(t) % 8"])
def test_a_hash_of_the_key_is_a_sharding(expression: str) -> None:
    check_sharding(expression, ("c", "t", "opd"), "stg.raw_all")


@pytest.mark.parametrize("expression", [None, "", "rand()", "cityHash64(id)", "cityHash64(c, id)", "1", "c + rand32()"])
def test_anything_else_is_none(expression: str | None) -> None:
    with pytest.raises(errors.SchemaError, match=r"stg\.raw_all"):
        check_sharding(expression, ("c", "t", "opd"), "stg.raw_all")


def test_a_sharding_by_names_that_need_quotes() -> None:
    key = ("Konto nr", "select", "ключ")
    check_sharding("cityHash64(`Konto nr`, select, `ключ`)", key, "stg.raw_all")
    with pytest.raises(errors.SchemaError, match=r"stg\.raw_all"):
        check_sharding("cityHash64(`Konto`, `select`)", key, "stg.raw_all")


class AnsweringHost:
    """Stands for a connection to a host that knows where it is in the cluster."""

    def __init__(self, rows: Sequence[tuple[object, ...]]) -> None:
        self.rows = rows

    def execute(self, *_: object, **__: object) -> Sequence[tuple[object, ...]]:
        """The rows of system.clusters as this host sees them, as one array."""
        return [(list(self.rows),)]


class Hosts:
    """Stands for ``Failover.each``."""

    def __init__(self, answers: dict[Host, object]) -> None:
        self.answers = answers

    def each(self) -> Iterator[tuple[Host, object]]:
        """The hosts and what there is instead of a connection."""
        yield from self.answers.items()


def placed(addresses: dict[tuple[int, int], Host], local: dict[Host, list[tuple[int, int]] | None]) -> list[Shard]:
    """The shards for a cluster of these addresses, where each listed host says that it is ``local`` (None: dead)."""

    def rows(here: list[tuple[int, int]]) -> list[tuple[object, ...]]:
        return [(*seat, address.name, address.port, int(seat in here)) for seat, address in addresses.items()]

    hosts = {
        host: errors.Unreachable("dead") if here is None else AnsweringHost(rows(here)) for host, here in local.items()
    }
    config = ClickHouseConfig(tuple(local), "u", "p", "d", "d.raw_all", "d.clean", "d.clean_all", "d.buf", cluster="x")
    return list(place_hosts(config, Hosts(hosts), "x", rows([])))  # type: ignore[arg-type]


def test_one_shard_with_four_replicas() -> None:
    inner = {(1, n): Host(f"ch{n}", 9000) for n in (1, 2, 3, 4)}
    outer = [Host(f"10.0.0.{n}", 9000) for n in (3, 1, 4)]
    seats: dict[Host, list[tuple[int, int]] | None] = {host: [(1, int(host.name[-1]))] for host in outer}
    assert placed(inner, seats) == [Shard(1, (*outer, Host("ch2", 9000)))]


def test_four_shards_of_one_replica_and_a_dead_host_known_by_its_address() -> None:
    inner = {(n, 1): Host(f"ch{n}", 9000) for n in (1, 2, 3, 4)}
    seats: dict[Host, list[tuple[int, int]] | None] = {host: [seat] for seat, host in inner.items()}
    seats[Host("ch3", 9000)] = None
    assert placed(inner, seats) == [Shard(n, (Host(f"ch{n}", 9000),)) for n in (1, 2, 3, 4)]


def test_a_host_named_twice_is_one_replica_and_a_host_that_is_two_shards_is_refused() -> None:
    inner = {(1, 1): Host("ch1", 9000), (2, 1): Host("ch2", 9000)}
    twice: dict[Host, list[tuple[int, int]] | None] = {
        Host("localhost", 9000): [(1, 1)],
        Host("127.0.0.1", 9000): [(1, 1)],
        Host("ch2", 9000): [(2, 1)],
    }
    assert placed(inner, twice) == [Shard(1, (Host("localhost", 9000),)), Shard(2, (Host("ch2", 9000),))]
    with pytest.raises(errors.SchemaError, match="published twice"):
        placed(inner, {Host("localhost", 9000): [(1, 1), (2, 1)]})


def test_query_ids_begin_with_their_tag_and_differ() -> None:
    assert query_id("run-1").startswith("run-1-")
    assert query_id("run-1") != query_id("run-1")
    assert not OPTIONAL_SETTINGS & OLDER_NAMES.keys()
