"""The import rule of DESIGN ("Layout"): ``cli, tasks → pipeline → core``, ``adapters → core``, one composition root."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import etl_tasks.core

PACKAGE = "etl_tasks"
ROOT = Path(etl_tasks.core.__file__).parents[1]
DRIVERS = frozenset({"phoenixdb", "clickhouse_driver", "psycopg2"})
ARRAYS = frozenset({"numpy", "pyarrow"})
"""Values, not I/O: what a column that stays bytes is made of."""
BROKERS = frozenset({"celery", "kombu"})
LEAVES = frozenset({"config", "errors", "log", "failpoints", "threads"})
WIRING = "wiring"


def modules() -> dict[str, Path]:
    """Dotted name → file of every module of the package."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, source: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all that ``source`` imports, also inside functions and by ``import_module("x")``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                package = package[: len(package) - (node.level - 1)]
                base = ".".join([*package, *filter(None, [base])])
            # "from etl_tasks import adapters" imports etl_tasks.adapters, so names count as modules.
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            target = node.args[0]
            if name in {"import_module", "__import__"} and isinstance(target, ast.Constant):
                yield node.lineno, str(target.value)


def layer_of(module: str) -> str:
    """The first part below the package: ``core``, ``config``, ``cli`` ...; empty for the package itself."""
    return [*module.split("."), ""][1]


def may_import(importer: str, imported: str) -> bool:
    """Whether a module of the layer ``importer`` may import one of the layer ``imported`` of our own package."""
    if importer == imported:
        return True
    if importer == "errors":
        return False
    if importer == "core":
        return imported == "errors"
    if importer in LEAVES or importer == "adapters":
        # A leaf may build the core's rules: config turns settings into SlicingRules.
        return imported in LEAVES or imported == "core"
    if importer == "pipeline":
        return imported in LEAVES or imported == "core"
    # The rest are the app's edges (cli, tasks, celery, wiring, __main__): all but the wiring stay clear of adapters.
    return imported != "adapters" or importer == WIRING


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """What ``source``, as the module of that name, imports against the rule; one sentence each."""
    importer = layer_of(module)
    found = []
    for line, name in imports(module, source, is_package):
        top = name.split(".")[0]
        if top == PACKAGE:
            imported = layer_of(name)
            known = imported in LEAVES or imported in {"core", "pipeline", "adapters", "cli", "tasks", "celery", WIRING}
            if known and not may_import(importer, imported):
                found.append(f"{module}:{line} imports {name}: {importer or PACKAGE} may not import {imported}")
        elif top in DRIVERS and importer != "adapters":
            found.append(f"{module}:{line} imports the driver {name}: only adapters may")
        elif top in BROKERS and importer == "pipeline":
            found.append(f"{module}:{line} imports {name}: how tasks travel is not the pipeline's to know")
        elif importer in {"core", "errors"} and top not in sys.stdlib_module_names | ARRAYS:
            found.append(f"{module}:{line} imports {name}: {importer} takes the standard library and arrays only")
    return found


def test_the_package_keeps_the_rule() -> None:
    found = modules()
    assert {"etl_tasks.errors", "etl_tasks.core.windows", "etl_tasks.core.slicing"} <= set(found)
    assert [
        fault
        for module, path in found.items()
        for fault in violations(module, path.read_text(encoding="utf-8"), path.name == "__init__.py")
    ] == []


@pytest.mark.parametrize(
    "module", ["os", "socket", "subprocess", "logging", "random", "threading", "requests", "sqlite3"]
)
def test_core_does_no_io(module: str) -> None:
    for name, path in modules().items():
        if layer_of(name) == "core":
            assert module not in {
                top.split(".")[0] for _, top in imports(name, path.read_text(encoding="utf-8"), False)
            }


def test_core_asks_no_clock() -> None:
    clocks = {"now", "utcnow", "today", "perf_counter", "monotonic", "time_ns"}
    for name, path in modules().items():
        if layer_of(name) == "core":
            calls = [
                node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
            ]
            asked = {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)} & clocks
            assert not asked, f"{name} asks the clock: {asked}"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("etl_tasks.core.x", "import etl_tasks.config"),
        ("etl_tasks.core.x", "from etl_tasks import log"),
        ("etl_tasks.core.x", "from ..pipeline import ports"),
        ("etl_tasks.core.x", "from .. import adapters"),
        ("etl_tasks.core.x", "def f():\n    from etl_tasks.adapters.phoenix import source"),
        ("etl_tasks.core.x", "import pandas"),
        ("etl_tasks.core.x", "import psycopg2"),
        ("etl_tasks.errors", "from etl_tasks.core import windows"),
        ("etl_tasks.config.x", "import etl_tasks.adapters.journal"),
        ("etl_tasks.log", "from etl_tasks.tasks import app"),
        ("etl_tasks.pipeline.plan", "from etl_tasks.adapters.journal import Journal"),
        ("etl_tasks.pipeline.plan", "import importlib\nimportlib.import_module('etl_tasks.adapters')"),
        ("etl_tasks.pipeline.plan", "import clickhouse_driver.errors"),
        ("etl_tasks.pipeline.plan", "from etl_tasks.wiring import build"),
        ("etl_tasks.pipeline.plan", "from celery import chord"),
        ("etl_tasks.adapters.phoenix.x", "from etl_tasks.pipeline.ports import Source"),
        ("etl_tasks.adapters.phoenix.x", "from etl_tasks import wiring"),
        ("etl_tasks.tasks", "from etl_tasks.adapters import journal"),
        ("etl_tasks.celery", "import psycopg2"),
        ("etl_tasks.cli.status", "from etl_tasks.adapters.journal import Journal"),
        ("etl_tasks.wiring", "import phoenixdb"),
        ("etl_tasks", "import etl_tasks.adapters"),
    ],
)
def test_the_rule_finds(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "etl_tasks.core.x",
            "from etl_tasks.core.windows import Window\nfrom etl_tasks.errors import UsageError\nimport zoneinfo",
        ),
        ("etl_tasks.core.x", "from . import windows\nfrom ..errors import EtlError"),
        ("etl_tasks.config.settings", "import pydantic\nfrom etl_tasks.core.slicing import SlicingRules"),
        (
            "etl_tasks.pipeline.plan",
            "import structlog\nfrom etl_tasks.core import slicing\nfrom .ports import Source",
        ),
        ("etl_tasks.adapters.phoenix.x", "import phoenixdb\nimport requests\nfrom etl_tasks.adapters.phoenix import y"),
        (
            "etl_tasks.adapters.journal.x",
            "from etl_tasks import errors, failpoints\nfrom etl_tasks.config import Settings",
        ),
        ("etl_tasks.wiring", "from etl_tasks.adapters.journal import Journal\nfrom etl_tasks.pipeline import plan"),
        (
            "etl_tasks.tasks",
            "from celery import chord\nfrom etl_tasks.pipeline import plan\nfrom etl_tasks.wiring import build",
        ),
        ("etl_tasks.cli.status", "from etl_tasks.wiring import build\nfrom etl_tasks.pipeline.ports import Source"),
    ],
)
def test_the_rule_allows(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_a_package_s_own_init_resolves_relative_imports_from_itself() -> None:
    assert violations("etl_tasks.core", "from . import windows", is_package=True) == []
    assert len(violations("etl_tasks.core", "from .. import adapters", is_package=True)) == 1
