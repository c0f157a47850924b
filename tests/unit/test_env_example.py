"""`.env.example` against the settings: complete, commented, with the defaults, without secrets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from etl_tasks.config import OLD_NAMES, describe, load_settings

EXAMPLE = Path(__file__).parents[2] / ".env.example"
COMPOSE_ONLY = ["POSTGRES_PASSWORD", "REDIS_PASSWORD", "GRAFANA_PASSWORD"]
LINES = EXAMPLE.read_text(encoding="utf-8").splitlines()
ASSIGNMENTS = [(number, *line.partition("=")[::2]) for number, line in enumerate(LINES) if re.match(r"[A-Z]", line)]


def test_every_setting_stands_in_it_once_in_order() -> None:
    settings = [row.name for row in describe(load_settings({}))]
    assert [name for _, name, _ in ASSIGNMENTS] == [*settings, *COMPOSE_ONLY]


def test_copied_unchanged_it_changes_nothing_and_warns_of_nothing() -> None:
    plain, copied = load_settings({}), load_settings({}, EXAMPLE)
    assert copied.model_dump() == plain.model_dump()
    assert copied.warnings == []


def test_every_value_written_is_the_default() -> None:
    defaults = {row.name: row.default for row in describe(load_settings({}))}
    wrong = {name: value for _, name, value in ASSIGNMENTS if defaults.get(name, "") != value}
    assert wrong == {}


def test_every_setting_has_a_comment_right_above_it() -> None:
    commented = {name for number, name, _ in ASSIGNMENTS if LINES[number - 1].startswith("# ")}
    assert {name for _, name, _ in ASSIGNMENTS} - commented == {
        "REDIS_PASSWORD",
        "GRAFANA_PASSWORD",
    }  # share POSTGRES_PASSWORD's


def test_units_are_said() -> None:
    text = "\n".join(LINES)
    for row in describe(load_settings({})):
        if row.unit:
            assert re.search(rf"\[{row.unit}\][^\n]*(\n# [^\n]*)*\n{row.name}=", text), row.name


@pytest.mark.parametrize("old", OLD_NAMES)
def test_old_names_are_explained_and_not_set(old: str) -> None:
    assert any(old in line for line in LINES if line.startswith("#"))
    assert old not in [name for _, name, _ in ASSIGNMENTS]


def test_no_secret_and_no_address_is_in_it() -> None:
    assert [name for _, name, value in ASSIGNMENTS if value and re.search("PASSWORD|AUTH$", name)] == ["PQS_AUTH"]
    assert not re.search(r"\d+\.\d+\.\d+\.\d+|//[^/\s]*@", "\n".join(LINES))
