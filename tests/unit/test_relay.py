"""The relay breaks connections the way it says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from devstack.relay import Relay


@pytest.fixture
def relay() -> Iterator[Relay]:
    """A relay before a server that answers every request with twenty times the same."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    def answer(client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(100):
                    client.sendall(data * 20)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    with Relay(listener.getsockname()[1]) as relay:
        yield relay
    listener.close()


def connected(relay: Relay) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", relay.port), timeout=5)
    client.settimeout(5)
    return client


def all_of(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += client.recv(100)
    return data


def test_it_passes_both_ways(relay: Relay) -> None:
    with connected(relay) as client:
        client.sendall(b"ping!")
        assert all_of(client, 100) == b"ping!" * 20


@pytest.mark.parametrize("fault", ["silence", "mute"])
def test_silence_keeps_the_connection_and_what_was_sent_arrives_later(relay: Relay, fault: str) -> None:
    with connected(relay) as client:
        client.sendall(b"x")
        all_of(client, 20)
        getattr(relay, fault)()
        client.sendall(b"y")
        client.settimeout(0.4)
        with pytest.raises(TimeoutError):
            client.recv(1)
        relay.restore()
        client.settimeout(5)
        assert all_of(client, 20) == b"y" * 20


def ending(client: socket.socket) -> bytes:
    """What still comes until the connection ends, by a reset or an end; raises TimeoutError when it does not end."""
    data = b""
    try:
        while got := client.recv(100):
            data += got
    except ConnectionError:
        return data
    return data


def test_a_cut_ends_connections(relay: Relay) -> None:
    with connected(relay) as client:
        client.sendall(b"x")
        all_of(client, 20)
        relay.cut()
        assert ending(client) == b""


def test_it_refuses_until_it_is_restored(relay: Relay) -> None:
    relay.refuse()
    # The reset may come while the connection is still being made.
    with suppress(ConnectionError), connected(relay) as client:
        assert ending(client) == b""
    relay.restore()
    with connected(relay) as client:
        client.sendall(b"x")
        assert all_of(client, 20) == b"x" * 20


def test_an_answer_is_cut_where_it_was_told(relay: Relay) -> None:
    relay.cut_answer_after(45)
    with connected(relay) as client:
        client.sendall(b"x")
        assert all_of(client, 20) == b"x" * 20
        client.sendall(b"0123456789")
        assert len(ending(client)) <= 25
    assert relay.cuts == 1
    with connected(relay) as client:
        client.sendall(b"x")
        assert all_of(client, 20) == b"x" * 20
