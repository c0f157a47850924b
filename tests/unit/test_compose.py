"""docker-compose.yml by its specification, and by what this project asks of it. No Docker engine is needed."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

from etl_tasks.cli.main import cli
from etl_tasks.config import load_settings

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "devstack" / "images"
PROMETHEUS, GRAFANA = IMAGES / "prometheus", IMAGES / "grafana"
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
APP = ("migrate", "worker", "beat", "flower", "metrics")
DATABASES = ("postgres", "redis", "clickhouse1", "clickhouse2", "phoenix")
WATCHING = ("prometheus", "grafana")

# Names that are not settings of ours, by who reads them (its own documentation has them).
OF_OTHERS = {
    "PGPASSWORD": "libpq",
    "POSTGRES_USER": "the PostgreSQL image",
    "POSTGRES_DB": "the PostgreSQL image",
    "POSTGRES_PASSWORD": "the PostgreSQL image",
    "REDISCLI_AUTH": "redis-cli",
    "CLICKHOUSE_DB": "the ClickHouse image",
    "CLICKHOUSE_USER": "the ClickHouse image",
    "CLICKHOUSE_PASSWORD": "the ClickHouse image",
    "CLICKHOUSE_SHARD": "devstack/images/clickhouse/cluster.xml",
    "HBASE_HEAP": "devstack/images/phoenix/start",
    "PQS_HEAP": "devstack/images/phoenix/start",
    "GF_SECURITY_ADMIN_USER": "the Grafana image",
    "GF_SECURITY_ADMIN_PASSWORD": "the Grafana image",
    "GF_USERS_ALLOW_SIGN_UP": "the Grafana image",
    "GF_ANALYTICS_REPORTING_ENABLED": "the Grafana image",
    "GF_ANALYTICS_CHECK_FOR_UPDATES": "the Grafana image",
}


def validate(compose: dict[str, Any]) -> None:
    """Raise ValueError where the document breaks the Compose specification (anchors are resolved before)."""
    compose_spec.PyCompose.from_json(json.dumps(compose)).validate()


def test_it_follows_the_specification() -> None:
    validate(COMPOSE)


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [
        ("worker", "restart", "sometimes"),
        ("worker", "heathcheck", {}),
        ("redis", "ports", ["127.0.0.1:6379:x"]),
        ("worker", "depends_on", {"redis": {"condition": "healthy"}}),
    ],
)
def test_the_check_would_find_a_fault(service: str, key: str, value: object) -> None:
    broken = {**COMPOSE, "services": {**SERVICES, service: {**SERVICES[service], key: value}}}
    with pytest.raises(ValueError, match=r"."):
        validate(broken)


def test_all_parts_are_there() -> None:
    assert set(SERVICES) == {*APP, *DATABASES, *WATCHING, "keeper"}


def test_every_port_is_on_the_loopback_interface_and_used_once() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 12
    assert [port for port in ports if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)] == []
    published = [port.split(":")[1] for port in ports]
    assert len(set(published)) == len(published)
    assert not any("network_mode" in service for service in SERVICES.values())


def test_every_service_that_stays_has_a_health_check_and_a_restart_policy() -> None:
    for name in set(SERVICES) - {"migrate"}:
        assert SERVICES[name]["healthcheck"]["test"], name
        assert SERVICES[name]["restart"] in ("always", "unless-stopped"), name
    assert SERVICES["worker"]["restart"] == "always"
    assert SERVICES["migrate"]["restart"] == "no"


def test_dependencies_wait_for_health() -> None:
    worker = SERVICES["worker"]["depends_on"]
    assert {name: how["condition"] for name, how in worker.items()} == {
        "migrate": "service_completed_successfully",
        **dict.fromkeys(DATABASES, "service_healthy"),
    }
    # migrate writes to all three databases, so it waits for all of them.
    assert set(SERVICES["migrate"]["depends_on"]) == set(DATABASES) - {"redis"}
    for service in SERVICES.values():
        for name, how in service.get("depends_on", {}).items():
            assert ("healthcheck" in SERVICES[name]) == (how["condition"] == "service_healthy")


def test_data_lies_in_named_volumes() -> None:
    declared = set(COMPOSE["volumes"])
    used = set()
    for name in (*DATABASES, *WATCHING, "keeper", "beat"):
        sources = [volume.split(":")[0] for volume in SERVICES[name]["volumes"]]
        assert sources[0] in declared, name
        used.update(source for source in sources if not source.startswith("."))
        assert all((ROOT / source).exists() for source in sources if source.startswith("."))
    assert used == declared


def test_every_variable_is_a_setting_or_somebodys() -> None:
    known = {name.upper() for name in type(load_settings({})).model_fields}
    for name, service in SERVICES.items():
        unknown = set(service.get("environment", {})) - known - set(OF_OTHERS)
        assert not unknown, name


def test_the_environment_of_our_services_is_accepted() -> None:
    for name in APP:
        env = {key: interpolated(value) for key, value in SERVICES[name]["environment"].items()}
        settings = load_settings(env)
        assert settings.warnings == [], name
        assert settings.ch_endpoints == (("clickhouse1", 9000), ("clickhouse2", 9000))
        assert settings.pqs_url.get_secret_value() == "http://phoenix:8765"


def test_no_password_is_written_down() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASS|AUTH|SECRET", variable):
                assert re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", value), f"{name}: {variable}"
    assert re.findall(r"://[^\s$]*:[^\s$]*@", TEXT) == []
    secrets = set(re.findall(r"\$\{([A-Z_]+)", TEXT))
    assert secrets == {
        "POSTGRES_PASSWORD",
        "REDIS_PASSWORD",
        "CH_PASSWORD",
        "FLOWER_BASIC_AUTH",
        "GRAFANA_PASSWORD",
    }
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert all(f"\n{secret}=\n" in f"{example}\n" for secret in secrets)
    # Without a value compose refuses to start, and says which one is missing.
    assert len(re.findall(r"\$\{[A-Z_]+:\?set [A-Z_]+ in \.env", TEXT)) == TEXT.count("${")


def test_redis_loses_nothing_on_purpose() -> None:
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert (options["--appendonly"], options["--maxmemory-policy"]) == ("yes", "noeviction")


def test_our_services_run_what_they_should() -> None:
    worker = SERVICES["worker"]["command"]
    assert worker[:4] == ["celery", "-A", "etl_tasks", "worker"]
    assert worker[worker.index("-Q") + 1].split(",") == ["plan", "extract", "backfill", "publish"]
    assert SERVICES["migrate"]["command"] == ["python", "-m", "etl_tasks", "migrate", "--phoenix"]
    assert SERVICES["beat"]["command"][3] == "beat"
    assert SERVICES["flower"]["command"][3] == "flower"
    assert "FLOWER_BASIC_AUTH" in SERVICES["flower"]["environment"]
    for name in APP:
        assert SERVICES[name]["build"] == "."
        assert SERVICES[name]["env_file"] == [{"path": ".env", "required": False}]


def test_what_watches_reads_what_is_served() -> None:
    """From Grafana's datasource over Prometheus's target to the port that our command listens on."""
    words = SERVICES["metrics"]["command"]
    assert words[:4] == ["python", "-m", "etl_tasks", "metrics"]
    with cli.commands["metrics"].make_context("metrics", words[4:]) as context:
        port = context.params["port"]
        assert context.params["address"] == "0.0.0.0", "Prometheus comes from another container"
    assert f"127.0.0.1:{port}:{port}" in SERVICES["metrics"]["ports"]
    assert f":{port}/metrics" in SERVICES["metrics"]["healthcheck"]["test"][-1]
    scraped = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    assert [each["static_configs"][0]["targets"] for each in scraped["scrape_configs"]] == [[f"metrics:{port}"]]
    assert all((PROMETHEUS / name).is_file() for name in scraped["rule_files"])
    mounted = dict(volume.split(":")[:2] for volume in SERVICES["prometheus"]["volumes"])
    options = dict(word.split("=") for word in SERVICES["prometheus"]["command"])
    assert options["--config.file"] == f"{mounted['./devstack/images/prometheus']}/prometheus.yml"
    assert options["--storage.tsdb.path"] == mounted["prometheus"]
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "127.0.0.1:9090:9090" in SERVICES["prometheus"]["ports"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/etl.yml").read_text())["providers"]
    mounted = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert provider["options"]["path"] == mounted["./devstack/images/grafana/dashboards"]
    assert mounted["./devstack/images/grafana/provisioning"] == "/etc/grafana/provisioning"


def test_clickhouse_has_a_keeper() -> None:
    cluster = ElementTree.parse(IMAGES / "clickhouse/cluster.xml").getroot()
    keeper = ElementTree.parse(IMAGES / "clickhouse/keeper.xml").getroot()
    (node,) = cluster.findall("zookeeper/node")
    assert node.findtext("host") == SERVICES["keeper"]["hostname"] == "keeper"
    assert node.findtext("port") == keeper.findtext("keeper_server/tcp_port") == "9181"
    assert keeper.findtext("keeper_server/raft_configuration/server/hostname") == "keeper"
    server_id = keeper.findtext("keeper_server/server_id")
    assert server_id == keeper.findtext("keeper_server/raft_configuration/server/id")
    assert cluster.findtext("distributed_ddl/path"), "or ON CLUSTER is refused"
    assert {each.tag for each in cluster.findall("macros/*")} == {"shard", "replica"}
    config = SERVICES["keeper"]["entrypoint"][-1].removeprefix("--config-file=")
    assert f"./devstack/images/clickhouse/keeper.xml:{config}:ro" in SERVICES["keeper"]["volumes"]
    stored = [keeper.findtext(f"keeper_server/{kind}_storage_path") or "" for kind in ("log", "snapshot")]
    assert all(path.startswith("/var/lib/clickhouse/") for path in stored), "the named volume"
    assert "--port 9181 --query ruok" in SERVICES["keeper"]["healthcheck"]["test"][-1]
    assert "ruok" in (keeper.findtext("keeper_server/four_letter_word_white_list") or "")
    assert SERVICES["keeper"]["image"] == SERVICES["clickhouse1"]["image"]
    for name in ("clickhouse1", "clickhouse2"):
        assert SERVICES[name]["depends_on"] == {"keeper": {"condition": "service_healthy"}}


def test_images_are_pinned() -> None:
    for name, service in SERVICES.items():
        assert "build" in service or re.fullmatch(r"[\w/-]+:v?\d+[\d.]*", service["image"]), name


def test_the_clickhouse_cluster_is_the_two_services() -> None:
    cluster = ElementTree.parse(ROOT / "devstack/images/clickhouse/cluster.xml").getroot()
    name = SERVICES["worker"]["environment"]["CH_CLUSTER"]
    shards = cluster.findall(f"remote_servers/{name}/shard")
    assert [shard.findtext("replica/host") for shard in shards] == ["clickhouse1", "clickhouse2"]
    assert [SERVICES[host]["environment"]["CLICKHOUSE_SHARD"] for host in ("clickhouse1", "clickhouse2")] == ["1", "2"]
    assert [SERVICES[host]["hostname"] for host in ("clickhouse1", "clickhouse2")] == ["clickhouse1", "clickhouse2"]
    for element in cluster.iter():
        if element.tag in ("password", "user", "shard") and element.get("from_env"):
            assert element.get("from_env") in SERVICES["clickhouse1"]["environment"]
        assert not (element.tag == "password" and (element.text or "").strip())


@pytest.mark.parametrize("dockerfile", ["Dockerfile", "devstack/images/phoenix/Dockerfile"])
def test_images_are_made_from_what_is_there_and_do_not_run_as_root(dockerfile: str) -> None:
    text = (ROOT / dockerfile).read_text(encoding="utf-8").replace("\\\n", " ")
    instructions = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    last_user = [words[1] for words in instructions if words[0] == "USER"][-1]
    assert last_user not in ("root", "0")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    for words in instructions:
        if words[0] == "COPY" and not any(word.startswith("--from") for word in words):
            for source in [word for word in words[1:-1] if not word.startswith("--")]:
                assert any(source == path or source.startswith(f"{path}/") for path in allowed), source


def interpolated(value: str) -> str:
    """The value as compose would pass it, with a harmless password."""
    return re.sub(r"\$\{FLOWER_BASIC_AUTH[^}]*\}", "ann:x1", re.sub(r"\$\{(?!FLOWER)[^}]*\}", "x1", value))
