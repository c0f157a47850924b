"""The one file of ClickHouse tables, and what ``migrate`` makes of it for other places than production."""

from __future__ import annotations

import dataclasses
import re

import pytest

from etl_tasks.adapters.clickhouse.config import ClickHouseConfig, Host
from etl_tasks.adapters.clickhouse.ddl import FILE, Form, TableNames, split_statements, statements
from etl_tasks.adapters.clickhouse.identifiers import parse_table
from etl_tasks.errors import ConfigError

CONFIG = ClickHouseConfig(
    hosts=(Host("ch1", 9000),),
    user="u",
    password="p",
    database="stg",
    raw_table="stg.daily_codes_history_raw_all",
    clean_table="stg.daily_codes_history",
    clean_all_table="stg.daily_codes_history_all",
    dedup_buf_table="stg.daily_codes_history_dedup_buf",
)
NAMES = TableNames.of(CONFIG)
OTHER = TableNames.of(
    dataclasses.replace(
        CONFIG, raw_table="in.r_all", clean_table="out.c", clean_all_table="out.c_all", dedup_buf_table="work.b"
    )
)
COLUMN = re.compile(r"^    (\w+) (.+?),?$", re.MULTILINE)


def columns(created: str) -> list[tuple[str, str]]:
    """Names and definitions in a CREATE TABLE."""
    return COLUMN.findall(created.partition("\n(\n")[2].partition("\n)\n")[0])


def the_file() -> list[str]:
    """The statements of the file as they are."""
    return split_statements(FILE.read_text(encoding="utf-8"))


def test_the_columns_are_written_once_and_every_form_has_them() -> None:
    defining = [statement for statement in the_file() if "\n(\n" in statement]
    assert len(defining) == 1
    expected = columns(defining[0])
    assert len(expected) == 35
    for form in Form:
        rendered = [s for s in statements(form, OTHER, "c1" if form is not Form.NODE else None) if "\n(\n" in s]
        assert [columns(statement) for statement in rendered] == [expected]


def test_the_replicated_form_for_production_is_the_file_itself() -> None:
    plain = [statement.replace("`", "") for statement in statements(Form.REPLICATED, NAMES, "shardless")]
    assert plain == the_file()


def test_every_statement_may_be_run_again() -> None:
    for statement in the_file():
        assert re.match(r"CREATE (TABLE|DATABASE) IF NOT EXISTS|ALTER TABLE \S+ ON CLUSTER", statement)
        if statement.startswith("ALTER"):
            assert "IF NOT EXISTS" in statement or "MODIFY SETTING" in statement


@pytest.mark.parametrize("form", [Form.SHARDS, Form.NODE])
def test_plain_forms_need_no_keeper_and_no_on_cluster(form: Form) -> None:
    text = ";".join(statements(form, NAMES, "devstack" if form is Form.SHARDS else None))
    assert "ON CLUSTER" not in text
    assert "Replicated" not in text
    assert "shardless" not in text
    assert "/clickhouse/" not in text
    assert ("Distributed('devstack', 'stg', 'daily_codes_history_raw', cityHash64(c))" in text) == (form is Form.SHARDS)
    assert ("Merge('stg', '^daily_codes_history_raw$')" in text) == (form is Form.NODE)
    assert "ReplacingMergeTree(ingested_at)" in text
    assert re.search(r"ENGINE = MergeTree\nPARTITION", text)


def test_names_of_the_settings_take_the_place_of_the_files() -> None:
    for form in Form:
        rendered = statements(form, OTHER, "c'1" if form is not Form.NODE else None)
        text = " ; ".join(rendered)
        assert "stg" not in text
        assert "daily_codes_history" not in text
        created = re.findall(r"CREATE TABLE IF NOT EXISTS (\S+)", text)
        assert created == ["`out`.`c`", "`work`.`b`", "`in`.`r`", "`in`.`r_all`", "`out`.`c_all`"]
        databases = re.findall(r"CREATE DATABASE IF NOT EXISTS (\S+)", text)
        assert sorted(databases) == ["`in`", "`out`", "`work`"]
        assert "c'1" not in text.replace("`c'1`", "")


def test_several_replicated_shards_get_the_shard_into_their_paths() -> None:
    with_macro = ";".join(statements(Form.REPLICATED, OTHER, "c1", shard_macro=True))
    assert "'/clickhouse/tables/{shard}/in.r'" in with_macro
    assert "'/clickhouse/tables/{shard}/out.c'" in with_macro
    without = ";".join(statements(Form.REPLICATED, OTHER, "c1"))
    assert "'/clickhouse/tables/in.r'" in without


def test_on_one_plain_node_the_tables_over_all_shards_may_be_the_local_ones() -> None:
    names = dataclasses.replace(NAMES, raw_all=NAMES.raw, clean_all=NAMES.clean)
    created = [s for s in statements(Form.NODE, names, None) if s.startswith("CREATE TABLE")]
    assert len(created) == 3
    with pytest.raises(ConfigError, match="CH_RAW_TABLE"):
        statements(Form.SHARDS, names, "c1")
    with pytest.raises(ConfigError, match="CH_CLEAN_ALL_TABLE"):
        statements(Form.SHARDS, dataclasses.replace(NAMES, clean_all=NAMES.clean), "c1")
    with pytest.raises(ConfigError, match="CH_CLUSTER"):
        statements(Form.SHARDS, NAMES, None)
    with pytest.raises(ConfigError, match="three tables"):
        statements(Form.NODE, dataclasses.replace(NAMES, buffer=parse_table("stg.daily_codes_history")), None)
