"""Every line that our own code logs: its event is a constant that EVENTS explains, its facts come by key, and README's
table says the same.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from etl_tasks.events import EVENTS, ON_EVERY_LINE

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BEGIN, END = "<!-- events: begin -->", "<!-- events: end -->"
LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3, "exception": 3, "critical": 4}
# Words of structlog and logging, which become other fields.
MACHINERY = ("exc_info", "stack_info")


@dataclass
class Told:
    """An event as the code logs it, from all places together."""

    levels: set[str] = field(default_factory=set)
    keys: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Call:
    """One call of a log method."""

    place: str
    node: ast.Call
    level: str

    @property
    def events(self) -> list[str] | None:
        """The event's name, both where it is chosen by a condition; None where it is not written as a constant."""
        first = self.node.args[0] if len(self.node.args) == 1 else None
        branches = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
        names = [branch.value for branch in branches if isinstance(branch, ast.Constant)]
        return [str(name) for name in names] if len(names) == len(branches) else None

    @property
    def keys(self) -> list[str | None]:
        return [keyword.arg for keyword in self.node.keywords if keyword.arg not in MACHINERY]


def calls(source: str, place: str) -> Iterator[Call]:
    """The calls of log methods: of a name ``log``, or of what ``get_logger`` gave."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = node.func.value
        is_log = (isinstance(owner, ast.Name) and owner.id == "log") or (
            isinstance(owner, ast.Call) and "get_logger" in ast.unparse(owner.func)
        )
        if is_log and node.func.attr not in ("bind", "unbind"):
            yield Call(f"{place}:{node.lineno}", node, node.func.attr)


def all_calls() -> list[Call]:
    return [
        call
        for path in sorted((ROOT / "etl_tasks").rglob("*.py"))
        for call in calls(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    ]


def told() -> dict[str, Told]:
    """Event → what the code says of it."""
    found: dict[str, Told] = {}
    for call in all_calls():
        for event in call.events or []:
            one = found.setdefault(event, Told())
            one.levels.add("error" if call.level == "exception" else call.level)
            one.keys += [key for key in call.keys if key and key not in one.keys and key not in ON_EVERY_LINE]
    return found


def events_block() -> str:
    """The table of all events, as it must stand in README between its two marks."""
    lines = [BEGIN, "", "| event | level | meaning | keys |", "| --- | --- | --- | --- |"]
    found = told()
    long: dict[tuple[str, ...], str] = {}
    for event, meaning in EVENTS.items():
        one = found.get(event, Told())
        levels = ", ".join(sorted(one.levels, key=LEVELS.__getitem__))
        keys = ", ".join(f"`{key}`" for key in one.keys) or "–"
        if len(one.keys) > 8:
            like = long.setdefault(tuple(one.keys), event)
            keys = keys if like == event else f"as `{like}`"
        lines.append(f"| `{event}` | {levels} | {meaning} | {keys} |")
    return "\n".join([*lines, "", END])


def test_the_table_in_readme_is_what_the_code_logs() -> None:
    begin, end = README.find(BEGIN), README.find(END)
    assert 0 <= begin < end, f"README.md has no block between {BEGIN} and {END}"
    if README[begin : end + len(END)] != events_block():
        pytest.fail(f"the events have changed; put this into README.md:\n\n{events_block()}\n", pytrace=False)


def test_every_event_is_explained_and_none_that_is_not_logged() -> None:
    missing, gone = set(told()) - set(EVENTS), set(EVENTS) - set(told())
    assert (missing, gone) == (set(), set()), "etl_tasks/events.py has a meaning for each event, and for no other"
    assert len(EVENTS) > 40


def test_an_event_is_one_constant_name_and_its_facts_are_keys() -> None:
    for call in all_calls():
        assert call.level in LEVELS, call.place
        assert call.events, f"{call.place}: the event must be a constant, alone; facts come by key"
        for event in call.events:
            assert re.fullmatch(r"[a-z]+(_[a-z]+)*", event), f"{call.place}: {event}"
        assert None not in call.keys, f"{call.place}: keys are written out, for the table"


def test_meanings_are_short_sentences() -> None:
    for event, meaning in EVENTS.items():
        assert 10 < len(meaning) <= 160, event
        assert not meaning.endswith(".") and "|" not in meaning and "\n" not in meaning, event


def test_nobody_logs_or_prints_past_it() -> None:
    for path in sorted((ROOT / "etl_tasks").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if path.name == "log.py":
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert "logging" not in names, f"{path}: log with structlog.get_logger"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    ("source", "events", "level"),
    [
        ("log.info('slice_done', rows=1)", ["slice_done"], "info"),
        ("log.warning('a' if x else 'b')", ["a", "b"], "warning"),
        ("structlog.get_logger(__name__).critical('gone')", ["gone"], "critical"),
        ("log.info(f'{x} done')", None, "info"),
        ("log.info('%s done', x)", None, "info"),
        ("log.info(name)", None, "info"),
        ("log.info('a' if x else name)", None, "info"),
    ],
)
def test_the_reading_of_the_code_sees_what_it_should(source: str, events: list[str] | None, level: str) -> None:
    (call,) = calls(source, "x")
    assert (call.events, call.level) == (events, level)
