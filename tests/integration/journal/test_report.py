"""``report`` over a real journal: the command from its arguments to the file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from etl_tasks.cli.main import main
from etl_tasks.core.records import Reject, SliceResult
from etl_tasks.core.windows import halve
from etl_tasks.errors import Overloaded, RowRejected
from tests.integration.journal.world import CLEAN, World, hours

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(world: World, stack_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command finds this test's journal."""
    for name, value in {**stack_env, "JOURNAL_TABLE": world.config.table, "CH_CLEAN_TABLE": CLEAN}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("settings")
def test_a_run_becomes_a_page(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = world.plan([hours(0, 1), hours(1, 2), hours(2, 3), hours(30, 31)]).run_id
    first, second, third, _ = world.slices(run_id)
    world.journal.slices.finish(world.must_claim(first), SliceResult(1200, 1200, 1200, 1200, 0, {}))
    splitting = world.must_claim(second)
    world.journal.slices.note_overload(splitting, Overloaded("too much"))
    world.journal.slices.split(splitting, halve(splitting.window), Overloaded("too much"), "too much, for <b>good</b>")
    failing = world.must_claim(third)
    world.journal.slices.record_rejects(failing, [Reject("('a', 1)", "st", "300", "does not fit UInt8")])
    world.journal.slices.fail(failing, RowRejected("row"), "row ('a', 1): st holds 300")
    world.load(world.slices(run_id, "planned")[0], rows=34)
    target = tmp_path / "run.html"
    assert main(["report", str(run_id), "--html", str(target)]) == 0
    said = capsys.readouterr()
    assert re.fullmatch(rf"run {run_id}: \S+run\.html \(\d+ KiB\)\n", said.out)
    assert "note: 2 slices not begun" in said.err
    text = target.read_text(encoding="utf-8")
    assert f"<title>Run {run_id} running" in text
    for shown in (
        "<dt>rows loaded</dt><dd>1,234</dd>",
        "<dt>slices</dt><dd>6</dd>",
        "<dt>rejections by the source</dt><dd>1</dd>",
        "<dt>rows rejected</dt><dd>1</dd>",
        "row (&#39;a&#39;, 1): st holds 300",
        "too much, for &lt;b&gt;good&lt;/b&gt;",
        "does not fit UInt8",
        'title="2025-08-08: 6.2 % loaded, 0.0 % published"',  # an hour and a half of 24
    ):
        assert shown in text
    assert "<b>good" not in text


@pytest.mark.usefixtures("settings")
def test_what_cannot_be_meant_exits_2(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "99", "--html", str(tmp_path / "x.html")]) == 2
    assert "the journal has no run 99" in capsys.readouterr().err
    run_id = world.plan([hours(0, 1)]).run_id
    assert main(["report", str(run_id), "--html", str(tmp_path / "no" / "x.html")]) == 2
    assert "No such file or directory; name another file with --html" in capsys.readouterr().err
