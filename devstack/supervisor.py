"""Workers that are started again whenever they end: by supervisord here, by systemd or compose in production."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from devstack.process import dies_with_us

ROOT = Path(__file__).parents[1]
STOP_PATIENCE_S = 25

# A worker that is killed leaves its children; supervisord does not end those, so they go on as zombies may: the journal
# has to bear it. They go when the supervisor does. startretries counts ends within startsecs only.
HEAD = """\
[unix_http_server]
file={home}/sock
chmod=0700
[supervisord]
nodaemon=true
logfile={home}/supervisord.log
pidfile={home}/pid
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
PROGRAM = """\
[program:{name}]
command={command}
directory={directory}
autorestart=true
startsecs=1
startretries=1000
stopwaitsecs={patience}
killasgroup=true
stdout_logfile={log}
stdout_logfile_maxbytes=0
redirect_stderr=true
"""


class Supervisor:
    """Context manager: the programs run, each with a log ``<name>.log`` in ``logs``, until its end.

    Secrets come to the programs by ``env``, which is supervisord's own; its configuration holds none.
    """

    def __init__(self, programs: Mapping[str, Sequence[str]], env: Mapping[str, str], logs: Path) -> None:
        self._programs = programs
        self._env = dict(env)
        self.logs = logs
        # Not below the logs: a socket's path has room for 108 bytes.
        self._home = Path(tempfile.mkdtemp(prefix="supervisor-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start supervisord and with it the programs."""
        config = self._home / "supervisord.conf"
        programs = [
            PROGRAM.format(
                name=name,
                command=shlex.join(command).replace("%", "%%"),
                directory=ROOT,
                patience=STOP_PATIENCE_S,
                log=self.logs / f"{name}.log",
            )
            for name, command in self._programs.items()
        ]
        config.write_text(HEAD.format(home=self._home) + "".join(programs))
        self._process = subprocess.Popen(
            dies_with_us([sys.executable, "-m", "supervisor.supervisord", "-c", str(config)]),
            cwd=ROOT,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 20
        while not (self._home / "sock").exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"supervisord did not start: {self._log()}")
            time.sleep(0.05)

    def pid(self, name: str) -> int | None:
        """The pid of a program now; None while it is not there."""
        pid = int(self._call("getProcessInfo", name)["pid"])
        return pid or None

    def signal(self, name: str, number: int) -> bool:
        """Send a signal to a program's main process; False when it is not there."""
        pid = self.pid(name)
        if pid is None:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def restart(self, name: str) -> None:
        """End a program politely and start it again, as a deployment of new code does."""
        try:
            self._call("stopProcess", name)
        except Fault as fault:
            if "NOT_RUNNING" not in fault.faultString:
                raise
        self._call("startProcess", name)

    def wait_restarted(self, name: str, old_pid: int | None, timeout_s: float = 30.0) -> int:
        """The pid of the program once it is another than ``old_pid``."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            pid = self.pid(name)
            if pid is not None and pid != old_pid:
                return pid
            time.sleep(0.1)
        raise AssertionError(f"{name} was not started again in {timeout_s:g} s: {self._log()}")

    def ended(self) -> bool:
        """Whether supervisord has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def stop(self) -> None:
        """End the programs politely, then by force, and supervisord with them."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_PATIENCE_S + 10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        self._kill_left()
        shutil.rmtree(self._home, ignore_errors=True)

    def _kill_left(self) -> None:
        """End whoever was started here and is still there, such as the children of a worker that was killed."""
        # supervisord tells every program where it listens; this place is ours alone, and children inherit it.
        mark = f"SUPERVISOR_SERVER_URL=unix://{self._home}/sock".encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it has just ended, or is somebody else's

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._home}/sock")
        with ServerProxy("http://127.0.0.1", transport=transport) as server:
            return getattr(server.supervisor, method)(*arguments)

    def _log(self) -> str:
        log = self._home / "supervisord.log"
        return log.read_text()[-2000:] if log.exists() else "(no log)"
