"""FACTS' error table as one table: what a request to the Query Server raises → a class of ``etl_tasks.errors``.

Texts of errors are read in this module only. The first rule that fits decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import phoenixdb
import requests
import requests_gssapi.exceptions
import urllib3.exceptions
from google.protobuf.message import DecodeError
from gssapi.raw.misc import GSSError

from etl_tasks.errors import (
    AuthenticationFailed,
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

_TEXT_LIMIT: Final = 600
_UNKNOWN_COLUMN: Final = (
    "Undefined column: MAIN_COLUMNS and the time column must name columns of the table, in their own case "
    "(the real source's are lower-case), without stray commas or spaces"
)
_GATEWAY: Final = "not the Query Server but something before it answered; look at the proxy or the URL (PQS_URL)"


@dataclass(frozen=True, slots=True)
class Rule:
    """``raised`` with one of ``codes`` or with one of ``texts`` in its message (no codes, no texts: any) becomes
    ``becomes``.
    """

    raised: tuple[type[BaseException], ...]
    becomes: type[EtlError]
    says: str
    codes: frozenset[int | None] = frozenset()
    texts: tuple[str, ...] = ()

    def fits(self, error: BaseException, code: int | None, text: str) -> bool:
        """Whether this rule is the one for the error."""
        if not isinstance(error, self.raised):
            return False
        return not (self.codes or self.texts) or code in self.codes or any(part in text for part in self.texts)


_ANY: Final = (phoenixdb.Error,)

SQL_RULES: Final[tuple[Rule, ...]] = (
    Rule(
        _ANY, Overloaded, "the Query Server's queue is full: fewer readers at once or a narrower window",
        texts=("RejectedExecutionException", "rejected from", "CallQueueTooBigException", "RegionTooBusyException"),
    ),
    Rule(
        _ANY, QueryTimedOut, "the Query Server gave the query up: a narrower window may pass",
        codes=frozenset({6000}), texts=("SQLTimeoutException", "in the allotted time"),
    ),
    Rule(
        _ANY, SourceHeapExhausted, "the Query Server has no memory left: lower PHX_FETCHMANY_SIZE or narrow the window",
        codes=frozenset({999}), texts=("OutOfMemoryError", "InsufficientMemoryException"),
    ),
    Rule(
        _ANY, AuthenticationFailed, "Phoenix does not let this user read the table",
        texts=("AccessDeniedException", "AccessControlException"),
    ),
    Rule(
        _ANY, Unreachable, "HBase behind the Query Server does not answer",
        texts=("Failed after attempts", "PleaseHoldException", "FailedServerException", "Connection refused",
               "NoRouteToHostException", "UnknownHostException", "ServerNotRunningYetException", "ConnectionLoss"),
    ),
    Rule(
        _ANY, StatementLost, "the Query Server forgot the statement or connection (restarted, or left idle too long)",
        codes=frozenset({1, 1101}),
        texts=("Got an empty frame", "ResultSet is closed", "NoSuchConnectionException", "NoSuchStatementException"),
    ),
    Rule(_ANY, SchemaError, _UNKNOWN_COLUMN, codes=frozenset({504})),
    Rule(
        _ANY, SchemaError, "Table undefined: HBASE_MAIN_TABLE must name it in its own case, with its schema",
        codes=frozenset({1012, 722}),
    ),
    Rule(_ANY, SchemaError, "a column of MAIN_COLUMNS exists in two families of the table", codes=frozenset({502})),
    Rule(
        _ANY, SchemaError, "the Query Server cannot send a column of this type; leave it out of MAIN_COLUMNS",
        texts=("Unknown SQL type",),
    ),
    Rule(
        _ANY, TerminalError, "the table holds data that Phoenix cannot read, such as a zero byte in a text of the key",
        codes=frozenset({201}),
    ),
    Rule(
        _ANY, TerminalError, "Phoenix does not understand the statement: see PHX_TS_UNITS and PHX_QUERY_HINT",
        codes=frozenset({203, 601}),
    ),
    Rule(
        (phoenixdb.ProgrammingError, phoenixdb.DataError, phoenixdb.IntegrityError, phoenixdb.NotSupportedError),
        TerminalError, "Phoenix refuses the statement",
    ),
)  # fmt: skip
"""What Phoenix and phoenixdb say, most telling first: the code 4294967295 is shared by overload, time-out and a dead
region server, so the text comes before the code. CallQueueTooBig, RegionTooBusy, 999, 722, 6000 and the refusals of
rights were read in HBase's and Phoenix's sources, not tried."""

HTTP_STATUS: Final[Mapping[int, tuple[type[EtlError], str]]] = {
    401: (
        AuthenticationFailed,
        "the Query Server or a proxy before it wants other credentials (PQS_AUTH, user, password, ticket)",
    ),
    403: (AuthenticationFailed, "the Query Server or a proxy before it forbids this user"),
    407: (AuthenticationFailed, "a proxy before the Query Server wants credentials"),
    413: (GatewayRefused, _GATEWAY),
    429: (GatewayRefused, _GATEWAY),
    500: (
        SourceHeapExhausted,
        "the Query Server broke down over the request, as it does without heap: a narrower window may pass",
    ),
    502: (GatewayRefused, _GATEWAY),
    503: (GatewayRefused, _GATEWAY),
    504: (GatewayRefused, _GATEWAY),
}
"""Status of an answer that is not Avatica's own. Avatica sends its errors with 500 and a protobuf body; a Query Server
without heap sends 500 with a page of HTML (seen with -Xmx120m)."""

TRANSPORT_RULES: Final[tuple[Rule, ...]] = (
    Rule((requests.exceptions.ConnectTimeout,), Unreachable, "no connection within the time-out"),
    Rule(
        (requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError),
        QueryTimedOut, "no answer within PHX_READ_TIMEOUT_S: a narrower window may pass, or the server hangs",
    ),
    Rule(
        (requests_gssapi.exceptions.SPNEGOExchangeError, requests_gssapi.exceptions.MutualAuthenticationError,
         GSSError),
        AuthenticationFailed, "Kerberos refused: is there a valid ticket?",
    ),
    Rule(
        (requests.exceptions.SSLError, urllib3.exceptions.SSLError),
        TerminalError, "the server's certificate is not trusted",
        texts=("CERTIFICATE_VERIFY_FAILED",),
    ),
    Rule(
        (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema),
        TerminalError, "the URL of the Query Server is wrong (PQS_URL)",
    ),
    # An answer that begins and breaks off: the server's cursor has moved on, so the frame cannot be asked for again.
    # Not Unreachable, which costs no attempt: where a proxy cuts every large answer, waiting would never end.
    Rule(
        (requests.exceptions.ChunkedEncodingError, urllib3.exceptions.ProtocolError),
        StatementLost, "the answer broke off half-way",
    ),
    Rule((requests.exceptions.ContentDecodingError, urllib3.exceptions.DecodeError), GatewayRefused, _GATEWAY),
    Rule(
        (requests.exceptions.RequestException, urllib3.exceptions.HTTPError),
        Unreachable, "the Query Server does not answer",
    ),
    # A login page with status 200 is no protobuf; an HTML error page without Content-Type is a TypeError in phoenixdb,
    # and phoenixdb's parser of error pages stumbles over other HTML (IndexError, LookupError, UnicodeDecodeError).
    Rule((DecodeError, TypeError, IndexError, LookupError, UnicodeDecodeError), GatewayRefused, _GATEWAY),
    Rule((OSError,), Unreachable, "the Query Server does not answer"),
)  # fmt: skip


def refusal(status: int, content_type: str) -> EtlError | None:
    """The error for an HTTP answer that does not come from Avatica, or None for one that phoenixdb may parse."""
    html = "html" in content_type.lower()
    if not html and status in (200, 500):
        return None
    becomes, says = HTTP_STATUS.get(status, (GatewayRefused, _GATEWAY))
    kind = " (a page of HTML)" if html else ""
    return becomes(f"HTTP status {status}{kind}: {says}")


def translated(error: Exception, context: str) -> EtlError | None:
    """The error of ours for what phoenixdb or the transport raised; None when it is none of theirs."""
    if isinstance(error, phoenixdb.Error):
        return _translated_sql(error, context)
    text = str(error)
    for rule in TRANSPORT_RULES:
        if rule.fits(error, None, text):
            return rule.becomes(f"{context}: {rule.says} ({type(error).__name__}: {_shortened(text)})")
    return None


def _translated_sql(error: Any, context: str) -> EtlError:
    message, code, state = ((*error.args, None, None, None)[:3]) if error.args else ("", None, None)
    text = _shortened(str(message))
    if isinstance(error, phoenixdb.InterfaceError):
        if code in HTTP_STATUS:
            becomes, says = HTTP_STATUS[code]
        else:
            becomes, says = GatewayRefused, _GATEWAY
        return becomes(f"{context}: HTTP status {code}: {says} ({text})")
    number = code if isinstance(code, int) else None
    for rule in SQL_RULES:
        if rule.fits(error, number, str(message)):
            return rule.becomes(f"{context}: {rule.says} ({type(error).__name__} {code} {state}: {text})")
    return TransientError(
        f"{context}: an error that this program does not know ({type(error).__name__} {code} {state}: {text})"
    )


def _shortened(text: str) -> str:
    flat = re.sub(r"\s+", " ", text).strip()
    if len(flat) <= _TEXT_LIMIT:
        return flat
    # HBase's chains of causes end with the cause that matters.
    return f"{flat[: _TEXT_LIMIT // 2]} … {flat[-_TEXT_LIMIT // 2 :]}"


@contextmanager
def phoenix_errors(context: str) -> Iterator[None]:
    """Raise what phoenixdb and the transport raise inside as classes of ``etl_tasks.errors``, the original as the
    cause.

    ``context`` says what was done, where. Our own errors get it put before their text when they come from the session.
    """
    try:
        yield
    except EtlError as error:
        raise type(error)(f"{context}: {error}") from error
    except Exception as error:
        ours = translated(error, context)
        if ours is None:
            raise
        raise ours from error


@contextmanager
def unanswered_is_unreachable() -> Iterator[None]:
    """Around a question that costs a server next to nothing: unanswered in time, or 500, becomes Unreachable.

    No window is to blame for it and a narrower one cures nothing, so it must neither split a slice nor spend its
    attempt.
    """
    try:
        yield
    except (QueryTimedOut, SourceHeapExhausted) as error:
        raise Unreachable(f"nobody answers even a small question; {error}") from error
