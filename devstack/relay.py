"""A TCP relay between us and a service, to break what no service breaks by itself: silence, cut answers, refusals."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

POLL_S = 0.1
CHUNK_BYTES = 65536


class _Pair:
    """A connection and its other half. Two threads use each socket, so nobody closes one under another's hands: who
    wants to reset them says so, and the last thread to leave closes them.
    """

    def __init__(self, client: socket.socket, server: socket.socket, born: int) -> None:
        self.client = client
        self.server = server
        self.born = born
        self.reset = threading.Event()
        self._users = 2
        self._lock = threading.Lock()
        for one in (client, server):
            # Never changed again: a time-out holds for the other thread's calls too.
            one.settimeout(POLL_S)

    def leave(self) -> None:
        """One of the two threads is done."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
        for one in (self.client, self.server):
            if self.reset.is_set():
                _reset(one)
            one.close()

    def send(self, sink: socket.socket, data: bytes) -> None:
        """Send all, unless the connection is to be reset."""
        left = memoryview(data)
        while left and not self.reset.is_set():
            try:
                left = left[sink.send(left) :]
            except TimeoutError:
                continue  # the other side does not read now


class Relay:
    """Listens on a port of its own (``port``) on 127.0.0.1 and passes bytes to and from ``target_port``.

    ``silence``: connections stay open and pass nothing, either way (a half-open socket, a firewall that forgot).
    ``forget``: the connections there are pass nothing any more, for ever; new ones are served (a firewall restarted).
    ``mute``: requests pass, answers do not. ``cut``: every connection is reset. ``refuse``: new ones are reset at once.
    ``cut_answer_after``: the next connection that gets more than so many bytes of answer is reset there.
    ``alter_answers``: every piece of an answer is changed on its way, as somebody in between would.
    ``silence_at``, ``cut_answer_to``: silence, or a lost answer, at a request that is known by its text.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(POLL_S)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[_Pair] = []
        self._pass = threading.Event()
        self._pass_answers = threading.Event()
        self._refusing = False
        self._ended = False
        self._cut_after: int | None = None
        self._texts: tuple[bytes, ...] = ()
        self._silent_at_texts = False
        self._unanswered: set[socket.socket] = set()
        self._alter: Callable[[bytes], bytes] | None = None
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
            pair.reset.set()

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

    def alter_answers(self, change: Callable[[bytes], bytes]) -> None:
        """Pass what ``change`` makes of each piece of an answer; it keeps their length."""
        self._alter = change

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
                pair = _Pair(client, server, self._generation)
                self._pairs.append(pair)
            for answers in (False, True):
                threading.Thread(target=self._pump, args=(pair, answers), daemon=True).start()

    def _pump(self, pair: _Pair, answers: bool) -> None:
        source, sink = (pair.server, pair.client) if answers else (pair.client, pair.server)
        try:
            self._pass_on(pair, source, sink, answers)
        except OSError:
            pair.reset.set()  # the peer is gone, and not politely
        finally:
            pair.leave()

    def _pass_on(self, pair: _Pair, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        passed = texts_seen = 0
        while not pair.reset.is_set():
            try:
                data = source.recv(CHUNK_BYTES)
            except TimeoutError:
                continue
            while not self._may_pass(answers, pair.born):
                if pair.reset.wait(POLL_S / 2):
                    return
            if not data:
                with contextlib.suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)
                return
            passed += len(data)
            if not answers:
                texts_seen = self._look_for_text(data, texts_seen, sink)
            elif self._answer_is_to_be_lost(source):
                pair.reset.set()
                return
            if answers and (left := self._to_cut(passed, len(data))) is not None:
                pair.send(sink, data[:left])
                pair.reset.set()
                return
            pair.send(sink, self._alter(data) if answers and self._alter else data)

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
