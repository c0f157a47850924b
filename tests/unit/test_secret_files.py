"""``NAME_FILE``: a secret from a file, its origin, and every way in which that can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from etl_tasks.config import ConfigError, Settings, describe, load_settings

SECRETS = (
    "PG_DSN",
    "PG_LOCK_DSN",
    "PQS_URL",
    "PQS_PASSWORD",
    "CH_PASSWORD",
    "REDIS_URL",
    "REDIS_RESULT_URL",
    "FLOWER_BASIC_AUTH",
)
EXAMPLES = {
    "PG_DSN": "postgresql://etl:hunter2@db.example/etl",
    "PG_LOCK_DSN": "postgresql://etl:hunter2@direct.example/etl",
    "PQS_URL": "https://pqs.example:8765",
    "PQS_PASSWORD": "hunter2",
    "CH_PASSWORD": "hunter2",
    "REDIS_URL": "redis://:hunter2@redis.example/0",
    "REDIS_RESULT_URL": "redis://:hunter2@redis.example/1",
    "FLOWER_BASIC_AUTH": "ann:hunter2",
}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("hunter2\n")
    return path


def faults(env: dict[str, str], env_file: Path | None = None) -> list[str]:
    """The lines of the error that ``env`` causes, without the heading."""
    with pytest.raises(ConfigError) as caught:
        load_settings(env, env_file)
    assert "hunter2" not in str(caught.value)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def value(settings: Settings, name: str) -> str:
    found: str = getattr(settings, name.lower()).get_secret_value()
    return found


def test_these_settings_are_secrets() -> None:
    assert Settings.secret_names() == set(SECRETS)


@pytest.mark.parametrize("name", SECRETS)
def test_each_of_them_may_come_from_a_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{EXAMPLES[name]}\n")
    env = {f"{name}_FILE": str(path)}
    if name == "PQS_PASSWORD":
        env |= {"PQS_AUTH": "basic", "PQS_USER": "ann", "PQS_URL": "https://pqs.example"}
    settings = load_settings(env)
    assert value(settings, name) == EXAMPLES[name]
    assert settings.warnings == []
    (row,) = (row for row in describe(settings) if row.name == name)
    assert row.origin == f"file {path}"
    assert "hunter2" not in row.value


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (b"hunter2", "hunter2"),
        (b"hunter2\n", "hunter2"),
        (b"hunter2\r\n", "hunter2"),
        (b"hunter2\n\n", "hunter2\n"),
        (b" hunter 2 \n", " hunter 2 "),
        (b"${HOME} # '\"\n", "${HOME} # '\""),
        ("\ufeffpässwörd\n".encode(), "pässwörd"),
    ],
)
def test_only_the_newline_at_the_end_is_no_part_of_it(written: bytes, meant: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(written)
    assert value(load_settings({"CH_PASSWORD_FILE": str(tmp_path / "secret")}), "CH_PASSWORD") == meant


def test_the_env_file_may_name_it_and_the_environment_wins(secret: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("night")
    env_file = tmp_path / "settings.env"
    env_file.write_text(f"CH_PASSWORD=\nCH_PASSWORD_FILE={tmp_path / 'other'}\n")
    settings = load_settings({}, env_file)
    assert (value(settings, "CH_PASSWORD"), settings.warnings) == ("night", [])
    assert value(load_settings({"CH_PASSWORD_FILE": str(secret)}, env_file), "CH_PASSWORD") == "hunter2"
    # An empty value is as good as none, here too.
    assert value(load_settings({"CH_PASSWORD_FILE": "", "CH_PASSWORD": "x"}), "CH_PASSWORD") == "x"


def test_both_ways_at_once_are_a_fault(secret: Path, tmp_path: Path) -> None:
    (said,) = faults({"CH_PASSWORD_FILE": str(secret), "CH_PASSWORD": "other"})
    assert said.startswith(f"CH_PASSWORD_FILE={secret}: CH_PASSWORD is set too (environment)")
    assert "remove one" in said
    env_file = tmp_path / "settings.env"
    env_file.write_text("CH_PASSWORD=other\n")
    (said,) = faults({"CH_PASSWORD_FILE": str(secret)}, env_file)
    assert f"({env_file})" in said and "(CH_PASSWORD_FILE: environment)" in said


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "latin").write_bytes("pässwörd".encode("latin-1"))
    (tmp_path / "long").write_bytes(b"x" * 70_000)
    for name, reason in {
        "nowhere": "cannot be read (No such file or directory)",
        "directory": "cannot be read (Is a directory)",
        "empty": "is empty",
        "latin": "cannot be read (it is not UTF-8 text)",
        "long": "is longer than 64 KiB",
    }.items():
        path = tmp_path / name
        assert faults({"REDIS_URL_FILE": str(path)}) == [
            f"REDIS_URL_FILE={path}: {reason}; write the path of a file that holds REDIS_URL (environment)"
        ]


def test_what_is_wrong_inside_is_said_of_the_setting_and_hidden(tmp_path: Path) -> None:
    (tmp_path / "dsn").write_text("mysql://etl:hunter2@db.example/etl\n")
    (said,) = faults({"PG_DSN_FILE": str(tmp_path / "dsn")})
    assert said.startswith("PG_DSN=mysql://etl:***@db.example/etl: does not begin with postgresql://")


def test_faults_of_files_stand_beside_all_others(tmp_path: Path) -> None:
    said = faults({"CH_PASSWORD_FILE": str(tmp_path / "nowhere"), "STEP_MIN": "ten"})
    assert [line.partition("=")[0] for line in said] == ["CH_PASSWORD_FILE", "STEP_MIN"]


def test_only_secrets_come_from_files(secret: Path) -> None:
    settings = load_settings({"CH_USER_FILE": str(secret), "CH_PASWORD_FILE": str(secret)})
    assert settings.ch_user == "default"
    assert settings.warnings == [
        "CH_PASWORD_FILE (environment) is no setting; did you mean CH_PASSWORD_FILE?",
        "CH_USER_FILE (environment) is not read: only secrets come from files; write CH_USER",
    ]
