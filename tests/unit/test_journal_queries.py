"""The journal's named queries and its DDL, without a database: names, guards, rendering, text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_tasks.adapters.journal.queries import journal_ddl, load_queries, render_names, split_table_name
from etl_tasks.adapters.journal.text import journal_json, journal_key, journal_text
from etl_tasks.errors import ConfigError

JOURNAL = Path(__file__).parents[2] / "etl_tasks" / "adapters" / "journal"
QUERIES = load_queries("public.inc_processing")


def used_names() -> set[str]:
    """Every word in quotes in the package that could be the name of a query."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in JOURNAL.glob("*.py"))
    return set(re.findall(r'"(\w+)"', source))


def test_every_query_is_used_and_says_what_it_does() -> None:
    assert set(QUERIES) <= used_names(), set(QUERIES) - used_names()
    for name, sql in QUERIES.items():
        assert re.match(r"-- \S", sql), name
        code = re.sub(r"--[^\n]*|'[^']*'", "", sql)
        assert code.rstrip().endswith(";"), name
        assert code.count(";") == 1, f"{name}: one statement a name"


def test_no_two_files_give_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("a.sql", "b.sql"):
        (tmp_path / file).write_text("-- name: twice\n-- Says so.\nSELECT 1;\n")
    monkeypatch.setattr("etl_tasks.adapters.journal.queries._SQL", tmp_path)
    load_queries.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"b\.sql: the query name twice is taken"):
            load_queries("public.inc_processing")
    finally:
        load_queries.cache_clear()


@pytest.mark.parametrize("name", sorted(name for name in QUERIES if name.endswith("_if_running")))
def test_what_says_if_running_is_guarded(name: str) -> None:
    """The state and the fence stand in the WHERE, not in code around it."""
    sql = QUERIES[name]
    if "publish" in name:
        assert "publish_state = 'running'" in sql
        assert "token = %(token)s" in sql
    else:
        assert "state = 'running'" in sql
        assert "attempt = %(attempt)s" in sql
    assert "RETURNING" in sql


def test_only_postgresqls_clock_is_used() -> None:
    for name, sql in QUERIES.items():
        assert not re.search(r"\bnow\(\)|current_timestamp|statement_timestamp", sql), f"{name}: clock_timestamp()"


def test_what_takes_several_rows_takes_them_in_one_order() -> None:
    """Two statements that lock the same rows in different orders are a deadlock."""
    for name in ("mark_slices_sent", "abandon_open_slices", "owe_publishes_of_run", "lock_runs_of_slices"):
        assert re.search(r"ORDER BY [\w., ]+\s*FOR NO KEY UPDATE", QUERIES[name]), name


def test_names_follow_the_journals_table() -> None:
    rendered = render_names("SELECT 1 FROM public.inc_processing_slices s, public.inc_processing r", "etl.runs")
    assert rendered == 'SELECT 1 FROM "etl"."runs_slices" s, "etl"."runs" r'
    assert render_names("CREATE INDEX inc_processing_x_idx ON public.inc_processing", "etl.Runs") == (
        'CREATE INDEX "Runs_x_idx" ON "etl"."Runs"'
    )
    assert split_table_name("inc_processing") == ("public", "inc_processing")
    for sql in load_queries("etl.runs").values():
        assert "inc_processing" not in sql
        assert "public." not in sql
    ddl = journal_ddl("etl.runs")
    assert ddl.startswith('CREATE SCHEMA IF NOT EXISTS "etl";')
    assert "inc_processing" not in ddl.replace("over a table that the old", "").replace("(public.inc_processing)", "")
    assert "CREATE SCHEMA" not in journal_ddl("public.inc_processing")


@pytest.mark.parametrize("name", ["a.b.c", "", ".", "a.", "x; DROP TABLE y", 'a"b', "schéma.t", "1abc", "a b"])
def test_names_that_cannot_be_meant_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="JOURNAL_TABLE="):
        split_table_name(name)


def test_the_longest_derived_name_fits_exactly() -> None:
    """PostgreSQL cuts names at 63 bytes in silence, and then two are one."""
    suffixes = re.findall(r"\binc_processing(\w+)", journal_ddl("public.inc_processing"))
    longest = max(map(len, suffixes))
    assert split_table_name("j" * (63 - longest)) == ("public", "j" * (63 - longest))
    with pytest.raises(ConfigError, match="63 bytes"):
        split_table_name("j" * (64 - longest))


def test_the_ddl_may_run_again_and_again() -> None:
    for statement in re.findall(r"^(?:CREATE|ALTER)[^;]*;", journal_ddl("public.inc_processing"), re.MULTILINE):
        assert "IF NOT EXISTS" in statement or "SET DEFAULT" in statement, statement


@given(st.text(st.characters(), max_size=50))
def test_any_text_can_be_stored(text: str) -> None:
    for stored in (journal_text(text), journal_key(text)):
        assert "\x00" not in stored
        stored.encode("utf-8")
    if text.isascii() and "\x00" not in text:
        assert journal_text(text) == journal_key(text) == text


def test_long_text_is_bounded_and_long_keys_stay_apart() -> None:
    assert len(journal_text("x" * 10_000)) == 4000
    alike = ["ж" * 5000 + end for end in "ab"]
    keys = [journal_key(key) for key in alike]
    assert keys[0] != keys[1]
    assert all(len(key.encode()) <= 2000 for key in keys)
    assert keys[0] == journal_key(alike[0])


def test_details_are_storable_to_the_last_text() -> None:
    details = journal_json({"a\x00": ["x\x00", {"b": ("y\ud800", 1, None, True)}]})
    assert details.adapted == {"a\\0": ["x\\0", {"b": ["y\\ud800", 1, None, True]}]}
