"""The whole stack: start, stop and look at its parts."""

import contextlib
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from devstack import cache, config, passwords
from devstack import overload as overload_form
from devstack import part as parts
from devstack.clickhouse import CLUSTER, SHARDS, ClickHouse
from devstack.clickhouse import USER as CH_USER
from devstack.errors import DevstackError, NotReady
from devstack.oracle import STATE_FILE
from devstack.part import Part
from devstack.phoenix import HBase, QueryServer
from devstack.postgres import Postgres
from devstack.process import family, resident_bytes, unread_bytes
from devstack.redis import Redis

CORE = ("postgres", "redis", *SHARDS)
PHOENIX = ("hbase", "pqs")
ALL = (*CORE, *PHOENIX)
STATE_FILES = ("env", "passwords.json", "overload", "lock", STATE_FILE)
STOP_ORDER = ("pqs", "redis", *SHARDS, "hbase", "postgres")


def _silent(_: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class PartStatus:
    """One part as it is now."""

    name: str
    pid: int | None
    ready: bool
    detail: str
    ports: str
    memory_mb: int


class Stack:
    """The parts by name; what tests and the command line use."""

    def __init__(self, settings: config.Config, report: Callable[[str], None] = _silent) -> None:
        self.config = settings
        self.report = report
        self.tools = cache.Tools(settings.cache_dir, report)
        self._parts: dict[str, Part] = {}

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, report: Callable[[str], None] = _silent) -> "Stack":
        """The stack that the environment names (`DEVSTACK_DIR`, `DEVSTACK_PORT_BASE`)."""
        return cls(config.load(environ), report)

    # -- the whole ---------------------------------------------------------------------------------------------

    def up(self, phoenix: bool = True, overload: bool | None = None, only: Sequence[str] = ()) -> None:
        """Start what is not running and wait until every part has answered a real query.

        `overload=None` leaves the Query Server in the form it has; another form restarts it.
        """
        names = tuple(self._known(only)) or (ALL if phoenix else CORE)
        with self._locked():
            self._start(names)
            self._write_env()
            if "pqs" in names and overload is not None:
                self._set_overload(overload)

    def down(self) -> None:
        """End every part that runs, within 10 s; touches nothing else."""
        if not self.config.state_dir.exists():
            return
        with self._locked(patience_s=1.0):
            self._stop(STOP_ORDER)

    def wipe(self) -> None:
        """`down`, then delete all state (the downloads stay)."""
        self.down()
        # By name, since DEVSTACK_DIR may be set to a directory that holds other things too.
        for name in (*ALL, "run", "log"):
            if (self.config.state_dir / name).exists():
                shutil.rmtree(self.config.state_dir / name)
        for name in STATE_FILES:
            (self.config.state_dir / name).unlink(missing_ok=True)
        if self.config.state_dir.exists() and not any(self.config.state_dir.iterdir()):
            self.config.state_dir.rmdir()

    def status(self) -> list[PartStatus]:
        """Every part as it is now, each asked its real query."""
        if not self.config.state_dir.exists():
            return []
        return [self._status(name) for name in ALL]

    def env(self) -> dict[str, str]:
        """The settings with which workers and tests reach this stack."""
        ports = self.config.port
        postgres, redis = self._part("postgres"), self._part("redis")
        assert isinstance(postgres, Postgres)
        assert isinstance(redis, Redis)
        return {
            "PG_DSN": postgres.dsn(),
            "REDIS_URL": redis.url(),
            "PQS_URL": f"http://127.0.0.1:{ports('pqs')}/",
            "CH_HOSTS": ",".join(f"127.0.0.1:{ports(shard)}" for shard in SHARDS),
            "CH_USER": CH_USER,
            "CH_PASSWORD": passwords.load(self.config.state_dir)["clickhouse"],
            "CH_CLUSTER": CLUSTER,
            "CH_DB": "stg",
            "CH_RAW_TABLE": "stg.daily_codes_history_raw_all",
            "CH_CLEAN_TABLE": "stg.daily_codes_history",
            "CH_CLEAN_ALL_TABLE": "stg.daily_codes_history_all",
            "CH_DEDUP_BUF_TABLE": "stg.daily_codes_history_dedup_buf",
            "HBASE_MAIN_TABLE": "TBL_JTI_TRACE_CIS_HISTORY",
            "HBASE_MAIN_TS_COLUMN": "opd",
            "PHX_QUERY_SHIFT_MINUTES": "0",
            "JOURNAL_TABLE": "public.inc_processing",
            "PROCESS_NAME": "codes_history_increment",
        }

    # -- one part ----------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start one part and wait for its answer; harmless when it runs."""
        with self._locked():
            self._start(self._known([name]))

    def stop(self, name: str) -> None:
        """End one part politely, after 7 s by SIGKILL."""
        with self._locked():
            self._stop(self._known([name]))

    def kill(self, name: str) -> None:
        """End one part by SIGKILL, as a crash would."""
        parts.kill(self._part(*self._known([name])))

    def pause(self, name: str) -> None:
        """Freeze one part (SIGSTOP): its port stays open and nothing answers."""
        self._send(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a frozen part go on (SIGCONT)."""
        self._send(name, signal.SIGCONT)

    def unread_bytes(self, name: str) -> int:
        """What clients have sent to a part and it has not taken: of a frozen one, the requests that wait for it."""
        part = self._part(*self._known([name]))
        return sum(unread_bytes(self.config.port(port)) for port in part.port_names)

    def pid(self, name: str) -> int | None:
        """The pid of a part, or None when it does not run."""
        identity = self._part(*self._known([name])).identity()
        return None if identity is None else identity.pid

    def set_overload(self, wanted: bool) -> None:
        """Restart the Query Server in the overload form, or back in the ordinary one; harmless when it is in it.

        The overload form also needs the source table's index and guideposts, which are made here if the table is
        there. `refresh_overload` makes them anew after rows were added.
        """
        with self._locked():
            self._set_overload(wanted)

    def refresh_overload(self) -> None:
        """When the Query Server has the overload form: collect the source table's guideposts anew."""
        with self._locked():
            if self._query_server().overload and self._query_server().identity() is not None:
                self._set_overload(False)
                self._set_overload(True)

    # -- inside ------------------------------------------------------------------------------------------------

    def _start(self, names: Sequence[str]) -> None:
        todo = [name for name in names if self._part(name).identity() is None]
        for name in todo:
            self._part(name).refuse_taken_ports()
        self._prepare(todo)
        for name in names:  # each is given the CPU while another waits; pqs must find HBase up
            if name == "pqs":
                continue
            if name in todo:
                self._part(name).start()
        for name in (name for name in names if name != "pqs"):
            self._part(name).wait_ready(self.report)
        if "pqs" in names:
            if "pqs" in todo:
                if "hbase" not in names and self._part("hbase").identity() is not None:
                    self._part("hbase").wait_ready(_silent)
                self._part("pqs").start()
            self._part("pqs").wait_ready(self.report)

    def _stop(self, names: Sequence[str]) -> None:
        running = [name for name in names if self._part(name).identity() is not None]
        killed = parts.stop([self._part(name) for name in names])
        for name in running:
            self.report(f"{name} ended" + (" (by SIGKILL)" if name in killed else ""))

    def _prepare(self, names: Sequence[str]) -> None:
        """Fetch what the parts need, the jars and the service packages side by side."""
        wanted: list[Callable[[], object]] = []
        if any(name in CORE for name in names):
            wanted.append(lambda: self.tools.services_python)
        if any(name in PHOENIX for name in names):
            wanted.append(lambda: (self.tools.java, self.tools.jars))
        with ThreadPoolExecutor(max_workers=2) as pool:
            for fetched in [pool.submit(fetch) for fetch in wanted]:
                fetched.result()

    def _set_overload(self, wanted: bool) -> None:
        server = self._query_server()
        if server.overload != wanted:
            if wanted:
                self._arrange_source(server)
            self._stop(["pqs"])
            server.overload = wanted
        self._start(["pqs"])

    def _arrange_source(self, server: QueryServer) -> None:
        self._start(["pqs"])  # in the ordinary form: the overload form would reject an index's making
        try:
            found = overload_form.arrange(server.url())
        except NotReady as error:
            raise DevstackError(f"the source table could not be arranged for the overload form: {error}") from error
        if not found:
            self.report("the source table is not there yet: python -m devstack seed makes its index and guideposts")

    def _query_server(self) -> QueryServer:
        server = self._part("pqs")
        assert isinstance(server, QueryServer)
        return server

    def _send(self, name: str, sig: int) -> None:
        identity = self._part(*self._known([name])).identity()
        if identity is None:
            raise DevstackError(f"{name} does not run")
        for member in family(identity):
            member.send(sig)

    def _status(self, name: str) -> PartStatus:
        part = self._part(name)
        ports = " ".join(str(self.config.port(port)) for port in part.port_names)
        identity = part.identity()
        if identity is None:
            return PartStatus(name, None, False, "stopped", ports, 0)
        try:
            part.check()  # with little patience: status answers in seconds
            detail, ready = "ready", True
        except NotReady as error:
            detail, ready = str(error), False
        if isinstance(part, QueryServer) and part.overload:
            detail += " (overload form)"
        return PartStatus(name, identity.pid, ready, detail, ports, resident_bytes(family(identity)) // 2**20)

    def _part(self, name: str) -> Part:
        if name not in self._parts:
            simple: dict[str, type[Part]] = {"postgres": Postgres, "redis": Redis, "hbase": HBase, "pqs": QueryServer}
            if name in simple:
                self._parts[name] = simple[name](self.config, self.tools)
            else:
                self._parts[name] = ClickHouse(self.config, self.tools, name)
        return self._parts[name]

    @staticmethod
    def _known(names: Sequence[str]) -> list[str]:
        unknown = [name for name in names if name not in ALL]
        if unknown:
            raise DevstackError(f"no part is called {unknown[0]!r}; the parts are {', '.join(ALL)}")
        return [name for name in ALL if name in names]

    def _write_env(self) -> None:
        lines = [f"{key}={shlex.quote(value)}\n" for key, value in self.env().items()]
        passwords.write_private(self.config.state_dir / "env", "".join(lines))

    @contextlib.contextmanager
    def _locked(self, patience_s: float | None = None) -> Iterator[None]:
        """One command at a time on one state directory."""
        with cache.locked(self.config.state_dir / "lock", patience_s):
            yield


def timed(work: Callable[[], None]) -> float:
    """Seconds that the work took."""
    began = time.monotonic()
    work()
    return time.monotonic() - began
