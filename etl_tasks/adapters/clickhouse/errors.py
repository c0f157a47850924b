"""ClickHouse's codes have names here, and one table says which class of ours each becomes.

Only this module reads codes and texts of the driver; everybody else catches classes of ``etl_tasks.errors``.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum

from clickhouse_driver import errors as driver

from etl_tasks import errors

MAX_MESSAGE = 600
"""Characters of a server's message that are kept: a statement's text can be megabytes."""


class ErrorCode(IntEnum):
    """Server codes that this package knows what to do with (src/Common/ErrorCodes.cpp of ClickHouse)."""

    THERE_IS_NO_COLUMN = 8
    NO_SUCH_COLUMN_IN_TABLE = 16
    NUMBER_OF_COLUMNS_DOES_NOT_MATCH = 20
    ATTEMPT_TO_READ_AFTER_EOF = 32
    BAD_ARGUMENTS = 36
    UNKNOWN_FUNCTION = 46
    UNKNOWN_IDENTIFIER = 47
    NOT_IMPLEMENTED = 48
    TYPE_MISMATCH = 53
    UNKNOWN_TABLE = 60
    SYNTAX_ERROR = 62
    UNKNOWN_DATABASE = 81
    CANNOT_READ_FROM_SOCKET = 95
    CANNOT_WRITE_TO_SOCKET = 96
    UNKNOWN_PACKET_FROM_CLIENT = 99
    UNKNOWN_PACKET_FROM_SERVER = 100
    UNEXPECTED_PACKET_FROM_CLIENT = 101
    UNEXPECTED_PACKET_FROM_SERVER = 102
    UNKNOWN_SETTING = 115
    INCOMPATIBLE_COLUMNS = 122
    TIMEOUT_EXCEEDED = 159
    TOO_SLOW = 160
    READONLY = 164
    CLUSTER_DOES_NOT_EXIST = 170
    CANNOT_ALLOCATE_MEMORY = 173
    UNKNOWN_USER = 192
    WRONG_PASSWORD = 193
    REQUIRED_PASSWORD = 194
    DNS_ERROR = 198
    QUOTA_EXCEEDED = 201
    TOO_MANY_SIMULTANEOUS_QUERIES = 202
    NO_FREE_CONNECTION = 203
    SOCKET_TIMEOUT = 209
    NETWORK_ERROR = 210
    TABLE_IS_DROPPED = 218
    NO_ZOOKEEPER = 225
    ABORTED = 236
    MEMORY_LIMIT_EXCEEDED = 241
    TABLE_IS_READ_ONLY = 242
    NOT_ENOUGH_SPACE = 243
    TOO_MANY_PARTS = 252
    ALL_CONNECTION_TRIES_FAILED = 279
    TOO_FEW_LIVE_REPLICAS = 285
    UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE = 286
    UNKNOWN_STATUS_OF_INSERT = 319
    UNFINISHED = 341
    SUPPORT_IS_DISABLED = 344
    ALL_REPLICAS_ARE_STALE = 369
    CANNOT_ASSIGN_OPTIMIZE = 388
    QUERY_WAS_CANCELLED = 394
    CANNOT_SCHEDULE_TASK = 439
    DEADLOCK_AVOIDED = 473
    ACCESS_DENIED = 497
    AUTHENTICATION_FAILED = 516
    CANNOT_ASSIGN_ALTER = 517
    REQUESTED_CLUSTER_NOT_FOUND = 701
    SERVER_OVERLOADED = 745
    KEEPER_EXCEPTION = 999


def _table() -> Mapping[ErrorCode, type[errors.EtlError]]:
    code = ErrorCode
    classes: dict[type[errors.EtlError], tuple[ErrorCode, ...]] = {
        errors.ResourceExhausted: (
            code.TIMEOUT_EXCEEDED,
            code.TOO_SLOW,
            code.CANNOT_ALLOCATE_MEMORY,
            code.QUOTA_EXCEEDED,
            code.TOO_MANY_SIMULTANEOUS_QUERIES,
            code.NO_FREE_CONNECTION,
            code.ABORTED,
            code.MEMORY_LIMIT_EXCEEDED,
            code.NOT_ENOUGH_SPACE,
            code.TOO_MANY_PARTS,
            code.CANNOT_ASSIGN_OPTIMIZE,
            code.CANNOT_SCHEDULE_TASK,
            code.DEADLOCK_AVOIDED,
            code.CANNOT_ASSIGN_ALTER,
            code.SERVER_OVERLOADED,
        ),
        errors.Unreachable: (
            code.ATTEMPT_TO_READ_AFTER_EOF,
            code.CANNOT_READ_FROM_SOCKET,
            code.CANNOT_WRITE_TO_SOCKET,
            code.UNKNOWN_PACKET_FROM_CLIENT,
            code.UNKNOWN_PACKET_FROM_SERVER,
            code.UNEXPECTED_PACKET_FROM_CLIENT,
            code.UNEXPECTED_PACKET_FROM_SERVER,
            code.DNS_ERROR,
            code.SOCKET_TIMEOUT,
            code.NETWORK_ERROR,
            code.NO_ZOOKEEPER,
            code.TABLE_IS_READ_ONLY,
            code.ALL_CONNECTION_TRIES_FAILED,
            code.TOO_FEW_LIVE_REPLICAS,
            code.UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE,
            code.ALL_REPLICAS_ARE_STALE,
            code.KEEPER_EXCEPTION,
        ),
        errors.AuthenticationFailed: (
            code.UNKNOWN_USER,
            code.WRONG_PASSWORD,
            code.REQUIRED_PASSWORD,
            code.AUTHENTICATION_FAILED,
        ),
        errors.SchemaError: (
            code.THERE_IS_NO_COLUMN,
            code.NO_SUCH_COLUMN_IN_TABLE,
            code.NUMBER_OF_COLUMNS_DOES_NOT_MATCH,
            code.UNKNOWN_IDENTIFIER,
            code.TYPE_MISMATCH,
            code.UNKNOWN_TABLE,
            code.UNKNOWN_DATABASE,
            code.INCOMPATIBLE_COLUMNS,
            code.CLUSTER_DOES_NOT_EXIST,
            code.REQUESTED_CLUSTER_NOT_FOUND,
        ),
        errors.TerminalError: (
            code.BAD_ARGUMENTS,
            code.SYNTAX_ERROR,
            code.UNKNOWN_FUNCTION,
            code.UNKNOWN_SETTING,
            code.READONLY,
            code.ACCESS_DENIED,
            code.NOT_IMPLEMENTED,
            code.SUPPORT_IS_DISABLED,
        ),
        errors.TransientError: (
            code.UNKNOWN_STATUS_OF_INSERT,
            code.UNFINISHED,
            code.TABLE_IS_DROPPED,
            code.QUERY_WAS_CANCELLED,
        ),
    }
    return {each: cls for cls, codes in classes.items() for each in codes}


CLASS_OF = _table()
"""Code → class. Any other code is a ``TransientError``: attempts are bounded, so it ends as an error in time."""

_SECRET_SHAPES = (
    (
        re.compile(
            r"(?i)(password|identified by|x-clickhouse-key)"
            r"(\s*[=:]?\s*(?=['\"])|\s*[=:]\s*)('(?:[^'\\]|\\.)*'|\"[^\"]*\"|[^\s,;)]+)"
        ),
        r"\1\2***",
    ),
    (re.compile(r"(://[^\s:/@]+):[^\s@]+@"), r"\1:***@"),
)


def scrub(text: str, secrets: tuple[str, ...] = ()) -> str:
    """``text`` on one line without passwords, stack traces or more than ``MAX_MESSAGE`` characters."""
    text = text.partition("Stack trace:")[0]
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    for shape, instead in _SECRET_SHAPES:
        text = shape.sub(instead, text)
    text = " ".join(text.replace("\0", "\\0").split())
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


class AnswerTimedOut(errors.Unreachable):
    """Nothing broke off, but no answer came in time: the host, or one behind it, hangs."""


class StatementFailed(Exception):
    """Carries the server's code: only ever the ``__cause__`` of an error of ``etl_tasks.errors``."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


def code_of(error: BaseException) -> int:
    """The server's code behind one of our errors, 0 when no server said anything."""
    cause = error.__cause__
    return cause.code if isinstance(cause, StatementFailed) else 0


def translated(error: Exception, where: str, secrets: tuple[str, ...] = ()) -> errors.EtlError:
    """The error of ours that stands for what the driver raised while talking to ``where``."""
    if isinstance(error, driver.ServerException):
        code = int(error.code or 0)
        cls = CLASS_OF.get(ErrorCode(code), errors.TransientError) if code in _KNOWN else errors.TransientError
        name = ErrorCode(code).name if code in _KNOWN else "unknown code"
        cure = "; check CH_USER and CH_PASSWORD" if cls is errors.AuthenticationFailed else ""
        made = cls(f"ClickHouse {where}: {name} ({code}): {scrub(str(error.message), secrets)}{cure}")
        made.__cause__ = StatementFailed(type(error).__name__, code)
        return made
    if isinstance(error, (driver.TypeMismatchError, driver.UnknownTypeError)):
        return errors.SchemaError(f"ClickHouse {where}: a value does not fit its column: {scrub(str(error), secrets)}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return errors.TerminalError(f"ClickHouse {where}: the certificate is not trusted: {scrub(str(error), secrets)}")
    if isinstance(error, TimeoutError):
        return AnswerTimedOut(f"ClickHouse {where} did not answer in time: it hangs, or a host behind it does")
    if isinstance(error, (driver.Error, OSError, EOFError)):
        # Whatever else the driver raises means that the conversation broke off: packets, sockets, checksums.
        said = scrub(str(error), secrets) or type(error).__name__
        return errors.Unreachable(f"ClickHouse {where} broke off: {type(error).__name__}: {said}")
    raise TypeError(f"no translation for {type(error).__name__}") from error


_KNOWN = frozenset(int(code) for code in ErrorCode)


@contextmanager
def clickhouse_errors(where: str, secrets: tuple[str, ...] = ()) -> Iterator[None]:
    """Raise the errors of ``etl_tasks.errors`` instead of the driver's; ``where`` is the host's name."""
    try:
        yield
    except (driver.Error, OSError, EOFError) as error:
        made = translated(error, where, secrets)
        # Not "from error": the driver's message may hold what was just scrubbed.
        raise made from made.__cause__
