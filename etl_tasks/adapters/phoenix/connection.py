"""One connection of the Query Server and the walk over a statement's frames.

phoenixdb's client speaks the protocol; its ``Connection`` and ``Cursor`` are not used, since their ``__del__`` does
HTTP, which can hang, and a cursor that failed answers the next fetch with ``[]``, which looks like the end (FACTS).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import phoenixdb
import requests
import structlog
from phoenixdb.avatica.client import AvaticaClient, parse_error_page, parse_error_protobuf
from phoenixdb.avatica.proto import common_pb2, requests_pb2

from etl_tasks.adapters.phoenix.errors import phoenix_errors, unanswered_is_unreachable
from etl_tasks.adapters.phoenix.frame_bytes import Answer, NotUnderstood, find_answer
from etl_tasks.adapters.phoenix.frames import RawFrame, frame_of
from etl_tasks.adapters.phoenix.session import BoundedBody, QueryServerSession
from etl_tasks.adapters.phoenix.settings import PhoenixConfig
from etl_tasks.adapters.phoenix.wire import ResultSetResponse
from etl_tasks.errors import EtlError, StatementLost
from etl_tasks.threads import Crew, Flag, Job

log = structlog.get_logger(__name__)

FIRST_FRAME_ROWS: Final = 1
"""Rows of the first frame, when nothing is known of their width: 8 rows of 4 MB, sent twice, are 64 MB, which cost a
worker child 380 MB (``python -m benchmarks memory``).
"""
_GROWTH: Final = 8
_METADATA_ROWS: Final = 1_000
_LEFT_LYING_S: Final = 20.0
"""An answer that was asked ahead is taken off the wire when nobody has come for it by then, as while an insert hangs:
the Query Server breaks off one that nobody reads (measured: 35 s passed, 70 s did not).
"""
_REQUESTS: Final = "org.apache.calcite.avatica.proto.Requests$"
_RESPONSES: Final = "org.apache.calcite.avatica.proto.Responses$"


class FramePace:
    """How many rows to ask for next, so that a frame stays below ``max_bytes`` on the wire.

    Begins at FIRST_FRAME_ROWS and grows eightfold a frame up to ``most`` (1, 8, 64, 512, 4,096, …). After the server
    ran out of memory the most is a quarter, for later reads of the same source too, and doubles with every read that
    ends well.
    """

    def __init__(self, most: int, max_bytes: int) -> None:
        self._configured = most
        self._max_bytes = max_bytes
        self._most = most
        self._rows = 0
        self._row_bytes = 0.0
        self.begin()

    def begin(self) -> int:
        """Rows of a statement's first frame."""
        self._row_bytes = 0.0
        self._rows = min(FIRST_FRAME_ROWS, self._most)
        return self._rows

    def next(self, rows: int, size: int) -> int:
        """Rows of the next frame, after one of ``rows`` rows and ``size`` bytes."""
        # Half of the widest seen lately is remembered: one narrow frame does not make the next one huge.
        self._row_bytes = max(size / max(rows, 1), self._row_bytes / 2, 1.0)
        self._rows = max(1, min(self._most, self._rows * _GROWTH, int(self._max_bytes / self._row_bytes)))
        return self._rows

    def too_much(self) -> None:
        """The server or we had no room for a frame; a read's first frame is the smallest there is: it says nothing."""
        if self._rows <= FIRST_FRAME_ROWS:
            return
        self._most = max(1, min(self._most, self._rows) // 4)

    def went_well(self) -> None:
        """A read ended well."""
        self._most = min(self._configured, self._most * 2)


class FrameClient(AvaticaClient):  # type: ignore[misc]
    """phoenixdb's client, whose answers with rows stay in the buffer they came in, and which may ask ahead.

    While a frame is decoded the server can make the next one: a slice of 60,000 rows of 1.5 KB takes 5.5 s instead of
    6.4. A thread sends the request and waits for the answer to begin, which takes no CPU; the answer itself stays on
    the wire until ``read``, so that no more than one frame is in memory.
    """

    def __init__(self, url: str, session: QueryServerSession) -> None:
        super().__init__(url, max_retries=0)
        self.session: QueryServerSession | None = session
        self._wanted = Flag()
        self._crew: Crew | None = None

    def _post_request(self, body: bytes) -> requests.Response:
        """phoenixdb's would make a session of its own, without time-outs, where ours was dropped."""
        session = self.session
        if session is None:
            raise StatementLost("the connection was dropped: read again")
        return session.post(self.url.geturl(), data=body)

    def ask(self, request: Any) -> requests.Response:
        """Send the request; the answer, whose body is still to come. Raises what the session raises."""
        message = common_pb2.WireMessage(
            name=f"{_REQUESTS}{type(request).__name__}", wrapped_message=request.SerializeToString()
        )
        return self._post_request(message.SerializeToString())

    def ask_ahead(self, request: Any) -> Callable[[], requests.Response]:
        """As ``ask``, in a thread, and returns when a request is out: call what is returned for the answer.

        Nothing else may be asked before that call.
        """
        if self.session is None:
            raise StatementLost("the connection was dropped: read again")
        sent = self.session.sockets.sent = Flag()
        wanted = self._wanted = Flag()
        if self._crew is None:
            self._crew = Crew(1, "ask")
            self._crew.start()
        asked = Job(partial(self._ask_and_wait, request, sent, wanted))
        self._crew.give(asked)
        # Without this wait the thread would get the interpreter only once the frame is decoded.
        sent.wait()

        def answer() -> requests.Response:
            wanted.set()
            return asked.result()

        return answer

    def _ask_and_wait(self, request: Any, sent: Flag, wanted: Flag) -> requests.Response:
        try:
            response = self.ask(request)
        finally:
            sent.set()  # also when it failed before
        if not wanted.wait(_LEFT_LYING_S):
            body: BoundedBody = response.raw  # type: ignore[assignment]
            body.take()
        return response

    def answer(self, request: Any, expected: str) -> Answer:
        """``ask`` and ``read`` at once."""
        return self.read(self.ask(request), expected)

    def abandon(self) -> None:
        """Ask nothing more; a thread that waits for an answer ends. May be repeated, and must be when it was
        interrupted.
        """
        self._wanted.set()
        if self._crew is not None:
            self._crew.dismiss()
        if self.session is not None:
            self.session.sockets.shut()
            self.session.close()
            self.session = None  # the client's own __del__ then has nothing to do

    def read(self, response: requests.Response, expected: str) -> Answer:
        """Find the message in the answer, of the type ``expected``.

        Raises what phoenixdb raises: its errors for what the server says, protobuf's DecodeError for what is no answer.
        """
        raw: BoundedBody = response.raw  # type: ignore[assignment]
        if response.status_code != requests.codes.ok:
            error = raw.read()
            if b"<html>" in error:
                parse_error_page(error.decode(response.encoding or "utf-8", "replace"))
            else:
                parse_error_protobuf(error)
            raise phoenixdb.errors.InterfaceError("RPC request returned invalid status code", response.status_code)
        body = raw.grown()
        try:
            name, answer = find_answer(body)
        except NotUnderstood:
            name = common_pb2.WireMessage.FromString(bytes(body)).name  # raises DecodeError, mostly
            raise phoenixdb.errors.InterfaceError(f'unexpected response type "{name}" without a message') from None
        if name != _RESPONSES + expected:
            raise phoenixdb.errors.InterfaceError(
                f'unexpected response type "{name}" expected "{_RESPONSES}{expected}"'
            )
        return answer


class QueryServerConnection:
    """An open connection. After any error call ``discard`` and make a new one; not for several threads, but for the one
    of its own that asks ahead.
    """

    def __init__(self, config: PhoenixConfig) -> None:
        self._place = config.place
        self._id = str(uuid.uuid4())
        self._client = FrameClient(config.endpoint, QueryServerSession(config))
        self.last_used = time.monotonic()
        try:
            with unanswered_is_unreachable(), phoenix_errors(f"connecting to the Query Server of {self._place}"):
                self._client.open_connection(self._id, info={})
                self._client.connection_sync(self._id, {"autoCommit": True})
        except BaseException:
            self.discard()
            raise

    def frames(self, sql: str, pace: FramePace, context: str) -> Iterator[RawFrame]:
        """Run ``sql`` and give its frames, one alive at a time; ends only after the frame that the server calls the
        last.

        Raises StatementLost for a frame that is empty but not the last, and otherwise by the error table.
        """
        with phoenix_errors(context):
            statement = self._client.create_statement(self._id)
            request = requests_pb2.PrepareAndExecuteRequest(
                connection_id=self._id, statement_id=statement, sql=sql, first_frame_max_size=pace.begin()
            )
            frame = frame_of(self._client.answer(request, "ExecuteResponse"), first=True, context=context)
        yield from self._walk(statement, frame, pace.next, context)

    def metadata(self, ask: Callable[[Any, str], Any], response_name: str, context: str) -> Iterator[tuple[Any, Any]]:
        """The frames of one of Avatica's metadata calls, which makes its statement itself: its signature, the rows."""
        with phoenix_errors(context):
            body = self._client._apply(ask(requests_pb2, self._id), response_name)
            result = ResultSetResponse.FromString(body)
        signature = common_pb2.Signature.FromString(result.signature)
        first = result.first_frame
        frame = RawFrame(first.offset, len(first.rows), first.done, len(body), None)
        for number, following in enumerate(
            self._walk(result.statement_id, frame, lambda rows, size: _METADATA_ROWS, context)
        ):
            yield signature, following.rows if number else first.rows

    def _walk(
        self, statement: int, frame: RawFrame, next_rows: Callable[[int, int], int], context: str
    ) -> Iterator[RawFrame]:
        expected = 0
        while True:
            count, done, size = frame.count, frame.done, frame.size
            if not count and not done:
                raise StatementLost(
                    f"{context}: Got an empty frame, but the statement is not done, after {expected} rows: read again"
                )
            if count and frame.offset != expected:
                raise StatementLost(
                    f"{context}: a frame begins at row {frame.offset} instead of {expected}: read again"
                )
            self.last_used = time.monotonic()
            frame.offset = expected  # one without rows may say anything
            expected += count
            asked = None
            after = f"{context}, after {expected} rows"
            if not done:
                request = requests_pb2.FetchRequest(
                    connection_id=self._id,
                    statement_id=statement,
                    offset=expected,
                    frame_max_size=next_rows(count, size),
                )
                with phoenix_errors(after):
                    asked = self._client.ask_ahead(request)
            yield frame
            del frame
            if asked is None:
                break
            with phoenix_errors(after):
                answer = self._client.read(asked(), "FetchResponse")
                frame = frame_of(answer, first=False, context=after)
            del asked, answer
        self._forget(statement, context)

    def _forget(self, statement: int, context: str) -> None:
        """Close a statement whose rows have all come; if that fails nothing is lost but the connection."""
        try:
            with phoenix_errors(f"{context}, closing the statement"):
                self._client.close_statement(self._id, statement)
        except EtlError as error:
            log.warning("source_statement_not_closed", error=str(error), next="the connection is dropped")
            self.discard()

    @property
    def open(self) -> bool:
        """Whether statements may be run on it."""
        return self._client.session is not None

    def discard(self) -> None:
        """Close the sockets and say nothing to the server, which forgets the connection by itself."""
        self._client.abandon()

    def close(self) -> None:
        """Close it on the server too; raises by the error table, the sockets are closed in any case."""
        try:
            with phoenix_errors(f"closing the connection to the Query Server of {self._place}"):
                self._client.close_connection(self._id)
        finally:
            self.discard()
