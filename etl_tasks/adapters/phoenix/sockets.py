"""The sockets under an HTTP session, which requests keeps to itself: when a request has gone out, and how to end it."""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from etl_tasks.threads import Flag


class Sockets:
    """Made for one session. ``sent`` is set whenever a request has been sent, an unauthenticated one included; it may
    be replaced by a new one before a request.

    ``pools`` are for urllib3's ``pool_classes_by_scheme``: their sockets are known here.
    """

    def __init__(self) -> None:
        self.sent = Flag()
        self.pools = _pools_known_to(self)
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._shut = False

    def shut(self) -> None:
        """End what any thread waits for on them, now and later; a connection that is being made ends when it is made.

        They are closed by whoever opened them: the number of a closed one may be another's at once.
        """
        with self._lock:
            self._shut = True
            for each in self._open:
                _shut_down(each)

    def add(self, opened: socket.socket) -> None:
        """One more, as soon as it is connected. It is kept apart from its connection, which lets go of it while the
        last answer is still read.
        """
        with self._lock:
            self._open.add(opened)
            if self._shut:
                _shut_down(opened)


def _pools_known_to(sockets: Sockets) -> dict[str, type[HTTPConnectionPool]]:
    class Plain(HTTPConnection):
        """A connection that says what it does."""

        def connect(self) -> None:
            super().connect()
            if self.sock is not None:
                sockets.add(self.sock)

        def request(self, *args: Any, **kwargs: Any) -> None:
            super().request(*args, **kwargs)
            sockets.sent.set()

    class Encrypted(Plain, HTTPSConnection):
        """The same over TLS."""

    class PlainPool(HTTPConnectionPool):
        """A pool of them."""

        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        """A pool of them."""

        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}


def _shut_down(opened: socket.socket) -> None:
    """Not by TLS's own shutdown, which is not for another thread's socket."""
    with contextlib.suppress(OSError):  # closed already, or by the other side
        socket.socket.shutdown(opened, socket.SHUT_RDWR)
