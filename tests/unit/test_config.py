"""Settings: names, defaults, old names, faults all at once, warnings, and what is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from celery import Celery
from click.testing import CliRunner

from etl_tasks.cli.config import config_command
from etl_tasks.config import ConfigError, Settings, describe, load_settings, mask_secrets
from etl_tasks.core.cadence import CadenceRules
from etl_tasks.core.overload import OverloadRules
from etl_tasks.core.slice_sizing import SizingRules
from etl_tasks.core.slicing import SlicingRules
from etl_tasks.wiring.services import Services

# The contract: the names of the old system's README and the values it documents (its addresses aside).
OLD_README: dict[str, object] = {
    "PG_DSN": None,
    "JOURNAL_TABLE": "public.inc_processing",
    "PROCESS_NAME": "codes_history_increment",
    "JOURNAL_RETENTION_DAYS": 1,
    "PQS_URL": None,
    "HBASE_MAIN_TABLE": "TBL_JTI_TRACE_CIS_HISTORY",
    "HBASE_MAIN_TS_COLUMN": "opd",
    "MAIN_COLUMNS": None,
    "PHX_FETCHMANY_SIZE": 5000,
    "PHX_TS_UNITS": "timestamp",
    "PHX_TCP_PROBE_TIMEOUT_MS": 1200,
    "STEP_MIN": 10,
    "PHX_QUERY_SHIFT_MINUTES": 0,  # -300 there was of one installation
    "PHX_QUERY_OVERLAP_MINUTES": 5,
    "PHX_OVERLAP_ONLY_FIRST_SLICE": True,
    "PHX_QUERY_LAG_MINUTES": 2,
    "PHX_INITIAL_SLICE_MIN": 5,
    "PHX_OVERLOAD_MIN_SPLIT_MIN": 2,
    "PHX_OVERLOAD_MAX_DEPTH": 3,
    "PHX_OVERLOAD_MAX_ATTEMPTS": 4,
    "CH_HOSTS": ("localhost",),
    "CH_PORT": 9000,
    "CH_DB": "stg",
    "CH_USER": "default",
    "CH_PASSWORD": None,
    "CH_RAW_TABLE": "stg.daily_codes_history_raw_all",
    "CH_CLEAN_TABLE": "stg.daily_codes_history",
    "CH_CLEAN_ALL_TABLE": "stg.daily_codes_history_all",
    "CH_DEDUP_BUF_TABLE": "stg.daily_codes_history_dedup_buf",
    "CH_INSERT_BATCH": 20000,
    "CH_INSERT_MAX_RETRIES": 1,
    "PUBLISH_EVERY_MINUTES": 60,
    "PUBLISH_EVERY_SLICES": 6,
    "ALWAYS_PUBLISH_AT_END": True,
}
DESIGN: dict[str, object] = {
    "LEASE_S": 60,
    "SLICE_MAX_ATTEMPTS": 5,
    "PUBLISH_MAX_ATTEMPTS": 10,
    "SWEEP_EVERY_S": 10,
    "RESEND_AFTER_S": 120,
    "PHX_CONNECT_TIMEOUT_S": 5,
    "PHX_READ_TIMEOUT_S": 300,
    "SOURCE_PATIENCE_S": 3600,
    "SANITIZE_PLANNED_TTL_MIN": 60,
    "SANITIZE_HEARTBEAT_TTL_MIN": 15,
    "SANITIZE_HARD_TTL_MIN": 0,
    "MAX_REJECTED_ROWS": 0,
    "PARTITIONS_IN_FLIGHT": 2,
    "TASK_SOFT_TIME_LIMIT_MIN": 55,
    "TASK_TIME_LIMIT_MIN": 60,
    "PUBLISH_SOFT_TIME_LIMIT_MIN": 170,
    "PUBLISH_TIME_LIMIT_MIN": 180,
    "VISIBILITY_TIMEOUT_H": 12,
    "MAX_SLICES_PER_RUN": 100000,
    "BUSINESS_TZ": "",
    "PHX_QUERY_HINT": "",
    "CH_CLUSTER": "",
    "CH_SECURE": False,
    "CH_VERIFY": True,
    "CH_CA_FILE": "",
    "CH_COMPRESSION": "lz4",
    "CH_INSERT_QUORUM": "auto",
    "CH_RAW_TTL_HOURS": 120,
    "PQS_AUTH": "none",
    "PQS_USER": "",
    "PQS_CA_FILE": "",
    "PQS_VERIFY": True,
    "REDIS_CA_FILE": "",
    "OVERLOAD_BACKOFF_BASE_S": 0.5,
    "OVERLOAD_BACKOFF_CAP_S": 30,
}


def faults(env: dict[str, str], env_file: Path | None = None) -> list[str]:
    """The lines of the error that ``env`` causes, without the heading."""
    with pytest.raises(ConfigError) as caught:
        load_settings(env, env_file)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No .env of the checkout and no setting of the caller's environment gets in."""
    monkeypatch.chdir(tmp_path)
    for name in [*(field.upper() for field in Settings.model_fields), "ETL_ENV_FILE", "CH_TABLE"]:
        monkeypatch.delenv(name, raising=False)


class TestDefaults:
    @pytest.mark.parametrize(("name", "value"), [*OLD_README.items(), *DESIGN.items()])
    def test_every_name_of_the_contract_exists_with_its_default(self, name: str, value: object) -> None:
        found = getattr(load_settings({}), name.lower())
        assert value is None or found == value

    def test_nothing_is_needed_and_nothing_is_said(self) -> None:
        settings = load_settings({})
        assert settings.warnings == []
        assert set(settings.origins.values()) == {"default"}

    def test_columns_are_the_32_of_the_source(self) -> None:
        columns = load_settings({}).main_columns
        assert (len(columns), columns[:3], columns[-1]) == (32, ("c", "t", "opd"), "ag")

    def test_services_are_on_localhost(self) -> None:
        settings = load_settings({})
        urls = [settings.pg_dsn, settings.pqs_url, settings.redis_url]
        assert [re.findall(r"//([^:/]+)", url.get_secret_value()) for url in urls] == [["localhost"]] * 3
        assert settings.ch_endpoints == (("localhost", 9000),)

    def test_every_setting_has_a_sentence_and_a_group(self) -> None:
        for row in describe(load_settings({})):
            assert row.description.endswith("."), row.name
            assert row.group, row.name

    @pytest.mark.parametrize("suffix", ["_S", "_MS", "_MIN", "_MINUTES", "_H", "_HOURS", "_DAYS"])
    def test_names_that_end_in_a_unit_say_the_same_unit(self, suffix: str) -> None:
        units = {"_S": "s", "_MS": "ms", "_MIN": "min", "_MINUTES": "min", "_H": "h", "_HOURS": "h", "_DAYS": "days"}
        rows = [row for row in describe(load_settings({})) if row.name.endswith(suffix)]
        assert rows
        assert {row.unit for row in rows} == {units[suffix]}


class TestSources:
    def test_the_environment_wins_over_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "my.env"
        file.write_text("STEP_MIN=20\nCH_DB=a\n")
        settings = load_settings({"STEP_MIN": "30"}, file)
        assert (settings.step_min, settings.ch_db) == (30, "a")
        assert settings.origins["STEP_MIN"] == "environment"
        assert settings.origins["CH_DB"] == str(file)
        assert settings.origins["CH_PORT"] == "default"

    def test_the_file_in_the_working_directory_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / ".env").write_text("STEP_MIN=20\n")
        monkeypatch.setenv("CH_PORT", "9001")
        settings = load_settings()
        assert (settings.step_min, settings.ch_port) == (20, 9001)
        assert settings.origins["STEP_MIN"] == ".env"

    def test_etl_env_file_names_another_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / ".env").write_text("STEP_MIN=20\n")
        (tmp_path / "other").write_text("STEP_MIN=25\n")
        monkeypatch.setenv("ETL_ENV_FILE", str(tmp_path / "other"))
        assert load_settings().step_min == 25

    def test_a_named_file_must_exist(self, tmp_path: Path) -> None:
        (fault,) = faults({"ETL_ENV_FILE": str(tmp_path / "none")})
        assert fault.startswith(f"ETL_ENV_FILE={tmp_path / 'none'}: there is no such file")

    def test_names_are_in_capitals(self) -> None:
        settings = load_settings({"step_min": "20", "ch_port": "9001"})
        assert (settings.step_min, settings.ch_port) == (10, 9000)
        assert settings.warnings == [
            "ch_port (environment) is not read: names are written in capitals; write CH_PORT",
            "step_min (environment) is not read: names are written in capitals; write STEP_MIN",
        ]

    def test_an_empty_value_is_as_good_as_none(self, tmp_path: Path) -> None:
        file = tmp_path / "e"
        file.write_text("STEP_MIN=20\nCH_USER=\n")
        settings = load_settings({"STEP_MIN": "", "CH_PORT": " "}, file)
        assert (settings.step_min, settings.ch_port, settings.ch_user) == (20, 9000, "default")

    def test_values_of_the_file_stand_as_written(self, tmp_path: Path) -> None:
        file = tmp_path / "e"
        file.write_text(
            "\ufeff# comment\nCH_PASSWORD='a${STEP_MIN} #b'\nexport STEP_MIN=15   # remark\nCH_USER=\"ann lee\"\n",
            encoding="utf-8",
        )
        settings = load_settings({}, file)
        assert settings.ch_password.get_secret_value() == "a${STEP_MIN} #b"
        assert (settings.step_min, settings.ch_user) == (15, "ann lee")

    def test_lines_that_cannot_be_read_are_faults_and_not_repeated(self, tmp_path: Path) -> None:
        file = tmp_path / "e"
        file.write_text("STEP_MIN=20\nCH PASSWORD=geheim\nCH_USER\n")
        found = faults({}, file)
        assert [re.search(r"line \d", fault)[0] for fault in found] == ["line 2", "line 3"]  # type: ignore[index]
        assert "geheim" not in "".join(found)

    def test_a_name_that_stands_twice_is_said(self, tmp_path: Path) -> None:
        file = tmp_path / "e"
        file.write_text("STEP_MIN=20\nSTEP_MIN=30\n")
        settings = load_settings({}, file)
        assert settings.step_min == 30
        assert settings.warnings == [f"STEP_MIN stands in {file} more than once; line 2 counts"]

    def test_arguments_win(self) -> None:
        settings = Settings(step_min=7)
        assert (settings.step_min, settings.origins["STEP_MIN"]) == (7, "argument")

    def test_an_argument_that_is_no_setting_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"STEP_MINS=.*: is no setting; did you mean STEP_MIN\?"):
            Settings(step_mins=7)


class TestOldNames:
    @pytest.mark.parametrize(
        ("old", "value", "attribute", "expected"),
        [
            ("CH_TABLE", "stg.codes", "ch_clean_table", "stg.codes"),
            ("HBASE_MAIN_COLUMNS", "c,t,opd", "main_columns", ("c", "t", "opd")),
            ("PHOENIX_TCP_PROBE_TIMEOUT_MS", "700", "phx_tcp_probe_timeout_ms", 700),
        ],
    )
    def test_they_work_with_a_warning(self, old: str, value: str, attribute: str, expected: object) -> None:
        settings = load_settings({old: value})
        assert getattr(settings, attribute) == expected
        assert settings.origins[attribute.upper()] == f"old name {old} (environment)"
        assert settings.warnings == [f"{old} (environment) is an old name; write {attribute.upper()} instead"]

    def test_the_new_name_wins_even_from_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "e"
        file.write_text("MAIN_COLUMNS=c,t,opd,id\n")
        settings = load_settings({"HBASE_MAIN_COLUMNS": "c,t,opd"}, file)
        assert settings.main_columns == ("c", "t", "opd", "id")
        assert settings.warnings == [
            "HBASE_MAIN_COLUMNS (environment) is ignored, because its new name MAIN_COLUMNS is set too; "
            "remove HBASE_MAIN_COLUMNS"
        ]

    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("CH_HOST", "CH_HOSTS"),
            ("STEP_MINS", "STEP_MIN"),
            ("PG_DNS", "PG_DSN"),
            ("PHX_FETCH_SIZE", "PHX_FETCHMANY_SIZE"),
            ("PHX_LAG_MINUTES", "PHX_QUERY_LAG_MINUTES"),
            ("PUBLISH_EVERY_SLICE", "PUBLISH_EVERY_SLICES"),
            ("RECONCILE_EVERY_MIN", "RECONCILE_EVERY_MINUTES"),
        ],
    )
    def test_near_misses_are_said(self, name: str, near: str) -> None:
        assert load_settings({name: "1"}).warnings == [f"{name} (environment) is no setting; did you mean {near}?"]

    @pytest.mark.parametrize("name", sorted(Settings.model_fields))
    def test_a_slip_in_any_setting_is_said(self, name: str) -> None:
        slip = f"{name.upper()}X"
        assert load_settings({slip: "1"}).warnings == [
            f"{slip} (environment) is no setting; did you mean {name.upper()}?"
        ]

    @pytest.mark.parametrize(
        "name", ["CH_PORT_9000_TCP", "PATH", "STEP_FUNCTIONS_ARN", "PG_COLOR", "PHX_SOMETHING_ELSE", "CHARSET"]
    )
    def test_names_of_others_are_not(self, name: str) -> None:
        assert load_settings({name: "1"}).warnings == []


class TestFaults:
    def test_all_at_once_each_with_name_value_and_remedy(self) -> None:
        found = faults(
            {
                "STEP_MIN": "ten",
                "CH_PORT": "70000",
                "PHX_QUERY_LAG_MINUTES": "-1",
                "CH_SECURE": "maybe",
                "PHX_TS_UNITS": "minutes",
                "BUSINESS_TZ": "Europe/Berln",
                "CH_HOSTS": "a,,b",
                "TASK_TIME_LIMIT_MIN": "50",
            }
        )
        by_name = {fault.partition("=")[0]: fault for fault in found}
        assert by_name == {
            "STEP_MIN": "STEP_MIN=ten: is not a whole number; write one such as 10",
            "CH_PORT": "CH_PORT=70000: is too large; write 65535 or less",
            "PHX_QUERY_LAG_MINUTES": "PHX_QUERY_LAG_MINUTES=-1: is too small; write 0 or more",
            "CH_SECURE": "CH_SECURE=maybe: is neither yes nor no; write 1 or 0",
            "PHX_TS_UNITS": "PHX_TS_UNITS=minutes: is not one of the choices; write timestamp, millis or seconds",
            "BUSINESS_TZ": (
                "BUSINESS_TZ=Europe/Berln: is not a time zone of the IANA database; did you mean Europe/Berlin?"
            ),
            "CH_HOSTS": (
                "CH_HOSTS=a,,b: has an empty host between commas; write host or host:port, separated by commas"
            ),
            "TASK_SOFT_TIME_LIMIT_MIN": (
                "TASK_SOFT_TIME_LIMIT_MIN=55, TASK_TIME_LIMIT_MIN=50: the soft limit must come before the hard one; "
                "write a smaller soft limit"
            ),
        }

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("STEP_MIN", "0"),
            ("STEP_MIN", "1.5"),
            ("JOURNAL_RETENTION_DAYS", "0"),
            ("OVERLOAD_BACKOFF_CAP_S", "nan"),
            ("OVERLOAD_BACKOFF_BASE_S", "inf"),
            ("JOURNAL_TABLE", "inc-processing"),
            ("JOURNAL_TABLE", "a.b.c"),
            ("JOURNAL_TABLE", "public." + "x" * 45),
            ("CH_RAW_TABLE", "stg.raw; DROP TABLE x"),
            ("CH_CLUSTER", "my cluster"),
            ("HBASE_MAIN_TABLE", 'MY"TABLE'),
            ("PROCESS_NAME", "codes:dedup"),
            ("PROCESS_NAME", "manual_codes"),
            ("MAIN_COLUMNS", "c,t,opd,"),
            ("MAIN_COLUMNS", "c,t,opd,t"),
            ("MAIN_COLUMNS", 'c,t,opd,"id"'),
            ("MAIN_COLUMNS", "c,t,opd,a\x00b"),
            ("CH_HOSTS", "a:0"),
            ("CH_HOSTS", "a:9000,a:9000"),
            ("CH_HOSTS", "http://a"),
            ("CH_HOSTS", "::1"),
            ("CH_INSERT_QUORUM", "most"),
            ("CH_CA_FILE", "/no/such/file.pem"),
            ("PQS_URL", "localhost:8765"),
            ("PQS_URL", "http://"),
            ("PQS_URL", "http://host:99999"),
            ("REDIS_URL", "amqp://localhost"),
            ("PG_DSN", "mysql://localhost/x"),
            ("PG_DSN", "localhost"),
            ("PHX_QUERY_HINT", "INDEX(a b) */ DROP"),
            ("FLOWER_BASIC_AUTH", "admin"),
        ],
    )
    def test_refused(self, name: str, value: str) -> None:
        (fault,) = faults({name: value})
        assert fault.startswith(f"{name}=")
        assert "; " in fault

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PG_DSN", "hunter2"),
            ("PG_DSN", "mysql://ann:hunter2@h/x"),
            ("PG_DSN", "postgresql://ann:p@hunter2@h/x"),
            ("REDIS_URL", "amqp://:hunter2@h"),
            ("PQS_URL", "ftp://ann:hunter2@h"),
            ("FLOWER_BASIC_AUTH", "hunter2"),
        ],
    )
    def test_secrets_are_not_repeated(self, name: str, value: str) -> None:
        (fault,) = faults({name: value})
        assert "hunter2" not in fault
        assert "***" in fault

    @pytest.mark.parametrize(
        ("env", "names"),
        [
            (
                {"PUBLISH_EVERY_MINUTES": "0", "PUBLISH_EVERY_SLICES": "0", "ALWAYS_PUBLISH_AT_END": "0"},
                ["PUBLISH_EVERY_MINUTES", "PUBLISH_EVERY_SLICES", "ALWAYS_PUBLISH_AT_END"],
            ),
            ({"HBASE_MAIN_TS_COLUMN": "OPD"}, ["HBASE_MAIN_TS_COLUMN", "MAIN_COLUMNS"]),
            ({"MAIN_COLUMNS": "c,t,opd,ingested_at"}, ["MAIN_COLUMNS"]),
            ({"CH_CLEAN_TABLE": "daily_codes_history_dedup_buf"}, ["CH_CLEAN_TABLE", "CH_DEDUP_BUF_TABLE"]),
            (
                {"CH_CLUSTER": "c", "CH_CLEAN_ALL_TABLE": "daily_codes_history"},
                ["CH_CLEAN_TABLE", "CH_CLEAN_ALL_TABLE"],
            ),
            ({"PUBLISH_TIME_LIMIT_MIN": "720"}, ["PUBLISH_TIME_LIMIT_MIN", "VISIBILITY_TIMEOUT_H"]),
            (
                {"PHX_READ_TIMEOUT_S": "3296"},  # 3296 + 5 is more than 55 minutes, which are 3300 s
                ["PHX_CONNECT_TIMEOUT_S", "PHX_READ_TIMEOUT_S", "TASK_SOFT_TIME_LIMIT_MIN"],
            ),
            ({"OVERLOAD_BACKOFF_BASE_S": "31"}, ["OVERLOAD_BACKOFF_BASE_S", "OVERLOAD_BACKOFF_CAP_S"]),
            ({"PQS_AUTH": "basic", "PQS_USER": "ann"}, ["PQS_AUTH", "PQS_PASSWORD"]),
            ({"PHX_SLICE_MAX_MIN": "12"}, ["PHX_SLICE_MAX_MIN", "PHX_INITIAL_SLICE_MIN"]),  # of 5
            ({"PHX_SLICE_MAX_MIN": "60"}, ["PHX_SLICE_MAX_MIN", "PHX_OVERLOAD_MAX_DEPTH"]),  # 3 halvings: 7.5
        ],
    )
    def test_contradictions_are_refused(self, env: dict[str, str], names: list[str]) -> None:
        (fault,) = faults(env)
        assert re.findall(r"([A-Z][A-Z_]+)=", fault.partition(": ")[0]) == names

    @pytest.mark.parametrize("unused", [{"PHX_SLICE_SIZING": "fixed"}, {"PHX_INITIAL_SLICE_MIN": "0"}])
    def test_a_widest_slice_that_nothing_uses_is_warned_about(self, unused: dict[str, str]) -> None:
        (warning,) = load_settings({"PHX_SLICE_MAX_MIN": "60", **unused}).warnings
        assert warning.startswith("PHX_SLICE_MAX_MIN=60 is not used with")

    def test_limits_at_the_edge_are_fine(self) -> None:
        settings = load_settings({"PUBLISH_TIME_LIMIT_MIN": "719", "PHX_READ_TIMEOUT_S": "3294"})
        assert (settings.publish_time_limit_min, settings.phx_read_timeout_s) == (719, 3294)

    def test_one_publish_rule_is_enough(self) -> None:
        env = {"PUBLISH_EVERY_MINUTES": "0", "PUBLISH_EVERY_SLICES": "1", "ALWAYS_PUBLISH_AT_END": "0"}
        assert load_settings(env).publish_every_slices == 1

    def test_on_one_node_clean_may_be_its_own_all(self) -> None:
        settings = load_settings({"CH_CLEAN_ALL_TABLE": "stg.daily_codes_history"})
        assert settings.ch_clean_all_table == settings.ch_clean_table

    def test_what_depends_on_a_faulty_value_is_not_reported_with_it(self) -> None:
        assert len(faults({"VISIBILITY_TIMEOUT_H": "x", "PUBLISH_TIME_LIMIT_MIN": "900"})) == 1


class TestWarnings:
    @pytest.mark.parametrize(
        ("env", "word"),
        [
            ({"PHX_QUERY_SHIFT_MINUTES": "-300", "BUSINESS_TZ": "Asia/Yekaterinburg"}, "PHX_QUERY_SHIFT_MINUTES=-300"),
            ({"PHX_OVERLOAD_MIN_SPLIT_MIN": "3"}, "PHX_OVERLOAD_MIN_SPLIT_MIN=3"),
            ({"CH_SECURE": "1"}, "9440"),
            ({"CH_SECURE": "1", "CH_PORT": "9440", "CH_VERIFY": "0"}, "CH_VERIFY=0"),
            ({"PQS_URL": "https://h", "PQS_VERIFY": "0"}, "PQS_VERIFY=0"),
            ({"PQS_AUTH": "basic", "PQS_USER": "a", "PQS_PASSWORD": "b"}, "readable"),
            ({"PQS_USER": "a"}, "not used"),
            ({"PQS_URL": "http://ann:pw@h"}, "PQS_URL has a user"),
            ({"PHX_FETCHMANY_SIZE": "200000"}, "out of memory"),
            ({"SANITIZE_HARD_TTL_MIN": "60"}, "SANITIZE_HARD_TTL_MIN=60"),
        ],
    )
    def test_said_once(self, env: dict[str, str], word: str) -> None:
        (warning,) = load_settings(env).warnings
        assert word in warning

    @pytest.mark.parametrize(
        "env",
        [
            {"PHX_QUERY_SHIFT_MINUTES": "-300"},
            {"PHX_QUERY_SHIFT_MINUTES": "-300", "BUSINESS_TZ": "UTC"},
            {"BUSINESS_TZ": "Asia/Yekaterinburg"},
            {"PHX_OVERLOAD_MIN_SPLIT_MIN": "3", "PHX_OVERLOAD_MAX_DEPTH": "0"},
            {"CH_SECURE": "1", "CH_PORT": "9440"},
            {"PQS_AUTH": "spnego"},
        ],
    )
    def test_not_said_without_need(self, env: dict[str, str]) -> None:
        assert load_settings(env).warnings == []


class TestDerived:
    @pytest.mark.parametrize(
        ("hosts", "expected"),
        [
            ("a", (("a", 9100),)),
            ("a,b:9001 , c", (("a", 9100), ("b", 9001), ("c", 9100))),
            ("10.0.0.1:9000", (("10.0.0.1", 9000),)),
            ("[::1]", (("::1", 9100),)),
            ("[fe80::1]:9440,ch-1.example.", (("fe80::1", 9440), ("ch-1.example.", 9100))),
        ],
    )
    def test_endpoints(self, hosts: str, expected: object) -> None:
        assert load_settings({"CH_HOSTS": hosts, "CH_PORT": "9100"}).ch_endpoints == expected

    def test_what_is_empty_falls_back(self) -> None:
        settings = load_settings({"PG_DSN": "host=h dbname=d", "REDIS_URL": "rediss://r/1"})
        assert settings.lock_dsn.get_secret_value() == "host=h dbname=d"
        assert settings.result_url.get_secret_value() == "rediss://r/1"
        other = load_settings({"PG_LOCK_DSN": "host=direct", "REDIS_RESULT_URL": "redis://s/2"})
        assert other.lock_dsn.get_secret_value() == "host=direct"
        assert other.result_url.get_secret_value() == "redis://s/2"

    def test_redis_tls(self, tmp_path: Path) -> None:
        ca = tmp_path / "ca.pem"
        ca.touch()
        settings = load_settings({"REDIS_URL": "rediss://r", "REDIS_CA_FILE": str(ca), "REDIS_RESULT_URL": "redis://r"})
        assert settings.redis_tls(settings.redis_url) == {"ssl_cert_reqs": "required", "ssl_ca_certs": str(ca)}
        assert settings.redis_tls(settings.result_url) is None

    def test_tables_get_the_database(self) -> None:
        settings = load_settings({"CH_DB": "x"})
        assert [settings.qualified("t"), settings.qualified("y.t")] == ["x.t", "y.t"]

    def test_rules(self) -> None:
        settings = load_settings(
            {
                "STEP_MIN": "11",
                "PHX_QUERY_SHIFT_MINUTES": "-300",
                "PHX_QUERY_OVERLAP_MINUTES": "6",
                "PHX_OVERLAP_ONLY_FIRST_SLICE": "0",
                "PHX_QUERY_LAG_MINUTES": "3",
                "PHX_INITIAL_SLICE_MIN": "30",
                "MAX_SLICES_PER_RUN": "77",
                "PHX_SLICE_SIZING": "fixed",
                "PHX_SLICE_MAX_MIN": "60",
                "PHX_SLICE_MAX_ROWS": "88",
                "PHX_SLICE_TARGET_S": "99",
                "PHX_OVERLOAD_MAX_ATTEMPTS": "8",
                "PHX_OVERLOAD_MIN_SPLIT_MIN": "1",
                "PHX_OVERLOAD_MAX_DEPTH": "9",
                "OVERLOAD_BACKOFF_BASE_S": "0.25",
                "OVERLOAD_BACKOFF_CAP_S": "12",
                "PUBLISH_EVERY_MINUTES": "13",
                "PUBLISH_EVERY_SLICES": "14",
                "ALWAYS_PUBLISH_AT_END": "no",
                "CH_RAW_TTL_HOURS": "2",
            }
        )
        assert settings.slicing_rules == SlicingRules(11, -300, 6, False, 3, 30, 77, None)
        assert settings.sizing_rules == SizingRules(False, 30, 60, 1, 88, 99, 77)
        assert settings.overload_rules == OverloadRules(8, 1, 9, 0.25, 12.0)
        assert settings.cadence_rules == CadenceRules(13, 14, False, 7200)

    def test_settings_do_not_change(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            load_settings({}).step_min = 5


class TestMasking:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("postgresql://ann:pw@h:5432/d?x=1", "postgresql://ann:***@h:5432/d?x=1"),
            ("redis://:pw@h:6379/0", "redis://:***@h:6379/0"),
            ("postgresql://ann:p@w@h/d", "postgresql://ann:***@h/d"),
            ("redis://:p/w@h", "redis://:***@h"),
            ("postgresql://ann@h/d?password=pw&sslpassword=pw2", "postgresql://ann@h/d?password=***&sslpassword=***"),
            ("host=h password=pw user=ann", "host=h password=*** user=ann"),
            (r"host=h password='p\' w' user=ann", "host=h password='***' user=ann"),
            ("{'password': 'pw', 'x': 1}", "{'password': '***', 'x': 1}"),
            ('{"CH_PASSWORD": "pw"}', '{"CH_PASSWORD": "***"}'),
            ("CH_PASSWORD=pw", "CH_PASSWORD=***"),
            ("Authorization: Basic QWxhZGRpbjpvcGVu", "Authorization: Basic ***"),
            ("http://host:8765/a@b", "http://host:8765/a@b"),
            ("connect http://host:8765, ask ann@example.org", "connect http://host:8765, ask ann@example.org"),
            ("basic settings, token=5", "basic settings, token=5"),
        ],
    )
    def test_passwords_go_the_rest_stays(self, text: str, expected: str) -> None:
        assert mask_secrets(text) == expected

    def test_settings_never_show_a_secret(self) -> None:
        settings = load_settings({"PG_DSN": "postgresql://ann:hunter2@h/d", "CH_PASSWORD": "hunter2"})
        assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()


class TestCommand:
    ENV = {  # noqa: RUF012
        "PG_DSN": "postgresql://ann:hunter2@db.example:5432/etl",
        "CH_PASSWORD": "hunter2=x://",
        "HBASE_MAIN_COLUMNS": "c,t,opd",
        "CH_HOST": "x",
    }

    def test_json_shows_all_but_secrets(self) -> None:
        result = CliRunner().invoke(config_command, ["--json"], env=self.ENV)
        assert result.exit_code == 0
        assert "hunter2" not in result.output
        answer = json.loads(result.output)
        rows = {row["name"]: row for row in answer["settings"]}
        assert set(rows) == {name.upper() for name in Settings.model_fields}
        assert rows["PG_DSN"]["value"] == "postgresql://ann:***@db.example:5432/etl"
        assert (rows["CH_PASSWORD"]["value"], rows["CH_PASSWORD"]["secret"]) == ("***", True)
        assert rows["MAIN_COLUMNS"]["value"] == "c,t,opd"
        assert rows["MAIN_COLUMNS"]["origin"] == "old name HBASE_MAIN_COLUMNS (environment)"
        assert (rows["STEP_MIN"]["value"], rows["STEP_MIN"]["unit"]) == ("10", "min")
        assert len(answer["warnings"]) == 2

    def test_the_table_shows_the_same(self) -> None:
        result = CliRunner().invoke(config_command, [], env={**self.ENV, "COLUMNS": "200"})
        assert result.exit_code == 0
        assert "hunter2" not in result.output
        assert re.search(r"^CH_PASSWORD +\*\*\* +environment", result.output, re.MULTILINE)
        assert re.search(r"^STEP_MIN +10 min +default", result.output, re.MULTILINE)
        assert "warning: CH_HOST (environment) is no setting; did you mean CH_HOSTS?" in result.output

    def test_faults_are_a_usage_error(self) -> None:
        env = {"STEP_MIN": "x", "CH_PORT": "y"}
        plain = CliRunner().invoke(config_command, [], env=env)
        assert (plain.exit_code, plain.output.count("\n")) == (2, 3)
        as_json = CliRunner().invoke(config_command, ["--json"], env=env)
        assert as_json.exit_code == 2
        assert len(json.loads(as_json.output)["faults"]) == 2


@pytest.mark.parametrize("megabytes", ["1", "599"])
def test_a_memory_that_no_publish_can_do_with_is_refused(megabytes: str) -> None:
    with pytest.raises(ConfigError, match=r"PUBLISH_MAX_MEMORY_MB.*too little.*at least 600, or 0"):
        load_settings({"PUBLISH_MAX_MEMORY_MB": megabytes})


def test_the_bounds_of_a_publish_reach_clickhouse_in_its_units() -> None:
    bounded = Services(
        load_settings({"PUBLISH_MAX_MEMORY_MB": "600", "PUBLISH_MAX_THREADS": "2"}), Celery()
    ).clickhouse_config
    assert (bounded.publish_max_memory_bytes, bounded.publish_max_threads) == (600_000_000, 2)
    unbounded = Services(load_settings({}), Celery()).clickhouse_config
    assert (unbounded.publish_max_memory_bytes, unbounded.publish_max_threads) == (0, 0)
