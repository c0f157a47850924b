"""The development source's rows and the oracle that says what CLEAN must hold of them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from devstack import oracle
from devstack.dataset import (
    COLUMN_TYPES,
    DAY,
    HOUR,
    MAIN_COLUMNS,
    SLICE,
    VALUE_COLUMNS,
    DatasetSpec,
    Row,
    changed,
    indexes_between,
    late,
    row_at,
    rows_of,
    wide,
)
from devstack.oracle import Change, CleanRow, Late, Rows, State, Wide

CHECKOUT = Path(__file__).resolve().parents[2]
UNTIL = int(datetime(2025, 11, 24, 17, 30, 0, 123_000, UTC).timestamp() * 1000)
SPEC = DatasetSpec(rows=3_000, days=3, seed=1, until_ms=UNTIL)
GOLDEN = "aab8029a5bfe5887"
"""The hash of what CLEAN must hold of STATE; other than by a change of the dataset itself it may never move."""

STATE = State(
    (
        Rows(SPEC),
        Change(SPEC, 200, SPEC.start_ms, UNTIL, 1),
        Late(SPEC, 100, UNTIL - HOUR, UNTIL, 1),
        Change(SPEC, 300, UNTIL - 20 * HOUR, UNTIL, 2),
        Late(SPEC, 50, UNTIL, UNTIL + SLICE, 2),
        Wide(3, 5_000, UNTIL, UNTIL + SLICE),
    )
)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(rows_of(SPEC))


def column(rows: list[Row], name: str) -> list[object]:
    return [row[MAIN_COLUMNS.index(name)] for row in rows]


def test_the_columns_are_those_of_the_real_table() -> None:
    names = "c,t,opd,id,did,rid,rinn,rn,sid,sinn,sn,gt,prid,st,ste,elr,emd,apd,exd,p,pt,o,pn,b,tt,tm,ch,j,pg,et,pvad,ag"
    assert ",".join(MAIN_COLUMNS) == names
    assert Counter(COLUMN_TYPES.values()) == {
        "VARCHAR": 18, "UNSIGNED_TINYINT": 6, "TIMESTAMP": 5, "BIGINT": 1, "VARCHAR ARRAY": 1, "UNSIGNED_SMALLINT": 1,
    }  # fmt: skip


def test_the_ddl_creates_these_columns_with_these_types() -> None:
    ddl = (CHECKOUT / "ddl" / "phoenix_source.sql").read_text("utf-8")
    for name, kind in COLUMN_TYPES.items():
        assert any(line.split(None, 1)[0] == f'"{name}"' and kind in line for line in ddl.splitlines() if line.strip())
    assert 'PRIMARY KEY ("c", "t", "opd")' in ddl


def test_the_rows_are_the_same_as_ever() -> None:
    assert oracle.content_hash(oracle.expected_rows(STATE)) == GOLDEN


def test_another_process_with_other_hashing_makes_the_same_rows() -> None:
    program = (
        "import sys, json; from devstack.oracle import *;"
        "print(content_hash(expected_rows(State.from_json(json.load(sys.stdin)))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(STATE.to_json()),
        env={**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(CHECKOUT), "TZ": "Asia/Almaty"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == GOLDEN


def test_a_row_does_not_depend_on_the_order_of_calls(rows: list[Row]) -> None:
    for index in random.Random(0).sample(range(SPEC.rows), 200):
        assert row_at(SPEC, index) == rows[index]


def test_another_seed_makes_other_rows(rows: list[Row]) -> None:
    other = {row[:3] for row in rows_of(DatasetSpec(SPEC.rows, SPEC.days, 2, UNTIL))}
    assert not {row[:3] for row in rows if row[0]} & other


@pytest.mark.parametrize("until_ms", [UNTIL, UNTIL // DAY * DAY, UNTIL // DAY * DAY + 2, UNTIL // DAY * DAY + SLICE])
@pytest.mark.parametrize("days", [1, 3])
def test_rows_lie_in_their_days_with_unique_keys(until_ms: int, days: int) -> None:
    spec = DatasetSpec(1_500, days, 7, until_ms)
    rows = list(rows_of(spec))
    assert len({row[:3] for row in rows}) == spec.rows
    assert all(spec.start_ms <= opd < until_ms for opd in column(rows, "opd"))  # type: ignore[operator]
    assert spec.start_ms == (until_ms - 1) // DAY * DAY - (days - 1) * DAY


def test_each_day_has_its_share_and_hours_differ(rows: list[Row]) -> None:
    opds = [int(str(opd)) for opd in column(rows, "opd")]
    days = Counter((opd - SPEC.start_ms) // DAY for opd in opds)
    assert abs(days[0] - days[1]) < 0.02 * days[0]
    assert days[2] < days[1]
    hours = Counter(opd // HOUR % 24 for opd in opds if opd < SPEC.start_ms + DAY)
    assert hours[9] > 2 * hours[1]


def test_rows_lie_on_edges_to_the_millisecond(rows: list[Row]) -> None:
    opds = {int(str(opd)) for opd in column(rows, "opd")}
    for day in range(3):
        assert SPEC.start_ms + day * DAY in opds
    assert any(opd % DAY == DAY - 1 for opd in opds)
    assert any(opd % SLICE == 0 and opd % HOUR for opd in opds)
    assert any(opd % SLICE == SLICE - 1 and opd % HOUR != HOUR - 1 for opd in opds)


def test_keys_come_close_to_each_other_in_every_way(rows: list[Row]) -> None:
    keys = [row[:3] for row in rows]
    by_opd = Counter(opd for _, _, opd in keys)
    assert max(by_opd.values()) > 1
    assert max(Counter((c, opd) for c, _, opd in keys if c).values()) > 1, "one code, one instant, several t"
    assert max(Counter((c, t) for c, t, _ in keys if c).values()) > 1, "one code, one t, several instants"
    assert None in {c for c, _, _ in keys}
    assert {0, 1, 127} <= {t for _, t, _ in keys}


def test_the_special_values_are_there(rows: list[Row]) -> None:
    texts = [value for row in rows for value in row if isinstance(value, str)]
    for part in ("'", '"', "\\", "\t", "\n", ";", "--", "😀", "Қазақ", "Молоко", "NULL", "\x1d"):
        assert any(part in text for text in texts), part
    codes = [code for code in column(rows, "c") if isinstance(code, str)]
    assert all(any(mark in code for code in codes) for mark in "'&%\";\x1d")
    assert any(text == "" for text in texts)
    assert any(json.loads(str(value))["документ"] for value in column(rows, "j") if value)
    assert {2**63 - 1, -(2**63 - 1)} <= set(column(rows, "tt"))
    assert 32_767 in column(rows, "pg")
    assert 127 in column(rows, "st")
    assert int(datetime(9999, 12, 31, tzinfo=UTC).timestamp() * 1000) in column(rows, "exd")
    assert any(isinstance(emd, int) and emd < 0 and emd % 1000 for emd in column(rows, "emd"))


def test_arrays_of_every_kind_are_there(rows: list[Row]) -> None:
    arrays = column(rows, "ch")
    elements = {element for array in arrays if isinstance(array, tuple) for element in array}
    assert None in arrays
    assert () in arrays
    assert {None, "", "Қазақ 😀"} <= elements
    assert any(isinstance(array, tuple) and array and array[0] is None for array in arrays)
    assert any(isinstance(array, tuple) and array and array[-1] is None for array in arrays)


def test_about_a_fifth_is_null_and_some_rows_wholly(rows: list[Row]) -> None:
    for name in VALUE_COLUMNS:
        assert 0.17 < column(rows, name).count(None) / len(rows) < 0.25, name
    assert any(all(value is None for value in row[3:]) for row in rows)


def test_a_row_is_half_a_kilobyte_to_one(rows: list[Row]) -> None:
    size = sum(len(str(value).encode()) for row in rows for value in row) / len(rows)
    assert 450 < size < 1_000


def test_all_values_fit_the_types_of_the_source(rows: list[Row]) -> None:
    for row in [*rows, *changed(SPEC, 300, SPEC.start_ms, UNTIL, 1), *late(SPEC, 500, UNTIL, UNTIL + DAY, 1)]:
        for (name, kind), value in zip(COLUMN_TYPES.items(), row, strict=True):
            if value is None:
                assert name not in ("t", "opd")
            elif kind == "VARCHAR":
                assert isinstance(value, str)
                assert "\0" not in value
            elif kind == "VARCHAR ARRAY":
                assert isinstance(value, tuple)
            else:
                limit = {"UNSIGNED_TINYINT": 127, "UNSIGNED_SMALLINT": 32_767}.get(kind)
                assert isinstance(value, int)
                assert limit is None or 0 <= value <= limit


def test_one_code_for_all_rows_puts_a_day_on_one_shard() -> None:
    spec = DatasetSpec(5_000, 1, 3, UNTIL, code="0104600000000000021one")
    keys = [row[:3] for row in rows_of(spec)]
    assert {c for c, _, _ in keys} == {spec.code}
    assert len(set(keys)) == len({opd for _, _, opd in keys}) == 5_000


def test_a_window_is_half_open(rows: list[Row]) -> None:
    edge = SPEC.start_ms + DAY
    assert list(rows_of(SPEC, edge, edge + 1)) == [row for row in rows if row[2] == edge]
    before, after = indexes_between(SPEC, None, edge), indexes_between(SPEC, edge)
    assert sorted(before + after) == list(range(SPEC.rows))
    assert indexes_between(SPEC, edge, edge) == []


def test_changes_keep_keys_and_put_null_over_values(rows: list[Row]) -> None:
    since, until = UNTIL - 10 * HOUR, UNTIL - HOUR
    old = {row[:3]: row for row in rows}
    new = list(changed(SPEC, 200, since, until, 1))
    assert len({row[:3] for row in new}) == 200
    assert all(since <= int(str(row[2])) < until and row != old[row[:3]] for row in new)
    emptied = MAIN_COLUMNS.index("ch")
    assert any(row[emptied] == () and old[row[:3]][emptied] not in (None, ()) for row in new)
    assert any(
        row[5] is None and old[row[:3]][5] is not None and any(value is not None for value in row[3:]) for row in new
    )
    assert any(all(value is None for value in row[3:]) for row in new)
    assert list(changed(SPEC, 200, since, until, 1)) == new
    assert list(changed(SPEC, 200, since, until, 2)) != new


def test_more_changes_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="but the window has"):
        changed(SPEC, 10, UNTIL - 1, UNTIL, 1)


def test_late_rows_are_new_keys_up_to_the_edges(rows: list[Row]) -> None:
    since, until = UNTIL - HOUR, UNTIL
    batches = [list(late(SPEC, 300, since, until, version)) for version in (1, 2)]
    keys = [row[:3] for row in rows] + [row[:3] for batch in batches for row in batch]
    assert len(set(keys)) == len(keys)
    opds = [int(str(row[2])) for row in batches[0]]
    assert (min(opds), max(opds)) == (since, until - 1)
    assert {row[0] for row in batches[0]} & {row[0] for row in rows}, "some are late events of known codes"


def test_late_rows_fill_a_window_to_the_last_millisecond() -> None:
    assert len({row[2] for row in late(SPEC, 1_000, UNTIL, UNTIL + 1_000, 1)}) == 1_000
    with pytest.raises(ValueError, match="do not fit"):
        late(SPEC, 1_001, UNTIL, UNTIL + 1_000, 1)


def test_wide_rows_are_as_wide_as_asked() -> None:
    found = list(wide(5, 100_000, UNTIL, UNTIL + SLICE))
    assert [len(str(row[-1])) for row in found] == [100_000] * 5
    assert len({row[:3] for row in found}) == 5


def by_hand(state: State) -> dict[tuple[str, int, int], CleanRow]:
    """Last write wins, key by key, with the conversion written out again."""
    table: dict[tuple[str, int, int], CleanRow] = {}
    for operation in state.operations:
        match operation:
            case Rows(spec):
                source: Iterator[Row] = rows_of(spec)
            case Change(spec, n, since_ms, until_ms, version):
                source = changed(spec, n, since_ms, until_ms, version)
            case Late(spec, n, since_ms, until_ms, version):
                source = late(spec, n, since_ms, until_ms, version)
            case Wide(n, size, since_ms, until_ms, seed):
                source = wide(n, size, since_ms, until_ms, seed)
        for row in source:
            values = dict(zip(MAIN_COLUMNS, row, strict=True))
            clean: list[oracle.CleanValue] = []
            for name, value in values.items():
                if name == "ch":
                    clean.append(tuple("" if item is None else item for item in value) if value else ())  # type: ignore[union-attr]
                elif name == "c":
                    clean.append("" if value is None else str(value))
                else:
                    clean.append(None if value == "" or isinstance(value, tuple) else value)
            table[(str(clean[0]), int(str(row[1])), int(str(row[2])))] = tuple(clean)
    return table


@pytest.mark.parametrize("length", range(len(STATE.operations) + 1))
def test_the_oracle_agrees_with_writes_by_hand(length: int) -> None:
    state = State(STATE.operations[:length])
    table = by_hand(state)
    expected = list(oracle.expected_rows(state))
    assert len(expected) == len(table)
    assert {row[:3]: row for row in expected} == table
    counts = Counter(int(datetime.fromtimestamp(opd // 1000, UTC).strftime("%Y%m%d")) for _, _, opd in table)
    assert oracle.expected_counts(state) == counts


def test_the_oracle_answers_for_a_window() -> None:
    since, until = UNTIL - HOUR, UNTIL - SLICE
    inside = {key: row for key, row in by_hand(STATE).items() if since <= key[2] < until}
    assert {row[:3]: row for row in oracle.expected_rows(STATE, since, until)} == inside
    assert sum(oracle.expected_counts(STATE, since, until).values()) == len(inside)


def test_the_hash_ignores_order_and_lists_but_nothing_else() -> None:
    expected = list(oracle.expected_rows(State((Rows(DatasetSpec(200, 1, 1, UNTIL)),))))
    shuffled = [[list(value) if isinstance(value, tuple) else value for value in row] for row in reversed(expected)]
    assert oracle.content_hash(shuffled) == oracle.content_hash(expected)
    for damaged in (expected[1:], [*expected, expected[0]], [(*expected[0][:-1], "x"), *expected[1:]]):
        assert oracle.content_hash(damaged) != oracle.content_hash(expected)
    assert oracle.row_hash((None,)) != oracle.row_hash(("",))


def test_differences_name_the_key_and_the_column() -> None:
    expected = list(oracle.expected_rows(State((Rows(DatasetSpec(200, 1, 1, UNTIL)),))))
    assert not oracle.difference(expected, reversed(expected))
    wrong = ("strange", 1, UNTIL, *expected[0][3:])
    damaged = (*expected[1][:5], "other", *expected[1][6:])
    found = oracle.difference(expected, [wrong, damaged, *expected[2:], expected[5]])
    assert (found.missing, found.extra, found.repeated, found.differing) == (1, 1, 1, 1)
    differing = next(example for example in found.examples if example.kind == "differs")
    assert (differing.key, differing.column, differing.actual) == (expected[1][:3], "rid", "other")
    assert differing.expected == expected[1][5]
    assert len(oracle.difference(expected, [], limit=4).examples) == 4
    assert oracle.difference(expected, []).missing == 200


def test_the_state_survives_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVSTACK_DIR", str(tmp_path / "state"))
    assert oracle.load_state() == State()
    oracle.save_state(STATE)
    assert oracle.load_state() == STATE
    assert oracle.load_state().spec == SPEC
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["dataset.json"]


def test_the_digest_sums_it_up() -> None:
    found = oracle.digest(STATE)
    assert found["hash"] == GOLDEN
    assert found["rows"] == sum(found["partitions"].values()) == 3_153
    assert found["first"][0] == SPEC.start_ms
    assert oracle.digest(State())["rows"] == 0


def test_the_oracle_knows_nothing_of_the_pipeline() -> None:
    program = (
        "import sys, devstack.oracle; print([m for m in sys.modules if m.split('.')[0] in ('etl_tasks', 'phoenixdb')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"
