"""FACTS' error table, with the exceptions built as FACTS writes them; statements; settings; what must not be shown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import phoenixdb
import pytest
import requests
import urllib3.exceptions
from google.protobuf.message import DecodeError
from gssapi.raw.misc import GSSError

from etl_tasks.adapters.phoenix import sql
from etl_tasks.adapters.phoenix.connection import FIRST_FRAME_ROWS, FramePace
from etl_tasks.adapters.phoenix.errors import phoenix_errors, refusal, unanswered_is_unreachable
from etl_tasks.adapters.phoenix.session import QueryServerSession
from etl_tasks.adapters.phoenix.settings import PhoenixConfig
from etl_tasks.core.windows import Window
from etl_tasks.errors import (
    AuthenticationFailed,
    ConfigError,
    EtlError,
    GatewayRefused,
    Overloaded,
    QueryTimedOut,
    SchemaError,
    SourceHeapExhausted,
    StatementLost,
    TerminalError,
    TransientError,
    Unreachable,
)

UNKNOWN = 4294967295
WINDOW = Window(datetime(2025, 8, 8, 0, 5, tzinfo=UTC), datetime(2025, 8, 8, 0, 10, tzinfo=UTC))
REJECTED = (
    "RuntimeException: PhoenixIOException: Task org.apache.phoenix.job.JobManager$JobFutureTask@1 rejected from "
    "org.apache.phoenix.job.JobManager$1@2[Running, pool size = 2, queued tasks = 2, completed tasks = 9] "
    "-> RejectedExecutionException: Task rejected"
)
ALLOTTED = "SQLTimeoutException: Operation timed out. -> Query couldn't be completed in the allotted time: 600 ms"
DEAD = "PhoenixIOException: Failed after attempts=4, exceptions: … Connection refused / FailedServerException"

ERRORS: list[tuple[str, BaseException, type[EtlError]]] = [
    ("pool and queue full", phoenixdb.InternalError(REJECTED, UNKNOWN, "00000"), Overloaded),
    ("query time-out", phoenixdb.InternalError(ALLOTTED, UNKNOWN, "00000"), QueryTimedOut),
    ("query time-out by its code", phoenixdb.InternalError("Operation timed out.", 6000, "TIM01"), QueryTimedOut),
    ("region server dead", phoenixdb.InternalError(DEAD, UNKNOWN, "00000"), Unreachable),
    (
        "HBase starting",
        phoenixdb.InternalError("PleaseHoldException: Master is initializing", UNKNOWN, "00000"),
        Unreachable,
    ),
    ("heap gone", phoenixdb.InterfaceError("RPC request returned invalid status code", 500), SourceHeapExhausted),
    ("heap said", phoenixdb.InternalError("OutOfMemoryError: Java heap space", UNKNOWN, "00000"), SourceHeapExhausted),
    ("stopped, refused", requests.exceptions.ConnectionError("Connection refused"), Unreachable),
    (
        "stopped, in flight",
        requests.exceptions.ConnectionError("Remote end closed connection without response"),
        Unreachable,
    ),
    ("connect time-out", requests.exceptions.ConnectTimeout("timed out"), Unreachable),
    ("hung", requests.exceptions.ReadTimeout("Read timed out."), QueryTimedOut),
    ("hung in the body", urllib3.exceptions.ReadTimeoutError(None, "/", "Read timed out."), QueryTimedOut),  # type: ignore[arg-type]
    ("empty frame", phoenixdb.InternalError("Got an empty frame, but the statement is not done yet."), StatementLost),
    ("connection forgotten", phoenixdb.InternalError("", 1, "00000"), StatementLost),
    ("connection limit", phoenixdb.InternalError("ResultSet is closed.", 1101, "XCL01"), StatementLost),
    ("unknown column", phoenixdb.ProgrammingError("Undefined column. columnName=T.C", 504, "42703"), SchemaError),
    ("unknown table", phoenixdb.ProgrammingError("Table undefined. tableName=T", 1012, "42M03"), SchemaError),
    ("ambiguous column", phoenixdb.ProgrammingError("Column reference ambiguous", 502, "42702"), SchemaError),
    ("array of an unsigned type", phoenixdb.InternalError("Unknown SQL type 11", UNKNOWN, "00000"), SchemaError),
    ("syntax", phoenixdb.ProgrammingError("Syntax error.", 601, "42P00"), TerminalError),
    ("type mismatch", phoenixdb.DataError("Type mismatch.", 203, "22005"), TerminalError),
    ("illegal data", phoenixdb.DataError("Illegal data.", 201, "22000"), TerminalError),
    ("any other refusal", phoenixdb.ProgrammingError("Function undefined.", 6001, "42F01"), TerminalError),
    ("unknown", phoenixdb.InternalError("NullPointerException", UNKNOWN, "00000"), TransientError),
    ("no arguments", phoenixdb.OperationalError("x"), TransientError),
    ("401", phoenixdb.InterfaceError("RPC request returned invalid status code", 401), AuthenticationFailed),
    ("403", phoenixdb.InterfaceError("RPC request returned invalid status code", 403), AuthenticationFailed),
    *(
        (str(status), phoenixdb.InterfaceError("RPC request returned invalid status code", status), GatewayRefused)
        for status in (302, 404, 413, 429, 502, 503, 504)
    ),
    ("other message", phoenixdb.InterfaceError('unexpected response type "" expected "x"'), GatewayRefused),
    ("a page with status 200", DecodeError("Error parsing message"), GatewayRefused),
    ("a page without Content-Type", TypeError("decode() argument 1 must be str, not None"), GatewayRefused),
    ("a page that phoenixdb's parser breaks on", IndexError("pop from empty list"), GatewayRefused),
    (
        "gzip that is none",
        urllib3.exceptions.DecodeError("Received response with content-encoding: gzip"),
        GatewayRefused,
    ),
    ("body cut", urllib3.exceptions.ProtocolError("IncompleteRead(10 bytes read, 20 more expected)"), StatementLost),
    ("chunk cut", requests.exceptions.ChunkedEncodingError("Connection broken"), StatementLost),
    ("bad certificate", requests.exceptions.SSLError("CERTIFICATE_VERIFY_FAILED"), TerminalError),
    ("TLS broke", requests.exceptions.SSLError("EOF occurred in violation of protocol"), Unreachable),
    ("no ticket", GSSError(0, 0), AuthenticationFailed),
    ("socket", ConnectionResetError("reset by peer"), Unreachable),
]


@pytest.mark.parametrize(("raised", "expected"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
def test_every_row_of_the_error_table(raised: BaseException, expected: type[EtlError]) -> None:
    with pytest.raises(EtlError) as caught, phoenix_errors("reading T"):
        raise raised
    assert type(caught.value) is expected
    assert str(caught.value).startswith("reading T: ")
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize(("raised", "expected"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
def test_a_small_question_unanswered_blames_no_window(raised: BaseException, expected: type[EtlError]) -> None:
    if expected in (QueryTimedOut, SourceHeapExhausted):
        expected = Unreachable
    with pytest.raises(EtlError) as caught, unanswered_is_unreachable(), phoenix_errors("connecting"):
        raise raised
    assert type(caught.value) is expected
    assert "connecting: " in str(caught.value)


def test_an_unknown_column_is_named_with_its_cure() -> None:
    with (
        pytest.raises(SchemaError, match=r"Undefined column.*MAIN_COLUMNS.*columnName=T\.C"),
        phoenix_errors("reading T"),
    ):
        raise phoenixdb.ProgrammingError("Undefined column. columnName=T.C", 504, "42703")


def test_texts_are_bounded_and_keep_both_ends() -> None:
    with pytest.raises(EtlError) as caught, phoenix_errors("x"):
        raise phoenixdb.InternalError("first " + "y" * 100_000 + " last", UNKNOWN, "00000")
    assert len(str(caught.value)) < 1_000 and "first" in str(caught.value) and "last" in str(caught.value)


def test_what_is_not_the_servers_is_left_alone() -> None:
    for error in (ValueError("x"), KeyboardInterrupt(), MemoryError()):
        with pytest.raises(type(error)) as caught, phoenix_errors("x"):
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    ("status", "content_type", "expected"),
    [
        (200, "application/x-google-protobuf", None),
        (200, "", None),
        (500, "application/x-google-protobuf", None),
        (200, "text/html; charset=utf-8", GatewayRefused),
        (500, "text/html", SourceHeapExhausted),
        (302, "", GatewayRefused),
        (401, "text/html", AuthenticationFailed),
        (403, "", AuthenticationFailed),
        (404, "text/html", GatewayRefused),
        (413, "", GatewayRefused),
        (429, "", GatewayRefused),
        (503, "text/plain", GatewayRefused),
    ],
)
def test_answers_of_others_are_refused_before_they_are_parsed(
    status: int, content_type: str, expected: type[EtlError] | None
) -> None:
    assert type(refusal(status, content_type)) is (expected or type(None))


def config(**changes: Any) -> PhoenixConfig:
    settings: dict[str, Any] = {"url": "http://h:1", "table": "T", "ts_column": "opd", "columns": ("c", "opd")}
    return PhoenixConfig(**{**settings, **changes})


def test_secrets_are_never_shown() -> None:
    made = config(url="http://bob:s3cret%21@h:1/x", auth="basic")
    assert (made.user, made.password) == ("bob", "s3cret!")
    assert made.endpoint == "http://h:1/x" and "s3cret" not in repr(made) + made.endpoint + made.place
    for changes in (
        {"url": "http://bob:s3cret@h:x/"},
        {"url": "http://h/?avatica_password=s3cret"},
        {"url": "ftp://b:s3cret@h"},
    ):
        with pytest.raises(ConfigError) as caught:
            config(**changes)
        assert "s3cret" not in str(caught.value)


def test_all_faults_of_the_settings_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        config(
            table='a"b',
            ts_column="z",
            columns=("c", "c", " d"),
            fetch_rows=0,
            auth="basic",
            query_hint="*/ DROP",
            read_timeout_s=0,
        )
    for part in (
        "'a\"b'",
        "' d'",
        "z is not among",
        "twice: c",
        "fetch_rows",
        "user and a password",
        "hint",
        "read_timeout_s",
    ):
        assert part in str(caught.value)


def test_the_url_may_be_short_and_ipv6() -> None:
    assert config(url="pqs").endpoint == "http://pqs:8765/"
    assert config(url="https://pqs/").port == 443
    assert config(url="http://[::1]:8765").endpoint == "http://[::1]:8765/"


def test_every_request_has_time_outs_and_goes_direct() -> None:
    session = QueryServerSession(config(connect_timeout_s=1.5, read_timeout_s=2.5, ca_file="/ca.pem"))
    assert session.trust_env is False and session.verify == "/ca.pem"
    assert session.headers["accept-encoding"] == "identity"
    sent: dict[str, Any] = {}
    adapter = session.get_adapter("http://h:1/")
    original = requests.adapters.HTTPAdapter.send
    try:
        requests.adapters.HTTPAdapter.send = lambda self, request, **options: sent.update(options)  # type: ignore[assignment, method-assign]
        adapter.send(requests.Request("POST", "http://h:1/").prepare(), timeout=None)
    finally:
        requests.adapters.HTTPAdapter.send = original  # type: ignore[method-assign]
    assert sent["timeout"] == (1.5, 2.5)
    assert adapter.max_retries.total == 0  # type: ignore[attr-defined]
    assert QueryServerSession(config(verify=False)).verify is False
    assert isinstance(
        QueryServerSession(config(auth="digest", user="u", password="p")).auth, requests.auth.HTTPDigestAuth
    )


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("TBL_JTI", '"TBL_JTI"'),
        ("s.tbl", '"s"."tbl"'),
        ('"S"."t1"', '"S"."t1"'),
        ('S."t.1"', '"S"."t.1"'),
        ('"a.b"', '"a.b"'),
    ],
)
def test_tables_are_quoted(name: str, quoted: str) -> None:
    assert sql.quote_table(name) == quoted


@pytest.mark.parametrize("name", ["", "a.b.c", 'a"b', '"a', "a.", ".a", "a\nb", 'x"; DROP TABLE "y', '""', " a"])
def test_names_that_cannot_be_quoted_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        sql.quote_table(name)


@pytest.mark.parametrize("hint", ["a */ b", "/*+ a */ b */", "a; b", "/* a", "a'b", "a\0"])
def test_a_hint_cannot_close_its_comment(hint: str) -> None:
    with pytest.raises(ConfigError):
        sql.checked_hint(hint)


def test_statements() -> None:
    hint = 'INDEX("T" "I")'
    assert sql.count_statement("T", WINDOW, "opd", "timestamp", hint) == (
        'SELECT /*+ INDEX("T" "I") */ COUNT(*) FROM "T" '
        "WHERE \"opd\" >= TIMESTAMP '2025-08-08 00:05:00.000' AND \"opd\" < TIMESTAMP '2025-08-08 00:10:00.000'"
    )
    assert sql.read_statement("s.T", ("c", "d"), WINDOW, "opd", "seconds", "/*+ NO_CACHE */", frozenset({"d"})) == (
        'SELECT /*+ NO_CACHE */ "c", CAST("d" AS TIMESTAMP) FROM "s"."T" '
        'WHERE "opd" >= 1754611500 AND "opd" < 1754611800'
    )
    assert '"opd" >= 1754611500000 AND' in sql.count_statement("T", WINDOW, "opd", "millis")
    early = Window(datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC))
    assert "TIMESTAMP '0001-01-01 00:00:00.000'" in sql.count_statement("T", early, "opd", "timestamp")
    assert '"opd" < -1' in sql.count_statement("T", early, "opd", "seconds")


def test_frames_begin_small_grow_and_stay_below_their_bytes() -> None:
    pace = FramePace(5_000, 16 << 20)
    assert pace.begin() == FIRST_FRAME_ROWS
    asked = [
        pace.next(1, 1 * 1_500),
        pace.next(8, 8 * 1_500),
        pace.next(64, 64 * 1_500),
        pace.next(512, 512 * 1_500),
        pace.next(4_096, 4_096 * 1_500),
    ]
    assert asked == [8, 64, 512, 4_096, 5_000]
    assert pace.next(5_000, 5_000 * 8_000) == (16 << 20) // 8_000
    assert pace.next(1, 8 << 20) == 2  # rows of 4 MB, sent twice
    assert pace.next(2, 40 << 20) == 1
    assert FramePace(3, 1).next(1, 1) == 1 and FramePace(5_000, 1).next(0, 0) >= 1


def test_a_read_refused_at_its_first_frame_leaves_the_next_one_its_frames() -> None:
    pace = FramePace(5_000, 16 << 20)
    pace.begin()
    pace.too_much()  # the server's queue was full: no fault of a frame of one row
    pace.begin()
    assert [pace.next(1, 1_500) for _ in range(5)] == [8, 64, 512, 4_096, 5_000]


def test_after_a_heap_that_ran_out_frames_are_smaller_until_reads_go_well() -> None:
    pace = FramePace(5_000, 16 << 20)
    pace.begin()
    for _ in range(5):
        pace.next(5_000, 5_000)
    pace.too_much()
    assert max(pace.next(5_000, 5_000) for _ in range(9)) == 1_250
    pace.went_well()
    assert max(pace.next(5_000, 5_000) for _ in range(9)) == 2_500
    for _ in range(20):
        pace.too_much()
    assert pace.begin() == 1
