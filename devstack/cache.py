"""What is downloaded once and shared by all checkouts of a user: the services' Python environment and the jars.

Each directory is keyed by a hash of what it is made from, is finished only when its `.complete` marker stands, and is
made under a lock, so that two runs at once neither break nor repeat each other's work.
"""

import contextlib
import fcntl
import functools
import hashlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from devstack.config import PACKAGE
from devstack.errors import DevstackError

ATTEMPTS = 3
JAVA_OLDEST, JAVA_TOO_NEW = 17, 24  # from 24 on the JDK has no Subject.getSubject, which Hadoop calls


@contextlib.contextmanager
def locked(path: Path, patience_s: float | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file for as long as the block runs; wait for it for ever, or as long as told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        deadline = time.monotonic() + (patience_s or 0.0)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if patience_s is None else fcntl.LOCK_NB))
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise DevstackError(f"another devstack command is at work (it holds {path}): try again") from None
                time.sleep(0.1)
        yield


class Tools:
    """What the parts are started with, fetched when first asked for."""

    def __init__(self, cache: Path, report: Callable[[str], None]) -> None:
        self._cache = cache
        self._report = report

    @functools.cached_property
    def services_python(self) -> Path:
        """The interpreter of the services' environment."""
        return services_python(self._cache, self._report)

    @functools.cached_property
    def java(self) -> str:
        """The Java to run."""
        return java()

    @functools.cached_property
    def jars(self) -> Path:
        """The directory of the jars."""
        return jars(self._cache, self._report)

    def packaged(self, pattern: str) -> Path:
        """The one file or directory of the services' packages that matches."""
        home = self.services_python.parent.parent
        found = list(home.glob(f"lib/python*/site-packages/{pattern}"))
        if len(found) != 1:
            raise DevstackError(f"no {pattern} under {home}: remove that directory, try again")
        return found[0]

    def query_server_jar(self) -> Path:
        """The Query Server's jar; its insides are shaded: it comes first there, and is left out of HBase."""
        found = list(self.jars.glob("phoenix-queryserver-*.jar"))
        if len(found) != 1:
            raise DevstackError(f"no Query Server jar in {self.jars}: remove {self.jars.parent}, try again")
        return found[0]


def services_python(cache: Path, report: Callable[[str], None]) -> Path:
    """The interpreter of the environment with the services' packages, installed at first use."""
    requirements = PACKAGE / "requirements.txt"
    key = _digest(requirements.read_bytes(), sys.version.encode(), sys.base_prefix.encode())
    home = cache / f"services-{key}"
    python = home / "bin" / "python"

    def build() -> None:
        report("installing the service packages, once (about 700 MB)")
        _run([sys.executable, "-m", "venv", str(home)], "make the services' Python environment")
        pip = [str(python), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "-r", str(requirements)], "install the service packages")

    _once(home, build)
    return python


def jars(cache: Path, report: Callable[[str], None]) -> Path:
    """The directory with the jars of HBase, Phoenix and the Query Server, downloaded at first use."""
    pom = PACKAGE / "conf" / "pom.xml"
    source = PACKAGE / "conf" / "java" / "devstack" / "Loopback.java"
    home = cache / f"jars-{_digest(pom.read_bytes(), source.read_bytes())}"
    lib, classes = home / "lib", home / "classes"

    def build() -> None:
        maven = shutil.which("mvn")
        if maven is None:
            raise DevstackError("Maven is missing: install the Debian package maven (make setup does)")
        report("downloading HBase and Phoenix, once (about 200 MB)")
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={lib}"]
        _run([maven, "-q", "-B", "-f", str(pom), *goal], "download HBase and Phoenix")
        compiler = [str(found) for found in lib.glob("ecj-*.jar")]
        path = ":".join(str(jar) for jar in sorted(lib.glob("*.jar"), key=lambda jar: "queryserver" not in jar.name))
        services = classes / "META-INF" / "services"
        services.mkdir(parents=True)
        (services / "org.apache.phoenix.queryserver.server.ServerCustomizersFactory").write_text("devstack.Loopback\n")
        options = ["-17", "-nowarn", "-cp", path, "-d", str(classes), str(source)]
        _run([java(), "-jar", *compiler, *options], "compile the Query Server's customizer")

    _once(home, build)
    return lib


def java() -> str:
    """A Java that HBase 2.5 runs on."""
    candidates = [shutil.which("java"), *sorted(str(path) for path in Path("/usr/lib/jvm").glob("*/bin/java"))]
    for candidate in candidates:
        if candidate is None:
            continue
        answer = subprocess.run([candidate, "-version"], capture_output=True, text=True, check=False)
        version = re.search(r'version "(\d+)', answer.stderr)
        if version and JAVA_OLDEST <= int(version[1]) < JAVA_TOO_NEW:
            return candidate
    raise DevstackError(
        f"a Java from {JAVA_OLDEST} to {JAVA_TOO_NEW - 1} is missing: install the Debian package default-jre-headless"
    )


def _once(home: Path, build: Callable[[], None]) -> None:
    marker = home / ".complete"
    if marker.exists():
        return
    # One lock for all: two Maven runs at once on one local repository break each other, whatever they build.
    with locked(home.parent / ".lock"):
        if marker.exists():
            return
        if home.exists():
            shutil.rmtree(home)
        home.mkdir(parents=True)
        build()
        marker.touch()


def _run(argv: Sequence[str], purpose: str) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        answer = subprocess.run(argv, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return
        if attempt < ATTEMPTS:  # a registry that answers once in a while is the common case
            time.sleep(2 * attempt)
    output = "\n".join((answer.stdout + answer.stderr).splitlines()[-15:])
    raise DevstackError(f"could not {purpose} in {ATTEMPTS} tries; the last one said:\n{output}")


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
