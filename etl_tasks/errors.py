"""The tree of errors. The class decides what happens next, never the text.

The message is the only required argument: Celery pickles exceptions between processes, and a class with required
constructor arguments comes back as ``UnpickleableExceptionWrapper`` (FACTS, Celery).
"""

from __future__ import annotations


class EtlError(Exception):
    """Base of every error this package raises on purpose. ``str(error)`` says what, where, which value and what
    to do next.
    """


class UsageError(EtlError):
    """The caller asked for something that cannot be meant (exit code 2): times, bounds, unknown options."""


class ConfigError(UsageError):
    """One or more settings are wrong; the message lists every fault with its variable's name."""


class TransientError(EtlError):
    """May go away by itself: the attempt failed and another may succeed."""


class Overloaded(TransientError):
    """The source refused or gave up because it was asked for too much: back off, then split."""


class QueryTimedOut(Overloaded):
    """The source (or our read time-out) ended a query that took too long: a narrower window may pass."""


class SourceHeapExhausted(Overloaded):
    """The Query Server answered 500: its heap is gone (FACTS); a narrower window or a smaller frame may pass."""


class Unreachable(TransientError):
    """A service does not answer at all. Waiting costs no attempt; splitting cures nothing."""


class GatewayRefused(Unreachable):
    """Something between us and the service answered instead of it (413, 429, 502, 503, a login page)."""


class BrokerRefused(Unreachable):
    """Redis refuses our user or password. To a worker it is away; whoever plans is to be told."""


class BrokerFull(Unreachable):
    """Redis has no memory left for a message: it takes none until somebody gives it more or it has shed some."""


class StatementLost(TransientError):
    """The server forgot the statement or connection (restart, eviction): drop the connection and read again."""


class ShortRead(TransientError):
    """Fewer rows were read than the count promised, or rows outside the window came back: nothing of it may be
    trusted.
    """


class ResourceExhausted(TransientError):
    """ClickHouse has too many parts, no memory or no time left for the statement: back off and try again."""


class TerminalError(EtlError):
    """Trying again cannot help; somebody has to change something. The message says what."""


class SchemaError(TerminalError):
    """A table or column is missing, or its type cannot take what the source holds."""


class AuthenticationFailed(TerminalError):
    """A service refused our name, password or ticket."""


class RowRejected(TerminalError):
    """A value does not fit its target column and the run may not reject any more rows."""


class CountMismatch(TerminalError):
    """The publish check found fewer rows than it must: CLEAN was left as it was."""


class LostOwnership(EtlError):
    """This attempt no longer owns its slice or publish: stop, roll back, touch nothing."""


class NewerPublish(LostOwnership):
    """ClickHouse has a buffer under a newer token than ours: ``token``. The journal knows whose it is, or is older."""

    def __init__(self, message: str, token: int = 0) -> None:
        super().__init__(message)
        self.token = token
