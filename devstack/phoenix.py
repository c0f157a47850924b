"""HBase with Phoenix inside, and the Phoenix Query Server: two JVMs."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from devstack import passwords
from devstack.cache import Tools
from devstack.config import PACKAGE, Config
from devstack.errors import DevstackError, NotReady
from devstack.part import Launch, Part

MASTER_IS_UP = b"Master has completed initialization"
FIRST_CONNECT_TIMEOUT_S = 120.0  # the first connect creates Phoenix's own tables; cut short, one stays missing for good
OPENED = ("lang", "lang.reflect", "nio", "util", "util.concurrent")
JAVA_FLAGS = (
    *(f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in OPENED),
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-exports=java.base/jdk.internal.misc=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "-Duser.timezone=UTC",  # a Query Server outside UTC shifts bound datetimes
    "-Djava.net.preferIPv4Stack=true",
)
HEAP_VARIABLE = "DEVSTACK_HBASE_HEAP"
DEFAULT_HEAP = "1g"  # of each JVM; HBase needs 2g for rows of megabytes by the hundred
# A pool so small that a scan of many chunks is really rejected: with guideposts (see overload.py) chunks grow with
# the window, so that splitting the window cures it.
OVERLOAD = {"phoenix.query.threadPoolSize": "2", "phoenix.query.queueSize": "8"}


class HBase(Part):
    """ZooKeeper, master and region server in one JVM, on local files."""

    name = "hbase"
    port_names = ("zookeeper", "hbase_master", "hbase_region")
    ready_timeout_s = 120.0

    def launch(self) -> Launch:
        """Write hbase-site.xml and log4j.properties."""
        conf = self.dir / "conf"
        ports = self.config.port
        properties = {
            "hbase.rootdir": (self.dir / "root").as_uri(),
            "hbase.tmp.dir": str(self.dir / "tmp"),
            "hbase.zookeeper.property.dataDir": str(self.dir / "zk"),
            "hbase.zookeeper.property.clientPort": str(ports("zookeeper")),
            "hbase.zookeeper.quorum": "127.0.0.1",
            "hbase.cluster.distributed": "false",
            "hbase.unsafe.stream.capability.enforce": "false",
            # The checksumming local file system holds back what was flushed; the raw one hands it to the kernel, so
            # the log of writes survives a kill -9.
            "fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
            "hbase.wal.provider": "filesystem",
            "hbase.regionserver.wal.codec": "org.apache.hadoop.hbase.regionserver.wal.IndexedWALEditCodec",
            "hbase.master.port": str(ports("hbase_master")),
            "hbase.master.info.port": "-1",
            "hbase.regionserver.port": str(ports("hbase_region")),
            "hbase.regionserver.info.port": "-1",
            "hbase.master.ipc.address": "127.0.0.1",
            "hbase.regionserver.ipc.address": "127.0.0.1",
            "hbase.unsafe.master.hostname": "localhost",
            "hbase.unsafe.regionserver.hostname": "localhost",
            "hbase.master.hostname": "localhost",
            "hbase.regionserver.hostname": "localhost",
            "hbase.procedure.remote.dispatcher.delay.msec": "0",
            "hbase.master.start.timeout.localHBaseCluster": "60000",
        }
        _write_conf(conf, properties)
        jars = [str(jar) for jar in sorted(self.tools.jars.glob("*.jar")) if jar != self.tools.query_server_jar()]
        classpath = ":".join([str(conf), *jars])
        main = "org.apache.hadoop.hbase.master.HMaster"
        argv = [self.tools.java, *JAVA_FLAGS, f"-Xmx{_heap()}", f"-Djava.io.tmpdir={_tmp(self.dir)}", main, "start"]
        return Launch(argv, self.dir, {"CLASSPATH": classpath})

    def check(self, patience_s: float = 5.0) -> None:
        """The master says that it has come up, and the region server's port answers; the SELECT is the pqs's check."""
        log = self.daemon.log
        if not log.exists() or MASTER_IS_UP not in log.read_bytes():
            raise NotReady("the master has not completed its initialization")
        try:
            socket.create_connection(("127.0.0.1", self.config.port("hbase_region")), timeout=3).close()
        except OSError as error:
            raise NotReady(f"the region server's port: {error}") from error


class QueryServer(Part):
    """The Phoenix Query Server."""

    name = "pqs"
    port_names = ("pqs",)
    ready_timeout_s = 180.0
    check_patience_s = FIRST_CONNECT_TIMEOUT_S

    def __init__(self, config: Config, tools: Tools) -> None:
        super().__init__(config, tools)
        self._overload_marker = config.state_dir / "overload"

    @property
    def overload(self) -> bool:
        """Whether the next start takes the overload form."""
        return self._overload_marker.exists()

    @overload.setter
    def overload(self, wanted: bool) -> None:
        if wanted:
            self._overload_marker.touch()
        else:
            self._overload_marker.unlink(missing_ok=True)

    def launch(self) -> Launch:
        """Write the Query Server's configuration, in the ordinary or the overload form."""
        conf = self.dir / "conf"
        properties = {
            "hbase.zookeeper.quorum": "127.0.0.1",
            "hbase.zookeeper.property.clientPort": str(self.config.port("zookeeper")),
            "hbase.regionserver.wal.codec": "org.apache.hadoop.hbase.regionserver.wal.IndexedWALEditCodec",
            "phoenix.queryserver.http.port": str(self.config.port("pqs")),
            "phoenix.queryserver.jmxjsonendpoint.disabled": "true",
            "phoenix.stats.minUpdateFrequency": "0",  # else a second UPDATE STATISTICS within minutes does nothing
        }
        _write_conf(conf, {**properties, **(OVERLOAD if self.overload else {})})
        first = self.tools.query_server_jar()
        jars = [str(jar) for jar in sorted(self.tools.jars.glob("*.jar")) if jar != first]
        classpath = ":".join([str(conf), str(self.tools.jars.parent / "classes"), str(first), *jars])
        main = "org.apache.phoenix.queryserver.server.QueryServer"
        argv = [self.tools.java, *JAVA_FLAGS, f"-Xmx{DEFAULT_HEAP}", f"-Djava.io.tmpdir={_tmp(self.dir)}", main]
        return Launch(argv, self.dir, {"CLASSPATH": classpath})

    def check(self, patience_s: float = 5.0) -> None:
        """A SELECT through the Query Server, which needs HBase too; the port opens seconds before it works."""
        try:
            socket.create_connection(("127.0.0.1", self.config.port("pqs")), timeout=3).close()
        except OSError as error:
            raise NotReady(str(error)) from error
        with connect(self.url(), patience_s) as run:
            if run("SELECT 1 FROM SYSTEM.CATALOG LIMIT 1") != [[1]]:
                raise NotReady("a wrong answer to SELECT 1")

    def url(self) -> str:
        """The Query Server's URL."""
        return f"http://127.0.0.1:{self.config.port('pqs')}/"


class Run:
    """Runs statements on one connection to the Query Server."""

    def __init__(self, connection: Any, cursor_factory: type[Any]) -> None:
        self._connection = connection
        self._cursor_factory = cursor_factory

    def __call__(self, sql: str) -> list[list[Any]]:
        """The rows of one statement; an empty list when it has none."""
        cursor = self._connection.cursor(cursor_factory=self._cursor_factory)
        cursor.execute(sql)
        rows = [list(row) for row in cursor.fetchall()] if cursor.description else []
        cursor.close()
        return rows


@contextlib.contextmanager
def connect(url: str, timeout_s: float = 60.0) -> Iterator[Run]:
    """A connection with a time-out; raises NotReady for whatever the server or the driver says."""
    try:
        import phoenixdb
        import requests
        from phoenixdb.avatica.client import AvaticaClient
        from phoenixdb.connection import Connection
        from phoenixdb.cursor import Cursor
    except ImportError as error:
        raise DevstackError(f"this Python has no phoenixdb ({error}): use the project's .venv (make setup)") from error

    class Bounded(requests.adapters.HTTPAdapter):
        """phoenixdb sets no time-out of its own and would wait for a hung server for ever."""

        def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override]
            options["timeout"] = (5.0, timeout_s)
            return super().send(request, **options)

    class Silent(Connection):  # type: ignore[misc, unused-ignore]
        """A connection that is closed by us alone: phoenixdb's would also speak HTTP whenever it is forgotten."""

        def __del__(self) -> None:
            return None

    class SilentCursor(Cursor):  # type: ignore[misc, unused-ignore]
        """A cursor of the same kind."""

        def __del__(self) -> None:
            return None

    client = AvaticaClient(url, max_retries=0)
    client.session = requests.Session()
    client.session.trust_env = False  # no proxy between us and this machine
    client.session.stream = True  # phoenixdb reads the raw body
    client.session.headers.update({**client.headers, "accept-encoding": "identity"})
    client.session.mount("http://", Bounded())
    try:
        connection = Silent(client, autocommit=True)
        yield Run(connection, SilentCursor)
        connection.close()
    except (phoenixdb.Error, requests.RequestException) as error:
        # Not closed: after a failure a close would go to a server that may hang, or belong to somebody else.
        raise NotReady(f"{type(error).__name__}: {str(error)[:300]}") from error
    finally:
        if client.session is not None:
            client.session.close()


def _heap() -> str:
    """HBase's heap in the form that Java takes (`DEVSTACK_HBASE_HEAP`), at its next start."""
    text = os.environ.get(HEAP_VARIABLE, "").strip() or DEFAULT_HEAP
    if not re.fullmatch(r"[1-9][0-9]*[mMgG]", text):
        raise DevstackError(f"{HEAP_VARIABLE} is {text!r}; it must be a size such as 1g or 1500m")
    return text


def _tmp(home: Path) -> Path:
    scratch = home / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch


def _write_conf(conf: Path, properties: Mapping[str, str]) -> None:
    conf.mkdir(parents=True, exist_ok=True)
    lines = [
        f"  <property><name>{escape(name)}</name><value>{escape(value)}</value></property>"
        for name, value in properties.items()
    ]
    text = '<?xml version="1.0"?>\n<configuration>\n' + "\n".join(lines) + "\n</configuration>\n"
    passwords.write_private(conf / "hbase-site.xml", text)
    passwords.write_private(conf / "log4j.properties", (PACKAGE / "conf" / "log4j.properties").read_text())
