"""The sockets under an HTTP session, which requests keeps to itself: when a request has gone out, and how to end it."""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection


class Sockets:
    """Made for one session. ``sent`` is set whenever a request has been sent whole."""

    def __init__(self) -> None:
        self.sent = threading.Event()
        self._lock = threading.Lock()
        self._connections: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        self._shut = False

    def pools(self) -> dict[str, Callable[..., Any]]:
        """urllib3's ``pool_classes_by_scheme``, whose connections are known here."""
        known = self

        class Plain(HTTPConnection):
            """A connection that says what it does."""

            def connect(self) -> None:
                super().connect()
                known._add(self)

            def request(self, *args: Any, **kwargs: Any) -> None:
                super().request(*args, **kwargs)
                known.sent.set()

        class Encrypted(Plain, HTTPSConnection):
            """The same over TLS."""

        class PlainPool(HTTPConnectionPool):
            """A pool of them."""

            ConnectionCls = Plain

        class EncryptedPool(HTTPSConnectionPool):
            """A pool of them."""

            ConnectionCls = Encrypted

        return {"http": PlainPool, "https": EncryptedPool}

    def shut(self) -> None:
        """End what any thread waits for on them, now and later. They are closed by whoever opened them: the number of a
        closed one may be another's at once.
        """
        with self._lock:
            self._shut = True
            for connection in self._connections:
                _shut_down(connection)

    def _add(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._connections.add(connection)
            if self._shut:
                _shut_down(connection)


def _shut_down(connection: HTTPConnection) -> None:
    """Not by TLS's own shutdown, which is not for another thread's socket."""
    open_socket = connection.sock
    if open_socket is not None:
        with contextlib.suppress(OSError):  # closed already, or by the other side
            socket.socket.shutdown(open_socket, socket.SHUT_RDWR)
