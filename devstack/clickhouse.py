"""Two ClickHouse nodes, each a shard of the cluster `devstack`."""

import hashlib
import os
import shutil
import urllib.error
import urllib.request

from devstack import passwords
from devstack.cache import Tools
from devstack.config import PACKAGE, Config
from devstack.errors import NotReady
from devstack.part import Launch, Part

USER = "etl"
CLUSTER = "devstack"
ALONE = "devstack_alone"
"""A cluster of the first shard only, for benchmarks of one node."""
SHARDS = ("clickhouse1", "clickhouse2")
MEMORY_BYTES = 4_000_000_000

CONFIG = """\
<clickhouse>
  <listen_host>127.0.0.1</listen_host>
  <tcp_port>{tcp}</tcp_port>
  <http_port>{http}</http_port>
  <timezone>UTC</timezone>
  <logger><level>warning</level><log>{home}/server.log</log><size>10M</size><count>1</count></logger>
  <max_server_memory_usage>{memory}</max_server_memory_usage>
  <mark_cache_size>268435456</mark_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <background_pool_size>2</background_pool_size>
  <background_schedule_pool_size>8</background_schedule_pool_size>
  <merge_tree>
    <number_of_free_entries_in_pool_to_execute_mutation>1</number_of_free_entries_in_pool_to_execute_mutation>
    <number_of_free_entries_in_pool_to_lower_max_size_of_merge>1</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
    <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>1</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
  </merge_tree>
  <user_directories><users_xml><path>{home}/users.xml</path></users_xml></user_directories>
  <macros><shard>{shard}</shard><replica>{name}</replica></macros>
  <query_log>
    <database>system</database><table>query_log</table>
    <engine>ENGINE = MergeTree PARTITION BY event_date ORDER BY event_time TTL event_date + INTERVAL 2 DAY</engine>
    <flush_interval_milliseconds>1000</flush_interval_milliseconds>
  </query_log>
  <remote_servers><{cluster}>
{shards}
  </{cluster}><{alone}>
{first_shard}
  </{alone}></remote_servers>
</clickhouse>
"""
SHARD = """\
    <shard><internal_replication>true</internal_replication><replica>
      <host>127.0.0.1</host><port>{port}</port><user>{user}</user><password>{password}</password>
    </replica></shard>"""
# The engine's own session is the user `default` and can have no password, so that user may do nothing but start the
# listeners; all real work needs the user with the password.
USERS = """\
<clickhouse>
  <profiles>
    <default><max_memory_usage>3000000000</max_memory_usage><log_queries>1</log_queries></default>
{profiles}
  </profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <no_password/><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota>
      <grants><query>GRANT SYSTEM LISTEN ON *.*</query></grants>
    </default>
    <{user}>
      <password_sha256_hex>{digest}</password_sha256_hex><networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile><quota>default</quota><access_management>1</access_management>
    </{user}>
{odd_users}
  </users>
</clickhouse>
"""

# Profiles that are wrong in one way each, for the tests of what `doctor` must find: the user etl_NAME has the profile
# NAME and etl's password. The server has no place for users that are made by SQL.
ODD_PROFILES = {
    "bounded": "<max_execution_time>60</max_execution_time><constraints><max_execution_time><max>120</max>"
    "</max_execution_time></constraints>",
    "fixed": "<async_insert>1</async_insert><constraints><async_insert><const/></async_insert></constraints>",
    "read_only": "<readonly>1</readonly>",
    "narrow": "<max_partitions_per_insert_block>1</max_partitions_per_insert_block>",
    "elsewhere": "<session_timezone>Asia/Almaty</session_timezone>",
}
ODD_USER = """\
    <{user}_{name}>
      <password_sha256_hex>{digest}</password_sha256_hex><networks><ip>127.0.0.1</ip></networks>
      <profile>{name}</profile><quota>default</quota>
    </{user}_{name}>"""


class ClickHouse(Part):
    """One node: one shard, one replica."""

    def __init__(self, config: Config, tools: Tools, name: str) -> None:
        self.name = name
        self.port_names = (name, f"{name}_http")
        super().__init__(config, tools)

    def launch(self) -> Launch:
        """Write the node's configuration and users."""
        shards = [SHARD.format(port=self.config.port(shard), user=USER, password=self.password()) for shard in SHARDS]
        text = CONFIG.format(
            tcp=self.config.port(self.name),
            http=self.config.port(f"{self.name}_http"),
            home=self.dir,
            memory=MEMORY_BYTES,
            shard=SHARDS.index(self.name) + 1,
            name=self.name,
            cluster=CLUSTER,
            shards="\n".join(shards),
            alone=ALONE,
            first_shard=shards[0],
        )
        passwords.write_private(self.dir / "clickhouse-local.xml", text)
        digest = hashlib.sha256(self.password().encode()).hexdigest()
        passwords.write_private(self.dir / "users.xml", _users(digest))
        scratch = self.dir / "tmp"  # the engine leaves a directory there when it is killed
        if scratch.exists():
            shutil.rmtree(scratch)
        scratch.mkdir()
        # -I: with the script's directory on the path, our own redis.py would be taken for the redis package.
        argv = [str(self.tools.services_python), "-I", str(PACKAGE / "clickhouse_node.py"), str(self.dir / "data")]
        return Launch(argv, self.dir, {"TMPDIR": str(scratch), "PATH": os.environ["PATH"]})

    def check(self, patience_s: float = 5.0) -> None:
        """`SELECT 1` over HTTP with user and password."""
        if self.query("SELECT 1").strip() != "1":
            raise NotReady("a wrong answer to SELECT 1")

    def query(self, sql: str) -> str:
        """The answer to one statement over HTTP, as text."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.config.port(self.name + '_http')}/",
            data=sql.encode(),
            headers={"X-ClickHouse-User": USER, "X-ClickHouse-Key": self.password()},
        )
        # An opener without proxies: the answer must come from this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=5) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            raise NotReady(error.read().decode(errors="replace")[:300]) from error
        except OSError as error:
            raise NotReady(str(error)) from error

    def _tail(self) -> str:
        log = self.dir / "server.log"
        server = log.read_text(errors="replace").splitlines()[-15:] if log.exists() else []
        return "\n".join([self.daemon.tail(5), *server])


def _users(digest: str) -> str:
    profiles = [f"    <{name}>{settings}</{name}>" for name, settings in ODD_PROFILES.items()]
    odd = [ODD_USER.format(user=USER, name=name, digest=digest) for name in ODD_PROFILES]
    return USERS.format(user=USER, digest=digest, profiles="\n".join(profiles), odd_users="\n".join(odd))
