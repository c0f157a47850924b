"""What all parts of the stack have in common."""

import os
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from devstack import passwords
from devstack.cache import Tools
from devstack.config import Config
from devstack.errors import DevstackError, NotReady
from devstack.process import POLL_S, Daemon, Identity, family, kill_now, wait_gone

GRACE_S = 7.0  # after it a part that was asked to end is killed; with the rest it keeps `down` within 10 s


@dataclass(frozen=True)
class Launch:
    """How to start a part."""

    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)


class Part(ABC):
    """One service of the stack, one process (with its children)."""

    name: str
    port_names: tuple[str, ...]
    ready_timeout_s = 60.0
    check_patience_s = 5.0  # how long one query of the wait for readiness may take
    stop_signal: int = signal.SIGTERM
    launch_attempts = 1

    def __init__(self, config: Config, tools: Tools) -> None:
        self.config = config
        self.tools = tools
        self.dir = config.state_dir / self.name
        self.daemon = Daemon(self.name, config.state_dir / "run", config.state_dir / "log")

    @abstractmethod
    def launch(self) -> Launch:
        """Write the part's configuration and say how to start it."""

    @abstractmethod
    def check(self, patience_s: float = 5.0) -> None:
        """Ask the part a real query; raise NotReady when it does not answer in time."""

    def identity(self) -> Identity | None:
        """The part's running process, or None."""
        return self.daemon.identity()

    def password(self) -> str:
        """The part's password."""
        return passwords.load(self.config.state_dir)[self.name.rstrip("0123456789")]

    def refuse_taken_ports(self) -> None:
        """Raise a clear error when a port of this part belongs to something else."""
        for name in self.port_names:
            port = self.config.ports[name]
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port.number))
                except OSError as error:
                    raise DevstackError(
                        f"port {port.number} for {port.name} is taken by another process ({error.strerror}): "
                        f"set {port.variable}, or DEVSTACK_PORT_BASE to move all ports"
                    ) from error

    def start(self) -> None:
        """Start the process, without waiting for an answer."""
        self.dir.mkdir(parents=True, exist_ok=True)
        how = self.launch()
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PG", "REDIS"))}
        self.daemon.start(how.argv, {**env, "TZ": "UTC", **how.env}, how.cwd)

    def wait_ready(self, report: Callable[[str], None]) -> None:
        """Wait for an answer to a real query, in bounded time; start again what died of something passing."""
        began = time.monotonic()
        launches = 1
        while True:
            running = self.identity()
            reason = "its process ended"
            if running is not None:
                try:
                    self.check(self.check_patience_s)
                except NotReady as error:
                    reason = str(error)
                else:
                    report(f"{self.name} ready ({time.monotonic() - began:.1f} s)")
                    return
            elif launches >= self.launch_attempts:
                raise DevstackError(f"{self.name} ended at its start; its log {self.daemon.log} ends:\n{self._tail()}")
            else:
                launches += 1
                time.sleep(1.0)
                self.start()
            if time.monotonic() - began > self.ready_timeout_s:
                raise DevstackError(
                    f"{self.name} did not answer within {self.ready_timeout_s:.0f} s ({reason}); "
                    f"its log {self.daemon.log} ends:\n{self._tail()}"
                )
            time.sleep(POLL_S)

    def _tail(self) -> str:
        return self.daemon.tail()


def stop(parts: Sequence[Part], grace_s: float = GRACE_S) -> list[str]:
    """End the parts, all at once: first politely, after the grace by SIGKILL. Returns the names of the killed."""
    running = {part.name: (part, members) for part in parts if (members := _members(part))}
    for part, members in running.values():
        for member in members:
            member.send(signal.SIGCONT)  # a paused process would not hear anything else
        members[0].send(part.stop_signal)
    everyone = [member for _, members in running.values() for member in members]
    left = wait_gone(everyone, grace_s)
    killed = [name for name, (_, members) in running.items() if any(member in left for member in members)]
    stubborn = kill_now(left, 2.0)
    if stubborn:
        raise DevstackError(f"processes {[member.pid for member in stubborn]} do not end, not even by SIGKILL")
    for part in parts:
        part.daemon.forget()
    return killed


def kill(part: Part) -> None:
    """SIGKILL the part's process as a crash would, then wait until its children have noticed and are gone too."""
    members = _members(part)
    if not members:
        return
    kill_now(members[:1])
    kill_now(wait_gone(members[1:], 3.0))


def _members(part: Part) -> list[Identity]:
    identity = part.identity()
    return [] if identity is None else family(identity)
