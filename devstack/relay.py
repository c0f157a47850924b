"""A TCP relay between us and a service, to break what no service breaks by itself: silence, cut answers, refusals."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from types import TracebackType

POLL_S = 0.1
CHUNK_BYTES = 65536


class Relay:
    """Listens on a port of its own (``port``) on 127.0.0.1 and passes bytes to and from ``target_port``.

    ``silence``: connections stay open and pass nothing, either way (a half-open socket, a firewall that forgot).
    ``forget``: the connections there are pass nothing any more, for ever; new ones are served (a firewall restarted).
    ``mute``: requests pass, answers do not. ``cut``: every connection is reset. ``refuse``: new ones are reset at once.
    ``cut_answer_after``: the next connection that gets more than so many bytes of answer is reset there.
    ``silence_at``, ``cut_answer_to``: silence, or a lost answer, at a request that is known by its text.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(POLL_S)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._pass = threading.Event()
        self._pass_answers = threading.Event()
        self._refusing = False
        self._ended = False
        self._cut_after: int | None = None
        self._texts: tuple[bytes, ...] = ()
        self._silent_at_texts = False
        self._unanswered: set[socket.socket] = set()
        self._generation = 0
        self.cuts = 0
        self._pass.set()
        self._pass_answers.set()
        threading.Thread(target=self._accept, daemon=True, name=f"relay {target_port}").start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- faults ---------------------------------------------------------------------------------------------------

    def silence(self) -> None:
        """Pass nothing from now on, no end of a connection either; new connections are taken, and pass nothing."""
        self._pass.clear()

    def forget(self) -> None:
        """Pass nothing more of the connections there are, whatever comes; new ones are served."""
        self._generation += 1

    def mute(self) -> None:
        """Pass requests, and keep the answers."""
        self._pass_answers.clear()

    def restore(self) -> None:
        """Pass everything again, also what was kept."""
        self._refusing = False
        self._pass.set()
        self._pass_answers.set()

    def cut(self) -> None:
        """Reset every connection there is."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _reset(*pair)

    def refuse(self) -> None:
        """Reset every connection, and each new one at once."""
        self._refusing = True
        self.cut()

    def cut_answer_after(self, size: int) -> None:
        """Reset the next connection whose answers, from now on, come to more than ``size`` bytes; ``cuts`` counts."""
        with self._lock:
            self._cut_after = size

    def silence_at(self, *texts: bytes) -> None:
        """Silence as soon as a connection has sent requests with these texts, one after the other.

        The last of them still passes.
        """
        with self._lock:
            self._texts, self._silent_at_texts = texts, True

    def cut_answer_to(self, *texts: bytes) -> None:
        """The same, but the service answers, and instead of this answer the connection is reset; ``cuts`` counts."""
        with self._lock:
            self._texts, self._silent_at_texts = texts, False

    def close(self) -> None:
        """End the relay and its connections."""
        self._ended = True
        self.cut()
        self._listener.close()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return  # closed
            if self._refusing or self._ended:
                _reset(client)
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
            except OSError:
                _reset(client)
                continue
            with self._lock:
                self._pairs.append((client, server))
                born = self._generation
            for source, sink, answers in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, answers, born), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool, born: int) -> None:
        source.settimeout(POLL_S)
        passed = texts_seen = 0
        try:
            while not self._ended:
                try:
                    data = source.recv(CHUNK_BYTES)
                except TimeoutError:
                    continue
                while not self._may_pass(answers, born):
                    if source.fileno() < 0:
                        return  # cut meanwhile
                    time.sleep(POLL_S / 2)
                if not data:
                    break
                passed += len(data)
                if not answers:
                    texts_seen = self._look_for_text(data, texts_seen, sink)
                elif self._answer_is_to_be_lost(source):
                    _reset(sink, source)
                    return
                if answers and (left := self._to_cut(passed, len(data))) is not None:
                    sink.settimeout(None)
                    sink.sendall(data[:left])
                    _reset(source, sink)
                    return
                sink.settimeout(None)
                sink.sendall(data)
                sink.settimeout(POLL_S)
        except OSError:
            pass  # cut, or the other side is gone: the sockets are closed below
        finally:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

    def _may_pass(self, answers: bool, born: int) -> bool:
        passes = self._pass.is_set() and (self._pass_answers.is_set() or not answers) and born == self._generation
        return self._ended or passes

    def _look_for_text(self, data: bytes, seen: int, server: socket.socket) -> int:
        """How many of the texts this connection has sent; at the last one the fault begins, once."""
        with self._lock:
            if seen < len(self._texts) and self._texts[seen] in data:
                seen += 1
                if seen == len(self._texts):
                    self._texts, seen = (), 0
                    if self._silent_at_texts:
                        self._pass.clear()
                    else:
                        self._unanswered.add(server)
        return seen

    def _answer_is_to_be_lost(self, server: socket.socket) -> bool:
        with self._lock:
            if server not in self._unanswered:
                return False
            self._unanswered.remove(server)
            self.cuts += 1
            return True

    def _to_cut(self, passed: int, size: int) -> int | None:
        """How much of the answer at hand may still pass when it is the one to cut, else None."""
        with self._lock:
            if self._cut_after is None or passed <= self._cut_after:
                return None
            left = max(0, self._cut_after - (passed - size))
            self._cut_after = None
            self.cuts += 1
            return left


def _reset(*sockets: socket.socket) -> None:
    """Close with RST: what a dead peer's kernel sends."""
    for one in sockets:
        with contextlib.suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # No shutdown before it: the peer would see a polite end first. Who waits in recv comes back by itself.
        one.close()
