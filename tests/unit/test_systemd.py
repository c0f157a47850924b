"""The systemd units as they are shipped: never given up, no secrets, and commands that the programs take."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from etl_tasks.cli.main import cli
from etl_tasks.config import load_settings
from etl_tasks.pipeline.stopping import GRACE_S

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "devstack" / "images" / "systemd"
SERVICES = ("etl-worker@.service", "etl-beat.service", "etl-flower.service", "etl-metrics.service")
HOME = "/opt/etl"
EXAMPLE = (UNITS / "worker.env.example").read_text(encoding="utf-8")
HARDENING = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "CapabilityBoundingSet": "",
    "RestrictSUIDSGID": "yes",
    "UMask": "0077",
}

Unit = dict[str, dict[str, list[str]]]


def unit(name: str) -> Unit:
    """The sections of a unit; a directive may stand more than once. AssertionError for a line that is none of it."""
    sections: Unit = {}
    section: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            section = sections.setdefault(heading[1], {})
            continue
        directive = re.fullmatch(r"([A-Z]\w+)=(.*)", line)
        assert directive, f"{name}: {line}"
        section.setdefault(directive[1], []).append(directive[2])
    return sections


def only(section: dict[str, list[str]], name: str) -> str:
    (value,) = section[name]
    return value


def environment(found: Unit, instance: str = "main") -> dict[str, str]:
    """What systemd sets: ``Environment`` and, over it, the example of the worker's file."""
    pairs = [pair for line in found["Service"]["Environment"] for pair in shlex.split(line)]
    files = found["Service"].get("EnvironmentFile", [])
    pairs += [line for line in EXAMPLE.splitlines() if files and line and not line.startswith("#")]
    assert all(file.startswith("-/etc/etl/worker-%i.env") for file in files), f"may be missing: {instance}"
    return dict(pair.split("=", 1) for pair in pairs)


def command(found: Unit) -> list[str]:
    """``ExecStart`` as systemd would run it for the instance ``main``."""
    words = []
    known = environment(found)
    for word in only(found["Service"], "ExecStart").split():
        filled = re.sub(r"\$\{(\w+)\}", lambda name: known[name[1]], word)
        words.append(filled.replace("%%", "\0").replace("%i", "main").replace("\0", "%"))
        assert not re.search(r"%[a-zA-Z]", words[-1].replace("@%h", "")), f"a specifier that was not meant: {word}"
    return words


def test_all_units_are_there_and_belong_to_the_target() -> None:
    assert {path.name for path in UNITS.iterdir()} == {*SERVICES, "etl.target", "worker.env.example"}
    for name in SERVICES:
        found = unit(name)
        assert only(found["Unit"], "PartOf") == "etl.target"
        assert only(found["Install"], "WantedBy") == "etl.target"
    assert only(unit("etl.target")["Install"], "WantedBy") == "multi-user.target"
    assert [name for name in SERVICES if "@" in name] == ["etl-worker@.service"], "beat has one instance"


@pytest.mark.parametrize("name", SERVICES)
def test_it_is_always_started_again_and_systemd_never_gives_up(name: str) -> None:
    found = unit(name)
    assert only(found["Unit"], "StartLimitIntervalSec") == "0"
    service = found["Service"]
    assert (only(service, "Restart"), only(service, "KillMode")) == ("always", "mixed")
    assert 1 <= int(only(service, "RestartSec")) <= 30
    assert "SuccessExitStatus" not in service and "RestartPreventExitStatus" not in service


def test_a_worker_has_time_to_give_back_what_is_in_hand() -> None:
    settings = load_settings({})
    patience_s = int(only(unit("etl-worker@.service")["Service"], "TimeoutStopSec"))
    # The children's grace, and then the time in which a lease would bring it back anyway.
    assert patience_s >= GRACE_S + settings.lease_s
    assert patience_s < settings.sanitize_heartbeat_ttl_min * 60


@pytest.mark.parametrize("name", SERVICES)
def test_it_runs_without_rights_and_without_secrets(name: str) -> None:
    service = unit(name)["Service"]
    assert {directive: only(service, directive) for directive in HARDENING} == HARDENING
    assert only(service, "User") not in ("root", "0")
    text = (UNITS / name).read_text(encoding="utf-8") + EXAMPLE
    assert not re.search(r"(?i)(password|secret|token|dsn|_url|basic_auth)\s*=", text)
    assert "://" not in re.sub(r"http://127\.0\.0\.1:(5555|9464)", "", text)


@pytest.mark.parametrize(("name", "program"), list(zip(SERVICES, ("worker", "beat", "flower"), strict=False)))
def test_the_command_is_one_that_celery_takes(name: str, program: str) -> None:
    found = unit(name)
    path, *arguments = command(found)
    assert path == f"{HOME}/.venv/bin/celery"
    assert only(found["Service"], "WorkingDirectory") == HOME, "celeryconfig.py and .env are found there"
    assert (ROOT / "celeryconfig.py").exists()
    assert arguments[:3] == ["-A", "etl_tasks", program]
    # --help ends it before it starts, and after its arguments have been read: an unknown one is an error.
    done = subprocess.run(
        [sys.executable, "-m", "celery", *arguments, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if program != "flower":  # whose options are Tornado's and not in this help
        options = {word.partition("=")[0] for word in arguments[3:] if word.startswith("--")}
        assert options <= set(re.findall(r"--[a-z-]+", done.stdout))


def test_the_worker_takes_the_queues_that_there_are_under_a_name_of_its_own() -> None:
    words = command(unit("etl-worker@.service"))
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert options["--hostname"] == "main@%h"
    assert set(options["--queues"].split(",")) <= {"plan", "extract", "backfill", "publish"}
    default = dict(pair.split("=") for pair in unit("etl-worker@.service")["Service"]["Environment"][1].split())
    assert set(default["QUEUES"].split(",")) == {"plan", "extract", "backfill", "publish"}
    assert set(default) <= set(environment(unit("etl-worker@.service")))
    assert options["--concurrency"].isdecimal()
    # A misspelt setting beside them would be pointed out; these are none of ours.
    assert load_settings(environment(unit("etl-worker@.service"))).warnings == []


def test_beats_schedule_is_where_it_may_write() -> None:
    found = unit("etl-beat.service")
    words = command(found)
    schedule = words[words.index("--schedule") + 1]
    assert schedule.startswith(f"/var/lib/{only(found['Service'], 'StateDirectory')}/")


def test_the_metrics_command_is_one_that_we_take() -> None:
    found = unit("etl-metrics.service")
    path, *words = command(found)
    assert path == f"{HOME}/.venv/bin/python"
    assert only(found["Service"], "WorkingDirectory") == HOME, ".env is found there"
    assert words[:3] == ["-m", "etl_tasks", "metrics"]
    with cli.commands["metrics"].make_context("metrics", words[3:]) as context:
        assert context.params["address"] == "127.0.0.1"
        assert context.params["port"] == 9464


def test_flower_listens_on_this_machine_only() -> None:
    assert "--address=127.0.0.1" in command(unit("etl-flower.service"))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here to ask")
def test_systemd_itself_finds_nothing_to_say(tmp_path: Path) -> None:
    # It looks for the program and for the targets around: the one is put in its place, the others are left out.
    for name in ("celery", "python"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    for name in (*SERVICES, "etl.target"):
        text = (UNITS / name).read_text(encoding="utf-8").replace(f"{HOME}/.venv/bin", str(tmp_path))
        (tmp_path / name.replace("@", "@main")).write_text(re.sub(r"(?m)^(Wants|After)=.*\n", "", text))
    units = [str(tmp_path / name.replace("@", "@main")) for name in SERVICES]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False, timeout=60
    )
    said = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "etl" in line]
    assert said == [], done.stderr
