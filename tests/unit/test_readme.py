"""README.md against the code: its table of settings, and every command, option, variable and message that it names."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Literal, get_args, get_origin

import click
import pytest

from devstack.__main__ import _parser as devstack_parser
from etl_tasks.cli.main import cli
from etl_tasks.config import OLD_NAMES, Settings, describe, load_settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"
CODE = re.findall(r"```[a-z]*\n(.*?)```|`([^`\n]+)`", README, re.S)
SNIPPETS = [block or inline for block, inline in CODE]
SETTINGS = {row.name for row in describe(load_settings({}))} | {f"{name}_FILE" for name in Settings.secret_names()}
# Where a name in capitals may come from when it is no setting: the rest of the project.
SOURCES = ("*.py", "*.sql", "*.sh", "*.yml", "Makefile", "Dockerfile", ".env.example")
OURS = re.compile(r"(PHX|PHOENIX|PQS|CH|PUBLISH|SANITIZE|OVERLOAD|JOURNAL|PG|REDIS|TASK)_")
# The names of other machines and of package registries have no business in the project: one works anywhere.
HARMLESS_HOST = re.compile(
    r"localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\]|[\w.-]+\.(?:example|invalid)|maven\.apache\.org|www\.w3\.org|[a-z0-9]{1,11}"
)
# Where somebody's machine would show: absolute paths of home directories, of scratch places, of checkouts.
MACHINE_PATH = re.compile(r"(?<![\w.$}/*])/(?:root|work|home/(?!etl\b)\w+|Users|tmp/w|mnt|data\d)/[\w.-]+")


def settings_block() -> str:
    """The table of all settings, as it must stand in README between its two marks."""
    lines = [BEGIN]
    for group, rows in groupby(describe(load_settings({})), key=lambda row: row.group):
        lines += ["", f"**{group}**", "", "| name | default | meaning |", "| --- | --- | --- |"]
        for row in rows:
            # A cell that is too wide for the table helps nobody: .env.example has every default in full.
            default = row.default.partition("?")[0]
            default = default if len(default) <= 40 else f"{default[:16]}…"
            shown = f"`{default}`" + (f" {row.unit}" if row.unit else "") if default else "–"
            old = [name for name, new in OLD_NAMES.items() if new == row.name]
            meaning = row.description + choices(row.name) + (f" Old name: `{old[0]}`." if old else "")
            meaning += f" Or from a file: `{row.name}_FILE`." if row.secret else ""
            lines.append(f"| `{row.name}` | {shown} | {meaning} |".replace("<", "&lt;"))
    return "\n".join([*lines, "", END])


def choices(name: str) -> str:
    """What may be written, where that is one of a few words."""
    annotation = Settings.model_fields[name.lower()].annotation
    words = [f"`{word}`" for word in get_args(annotation)] if get_origin(annotation) is Literal else []
    return f" One of {', '.join(words)}." if words else ""


@cache
def tracked() -> dict[str, str]:
    """The text of every file of the project by its path: what git has or would take; without git, what looks so."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.splitlines()]
    else:
        hidden = (".ci", ".github", ".env.example")
        tops = [path for path in ROOT.iterdir() if not path.name.startswith(".") or path.name in hidden]
        paths = [path for top in tops for path in (top, *top.rglob("*")) if "__pycache__" not in path.parts]
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8", errors="replace")
        for path in paths
        if path.is_file()
    }


@cache
def source_text() -> str:
    """All sources; literals that Python joins are joined, so that a message can be found as it is printed."""
    text = "\n".join(
        body
        for name, body in tracked().items()
        if name != "README.md" and not name.startswith("tests/") and any(Path(name).match(kind) for kind in SOURCES)
    )
    return re.sub(r"[\"']\s*\n\s*f?[\"']", "", text)


def commands_after(words: str) -> list[list[str]]:
    """What stands behind ``words`` in README's code, up to the end of the command, as words."""
    found = []
    for snippet in SNIPPETS:
        joined = snippet.replace("\\\n", " ")
        for line in joined.splitlines():
            found += [part.split() for part in re.findall(re.escape(words) + r"((?:\s+[^\s|;&#()]+)*)", line)]
    return found


def test_the_table_of_settings_is_what_the_code_says() -> None:
    begin, end = README.find(BEGIN), README.find(END)
    assert begin < end, f"README.md has no block between {BEGIN} and {END}"
    if README[begin : end + len(END)] != settings_block():
        pytest.fail(f"the settings have changed; put this into README.md:\n\n{settings_block()}\n", pytrace=False)


def test_every_make_target_exists_and_the_usual_ones_are_explained() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.M))
    named = {words[0] for words in commands_after("make") if words and re.fullmatch(r"[a-z][a-z-]*", words[0])}
    assert named - targets == set()
    assert {"demo", "test", "test-unit", "lint", "bench", "up", "down", "compose-up", "compose-down", "clean"} <= named
    phony = set(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[0].split())
    assert phony == targets


def test_every_command_and_option_of_the_command_line_exists() -> None:
    group_options = {name for parameter in cli.params for name in parameter.opts}
    seen = set()
    for words in commands_after("python -m etl_tasks"):
        position = next((index for index, word in enumerate(words) if word in cli.commands), None)
        before = words if position is None else words[:position]
        assert {word for word in before if word.startswith("-")} <= group_options | {"-h", "--help"}, words
        if position is None:
            assert all(word.startswith("-") for word in before), words
            continue
        command: click.Command = cli.commands[words[position]]
        options = {name for parameter in command.params for name in parameter.opts} | {"-h", "--help"}
        given = {
            word.strip("[]").partition("=")[0] for word in words[position + 1 :] if word.strip("[]").startswith("--")
        }
        assert given <= options, words
        seen.add(words[position])
    assert seen == set(cli.commands), "README must show every command"


def test_every_command_of_the_development_stack_exists() -> None:
    usage = devstack_parser().format_help()
    known = set(re.findall(r"^    ([a-z]+) ", usage, re.M))
    named = commands_after("python -m devstack")
    assert {words[0] for words in named if words} - known == set()
    options = {word for words in named for word in words if word.startswith("--")}
    for option in options:
        assert f'"{option}"' in source_text(), option


def test_celery_is_started_as_it_can_be() -> None:
    tasks = set(re.findall(r'name="(etl_tasks\.\w+)"', source_text()))
    assert {words[0] for words in commands_after("celery -A etl_tasks")} == {"worker", "beat", "flower", "call"}
    called = {words[1] for words in commands_after("celery -A etl_tasks") if words[0] == "call"}
    assert called <= tasks
    for name in re.findall(r"`(etl_tasks\.[a-z_]+)`", README):
        assert name in tasks or (ROOT / name.replace(".", "/")).with_suffix(".py").exists(), name


def test_every_variable_exists() -> None:
    words = set(re.findall(r"(?<![\w./%-])[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9](?![\w*])", README))
    unknown = {name for name in words if OURS.match(name)} - SETTINGS - set(OLD_NAMES) - {"REDIS_PASSWORD"}
    assert unknown == set()
    known = set(re.findall(r"(?<![A-Za-z0-9_])[A-Z][A-Z0-9_]+(?![A-Za-z0-9_])", source_text()))
    assert words - SETTINGS - known == set()


def test_every_file_named_exists() -> None:
    named = re.findall(r"(?<![\w/.:-])((?:ddl|devstack|etl_tasks|tests|benchmarks|\.ci|\.github)/[\w./-]*\w)", README)
    named += [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert [name for name in sorted(set(named)) if not (ROOT / name).exists()] == []


def test_links_inside_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", README, flags=re.S), re.M)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def test_every_message_of_the_troubleshooting_is_one_that_the_code_says() -> None:
    section = README.partition("## Troubleshooting")[2].partition("\n## ")[0]
    ours = section.partition("### Messages of this system")[2].partition("\n### ")[0]
    messages = re.findall(r"^\| `([^`]+)`", ours, re.M)
    assert len(messages) > 20
    for message in messages:
        for part in re.split(r"…", message):
            assert len(part.strip()) < 4 or part.strip() in source_text(), f"{part!r} of {message!r}"


@pytest.mark.parametrize(
    "old",
    [
        "Undefined column",
        "UniqueViolation",
        "can't subtract offset-naive and offset-aware datetimes",
        "should have DateTime or Date, but has DateTime64",
        "No module named 'zstd'",
        "UnexpectedPacketFromServerError",
    ],
)
def test_what_the_old_readme_explained_is_explained(old: str) -> None:
    assert old in README.partition("## Troubleshooting")[2]


def test_ci_runs_what_readme_says_it_runs() -> None:
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert script.stat().st_mode & 0o111
    assert text.index("\nmake lint") < text.index("\nmake test")
    assert "export CI=true" in text
    assert "run: bash .ci/run" in (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")


def test_no_other_machine_is_named_anywhere() -> None:
    found = []
    for name, text in tracked().items():
        for host in re.findall(r"(?:https?|rediss?|postgres(?:ql)?)://(?:[^\s/@\"'`]*@)?([\w.-]+|\[::1\])", text):
            if not HARMLESS_HOST.fullmatch(host.rstrip(".")):
                found.append(f"{name}: {host}")
        found += [f"{name}: {path}" for path in MACHINE_PATH.findall(text)]
        # Of private networks only the documentation's examples may be written down; the old installation's never.
        found += [f"{name}: {address}" for address in re.findall(r"\b10\.2\d\d(?:\.\d{1,3}){2}\b", text)]
    assert found == []
