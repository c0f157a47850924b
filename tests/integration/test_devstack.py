"""The development stack itself: a second one beside the session's, without Phoenix, on ports of its own."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import redis
from clickhouse_driver import Client
from clickhouse_driver.errors import ServerException

from devstack.config import CHECKOUT, PORT_VARIABLES
from devstack.errors import DevstackError
from devstack.stack import CORE, Stack

Environ = dict[str, str]


def _free_port_base() -> int:
    for base in range(27000, 32000, 20):
        try:
            for offset in range(len(PORT_VARIABLES)):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        return base
    raise RuntimeError("no free ports between 27000 and 32000")


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Environ:
    ours = {key: value for key, value in os.environ.items() if not key.startswith("DEVSTACK_")}
    state = tmp_path_factory.mktemp("devstack") / "state"
    return {**ours, "DEVSTACK_DIR": str(state), "DEVSTACK_PORT_BASE": str(_free_port_base())}


@pytest.fixture(scope="module")
def running(environ: Environ) -> Iterator[Stack]:
    stack = Stack.load(environ)
    try:
        stack.up(phoenix=False)
        yield stack
    finally:
        stack.down()


@pytest.fixture
def stack(running: Stack) -> Stack:
    """The stack with all its parts up, whatever the test before did to them."""
    running.up(phoenix=False)
    return running


def command(environ: Environ, *arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "devstack", *arguments]
    return subprocess.run(argv, env=environ, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=120)


def pids(stack: Stack) -> dict[str, int | None]:
    return {name: stack.pid(name) for name in CORE}


def clickhouse(stack: Stack, node: int, **changed: str) -> Client:
    host, port = stack.env()["CH_HOSTS"].split(",")[node - 1].split(":")
    login = {"user": stack.env()["CH_USER"], "password": stack.env()["CH_PASSWORD"], **changed}
    return Client(host, port=int(port), connect_timeout=3, send_receive_timeout=20, **login)


def postgres(stack: Stack, sql: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(stack.env()["PG_DSN"], connect_timeout=5)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def test_up_again_starts_nothing(stack: Stack, environ: Environ) -> None:
    before = pids(stack)
    assert None not in before.values()
    answer = command(environ, "up", "--no-phoenix")
    assert answer.returncode == 0, answer.stderr
    assert pids(stack) == before


def test_status_asks_each_part(stack: Stack, environ: Environ) -> None:
    answer = command(environ, "status")
    assert answer.returncode == 0, answer.stdout
    lines = {line.split()[0]: line for line in answer.stdout.splitlines()[1:]}
    assert all(lines[name].endswith("ready") for name in CORE)
    assert all(lines[name].endswith("stopped") for name in ("hbase", "pqs"))


def test_the_env_file_is_private_and_a_shell_can_read_it(stack: Stack, environ: Environ) -> None:
    env_file = Path(command(environ, "env").stdout.strip())
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    script = f'. "{env_file}"; printf "%s|%s" "$PG_DSN" "$CH_HOSTS"'
    read = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert read == "{PG_DSN}|{CH_HOSTS}".format(**stack.env())


def test_a_taken_port_is_named_with_its_variable(environ: Environ, tmp_path: Path) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        answer = command(
            {
                **environ,
                "DEVSTACK_DIR": str(tmp_path / "state"),
                "DEVSTACK_PORT_BASE": str(_free_port_base()),
                "DEVSTACK_REDIS_PORT": str(port),
            },
            "up",
            "--no-phoenix",
        )
    assert answer.returncode == 1
    assert f"port {port} for redis" in answer.stderr
    assert "DEVSTACK_REDIS_PORT" in answer.stderr
    assert not list((tmp_path / "state").glob("run/*.pid")), "nothing is started before all ports are known to be free"


@pytest.mark.parametrize(("variable", "value"), [("DEVSTACK_PORT_BASE", "many"), ("DEVSTACK_PG_PORT", "70000")])
def test_a_port_that_is_none_is_refused(environ: Environ, variable: str, value: str) -> None:
    with pytest.raises(DevstackError, match=variable):
        Stack.load({**environ, variable: value})


@pytest.mark.parametrize("arguments", [[], ["flap"], ["start"], ["stop", "mysql"], ["up", "--only", "mysql"]])
def test_a_wrong_usage_exits_with_2(environ: Environ, arguments: list[str]) -> None:
    assert command(environ, *arguments).returncode == 2


def test_parts_stop_and_start_alone(stack: Stack) -> None:
    before = pids(stack)
    stack.stop("clickhouse1")
    assert {**before, "clickhouse1": None} == pids(stack)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", stack.config.port("clickhouse1")), timeout=3)
    stack.start("clickhouse1")
    after = pids(stack)
    assert after.pop("clickhouse1") not in (None, before.pop("clickhouse1"))
    assert after == before


def test_data_survives_a_kill_9_of_every_part(stack: Stack) -> None:
    postgres(stack, "CREATE TABLE kept (n int); INSERT INTO kept SELECT generate_series(1, 1000)")
    broker = redis.Redis.from_url(stack.env()["REDIS_URL"])
    broker.set("kept", "yes")
    for node in (1, 2):
        client = clickhouse(stack, node)
        client.execute("CREATE TABLE kept (n UInt32) ENGINE = MergeTree ORDER BY n")
        client.execute("INSERT INTO kept SELECT number FROM numbers(1000)")
        client.disconnect()
    killed = pids(stack)
    for name in CORE:
        stack.kill(name)
        assert stack.pid(name) is None
    stack.up(phoenix=False)
    assert not set(killed.values()) & set(pids(stack).values())
    assert postgres(stack, "SELECT count(*) FROM kept") == [(1000,)]
    assert broker.get("kept") == b"yes"
    broker.close()
    for node in (1, 2):
        client = clickhouse(stack, node)
        assert client.execute("SELECT count() FROM kept") == [(1000,)]
        client.disconnect()


def test_up_after_a_kill_9_of_the_process_alone(stack: Stack) -> None:
    """PostgreSQL's children outlive their parent for a moment and hold its shared memory."""
    pid = stack.pid("postgres")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    stack.up(phoenix=False)
    assert postgres(stack, "SELECT 1") == [(1,)]


def test_a_paused_part_hangs_and_goes_on(stack: Stack) -> None:
    stack.pause("redis")
    broker = redis.Redis.from_url(stack.env()["REDIS_URL"], socket_timeout=0.5, retry=None)
    with pytest.raises(redis.TimeoutError):
        broker.ping()
    stack.resume("redis")
    broker.close()
    again = redis.Redis.from_url(stack.env()["REDIS_URL"], socket_timeout=5)
    assert again.ping()
    again.close()


def test_nothing_is_open_without_the_password(stack: Stack) -> None:
    broker = redis.Redis(port=stack.config.port("redis"))
    with pytest.raises(redis.AuthenticationError):
        broker.ping()
    broker.close()
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(stack.env()["PG_DSN"].replace(stack.env()["PG_DSN"].split(":")[2].split("@")[0], "wrong"))
    with (
        clickhouse(stack, 1, password="wrong") as stranger,
        pytest.raises(ServerException, match="Authentication failed"),
    ):
        stranger.execute("SELECT 1")
    # ClickHouse's own session needs a user without one; it may do nothing.
    with clickhouse(stack, 1, user="default", password="") as nobody:
        for sql in ("SELECT * FROM system.users", "CREATE TABLE t (n Int8) ENGINE = Memory", "SHOW USERS"):
            with pytest.raises(ServerException, match="Not enough privileges"):
                nobody.execute(sql)


def test_no_password_is_visible_to_ps(stack: Stack) -> None:
    env = stack.env()
    secrets = [
        env["CH_PASSWORD"],
        env["REDIS_URL"].split(":")[2].split("@")[0],
        env["PG_DSN"].split(":")[2].split("@")[0],
    ]
    for name in CORE:
        shown = Path(f"/proc/{stack.pid(name)}/cmdline").read_text()
        assert not any(secret in shown for secret in secrets), name


def test_everything_listens_on_the_loopback_interface_only(stack: Stack) -> None:
    ports = {port.number for port in stack.config.ports.values()}
    listening = subprocess.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"], capture_output=True, text=True, check=True)
    found = [line.split()[1].split(":") for line in listening.stdout.splitlines() if " 0A " in line]
    ours = {(address, int(port, 16)) for address, port in found if int(port, 16) in ports}
    assert {address for address, _ in ours} == {"0100007F"}
    assert len(ours) == 6


def test_two_shards_make_one_cluster(stack: Stack) -> None:
    """What publishing stands on: Distributed inserts in the foreground, REPLACE PARTITION, KILL QUERY."""
    first, second = clickhouse(stack, 1), clickhouse(stack, 2)
    for client in (first, second):
        for name in ("local", "buffer"):
            client.execute(f"CREATE TABLE {name} (d UInt32, n UInt32) ENGINE = MergeTree PARTITION BY d ORDER BY n")
        client.execute(
            "CREATE TABLE everywhere AS local ENGINE = Distributed('devstack', default, local, cityHash64(n))"
        )
    first.execute(
        "INSERT INTO everywhere SETTINGS distributed_foreground_insert = 1 SELECT 1, number FROM numbers(1000)"
    )
    counts = [client.execute("SELECT count() FROM local")[0][0] for client in (first, second)]
    assert sum(counts) == 1000
    assert all(count > 300 for count in counts)
    assert second.execute("SELECT count(), uniqExact(n) FROM everywhere") == [(1000, 1000)]
    second.execute("INSERT INTO buffer VALUES", [(1, 5)])
    second.execute("ALTER TABLE local REPLACE PARTITION 1 FROM buffer")
    assert second.execute("SELECT n FROM local") == [(5,)]
    assert [client.execute("SELECT getMacro('shard')") for client in (first, second)] == [[("1",)], [("2",)]]
    runner = clickhouse(stack, 1)
    packets = runner.execute_iter(
        "SELECT sleepEachRow(1) FROM numbers(60) SETTINGS max_block_size = 1", query_id="slow"
    )
    next(packets)
    first.execute("KILL QUERY WHERE query_id = 'slow' SYNC")
    with pytest.raises(ServerException):
        list(packets)
    for client in (first, second, runner):
        client.disconnect()


def test_down_ends_its_own_processes_and_no_others(environ: Environ, stack: Stack) -> None:
    stack.stop("redis")
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        # A pid that was ours and belongs to a stranger now: the start time in the pidfile gives it away.
        stack.config.state_dir.joinpath("run", "redis.pid").write_text(f"{stranger.pid} 1\n")
        ours = [pid for pid in pids(stack).values() if pid is not None]
        assert len(ours) == 3
        stack.pause("clickhouse2")
        began = time.monotonic()
        answer = command(environ, "down")
        assert time.monotonic() - began < 10
        assert answer.returncode == 0, answer.stderr
        assert set(pids(stack).values()) == {None}
        assert stranger.poll() is None
        assert command(environ, "down").returncode == 0, "down twice is harmless"
        assert command(environ, "status").returncode == 1
    finally:
        stranger.kill()
        stranger.wait()


def test_wipe_deletes_the_state_and_nothing_else(environ: Environ, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "notes.txt").write_text("mine")
    elsewhere = {**environ, "DEVSTACK_DIR": str(state), "DEVSTACK_PORT_BASE": str(_free_port_base())}
    assert command(elsewhere, "up", "--only", "redis").returncode == 0
    assert command(elsewhere, "wipe").returncode == 0
    assert [entry.name for entry in state.iterdir()] == ["notes.txt"]
