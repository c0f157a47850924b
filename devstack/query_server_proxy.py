"""An HTTP proxy before the Query Server: remembers who asked what, gives answers that no server gives on demand."""

from __future__ import annotations

import http.client
import ssl
import sys
import threading
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

from phoenixdb.avatica.proto import common_pb2, requests_pb2

PATIENCE_S = 600.0


@dataclass(frozen=True)
class Reply:
    """An answer over HTTP; ``cut_at``: so many bytes of the body come, then the connection is closed."""

    status: int
    content_type: str
    body: bytes
    cut_at: int | None = None


HEAP_GONE = Reply(
    500,
    "text/html;charset=iso-8859-1",
    b"<html><head><title>Error 500 java.lang.OutOfMemoryError: Java heap space</title></head>"
    b"<body><h2>HTTP ERROR 500 java.lang.OutOfMemoryError: Java heap space</h2></body></html>",
)
"""What a Query Server without heap sends (seen with -Xmx120m)."""


@dataclass(frozen=True)
class Asked:
    """One request: its kind without package and "Request" (``Fetch``, ``PrepareAndExecute``), and what it was about."""

    kind: str
    connection: str
    statement: int
    sql: str
    answered: Reply


class QueryServerProxy:
    """Context manager: listens on a port of its own on 127.0.0.1 and passes requests on to the server of ``url``.

    A client keeps its connection to the proxy while the server behind is restarted, as behind a load balancer. With
    ``tls`` it speaks https.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        target = urlsplit(url)
        self._target = target.hostname or "", target.port or 80
        self._lock = threading.Lock()
        self._asked: list[Asked] = []
        self._instead: list[tuple[str, Reply | float | threading.Event]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            """One client's connection, with one to the server behind it."""

            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                """Answer one request."""
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                reply = proxy._answer(body)
                self.send_response(reply.status)
                self.send_header("content-type", reply.content_type)
                self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body[: reply.cut_at])
                self.close_connection = self.close_connection or reply.cut_at is not None

            def log_message(self, format: str, *args: object) -> None:
                """Print nothing."""

        class Server(ThreadingHTTPServer):
            """Says nothing of a client that has left without waiting for its answer."""

            daemon_threads = True
            block_on_close = False
            request_queue_size = 64

            def handle_error(self, request: object, client_address: object) -> None:
                """Keep what went wrong for the end."""
                error = sys.exception()
                # (the second as Python 3.11 says of TLS what the first says of plain text)
                if not isinstance(error, ConnectionError | ssl.SSLEOFError):
                    proxy.faults.append(repr(error))

        self.faults: list[str] = []
        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            # The handshake is left to the thread of the request, which may wait for it.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> QueryServerProxy:
        threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True, name="query server proxy"
        ).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        if kind is None and self.faults:
            raise AssertionError(f"the proxy broke down: {self.faults[:5]}")

    def answer_instead(self, kind: str, reply: Reply, times: int = 1) -> None:
        """The next ``times`` requests of this kind get ``reply``; the server does not see them."""
        with self._lock:
            self._instead += [(kind, reply)] * times

    def cut_answer(self, kind: str, share: float) -> None:
        """The server's next answer to this kind of request is cut off after this share of its bytes."""
        with self._lock:
            self._instead.append((kind, float(share)))

    def hold_answer(self, kind: str) -> threading.Event:
        """The server's next answer to this kind of request is kept back until the event that is returned is set."""
        released = threading.Event()
        with self._lock:
            self._instead.append((kind, released))
        return released

    def asked(self, kind: str = "", connection: str = "", sql: str = "") -> list[Asked]:
        """Requests answered so far, of this kind, connection and statement's text where given."""
        with self._lock:
            return [
                one
                for one in self._asked
                if kind in ("", one.kind) and connection in ("", one.connection) and sql in one.sql
            ]

    def _answer(self, body: bytes) -> Reply:
        kind, connection, statement, sql = _read(body)
        with self._lock:
            planned = next((one for one in self._instead if one[0] == kind), None)
            if planned is not None:
                self._instead.remove(planned)
        change = planned[1] if planned is not None else None
        reply = change if isinstance(change, Reply) else self._pass_on(body)
        if isinstance(change, threading.Event):
            change.wait(PATIENCE_S)
        elif isinstance(change, float):
            reply = replace(reply, cut_at=int(change * len(reply.body)))
        with self._lock:
            self._asked.append(Asked(kind, connection, statement, sql, reply))
        return reply

    def _pass_on(self, body: bytes) -> Reply:
        server = http.client.HTTPConnection(*self._target, timeout=PATIENCE_S)
        try:
            server.request("POST", "/", body, {"content-type": "application/x-google-protobuf"})
            response = server.getresponse()
            return Reply(response.status, response.getheader("content-type") or "", response.read())
        except (OSError, http.client.HTTPException) as error:
            return Reply(502, "text/plain", f"the server behind does not answer: {error}".encode())
        finally:
            server.close()


def _read(body: bytes) -> tuple[str, str, int, str]:
    """Kind, connection, statement and text of a request."""
    wire = common_pb2.WireMessage.FromString(body)
    name = wire.name.rpartition("$")[2]
    request = getattr(requests_pb2, name).FromString(wire.wrapped_message)
    return (
        name.removesuffix("Request"),
        getattr(request, "connection_id", ""),
        int(getattr(request, "statement_id", 0)),
        getattr(request, "sql", ""),
    )
