"""The Dockerfile against the project: what it copies, installs and starts is there. No Docker engine is needed."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from etl_tasks.config import load_settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
BOOTSTRAP = (ROOT / "devstack/bootstrap.sh").read_text(encoding="utf-8")
REQUIREMENTS = [
    Requirement(line)
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
INSTRUCTIONS = [
    (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1])
    for line in re.sub(r"^#.*\n", "", TEXT, flags=re.M).replace("\\\n", " ").splitlines()
    if line.strip()
]

# Debian 12 has these (apt-cache), and what needs each.
DEBIAN = {
    "gcc": "compiles gssapi, which has no wheel for Linux; bootstrap takes it with build-essential",
    "libc6-dev": "the C library's headers for it; bootstrap takes them with build-essential",
    "libkrb5-dev": "Kerberos' headers for it",
    "libgssapi-krb5-2": "what it is linked with",
    "libkrb5-3": "what it is linked with",
    "tini": "process 1, which hands signals on and reaps",
}


def values(instruction: str) -> list[str]:
    return [value for name, value in INSTRUCTIONS if name == instruction]


def installed() -> list[set[str]]:
    """The Debian packages of each stage."""
    found = re.findall(r"apt-get install -y --no-install-recommends ([^&]+)", " ".join(values("RUN")))
    return [set(packages.split()) for packages in found]


def test_python_is_one_that_the_project_runs_on_and_the_release_one_that_bootstrap_knows() -> None:
    (base, _) = values("ARG")
    version, release = re.fullmatch(r"PYTHON=(3\.\d+)-slim-(\w+)", base).groups()  # type: ignore[union-attr]
    assert f"python{version}" in re.findall(r"python3\.\d+", BOOTSTRAP)
    assert version in re.findall(r"3\.\d+", (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()[0])
    assert release in ("bookworm", "trixie"), "Debian 12 and 13"
    assert values("FROM") == ["python:${PYTHON} AS build", "python:${PYTHON}"], "one base for what is built and runs"


def test_every_debian_package_is_known_and_needed() -> None:
    build, final = installed()
    assert build | final == set(DEBIAN)
    assert build & final == set(), "no compiler in the image that runs"
    assert "libkrb5-dev" in BOOTSTRAP and "build-essential" in BOOTSTRAP
    # Lists of packages left behind are the largest part of a careless image.
    assert TEXT.count("rm -rf /var/lib/apt/lists/*") == TEXT.count("apt-get update") == 2


def test_what_it_copies_is_there_and_is_all_that_the_code_reads() -> None:
    copied = [value.split() for value in values("COPY") if not value.startswith("--from")]
    sources = {source for words in copied for source in words[:-1]}
    assert sources == {"requirements.txt", "celeryconfig.py", "ddl", "etl_tasks"}
    assert all((ROOT / source).exists() for source in sources)
    # Files beside the package that the code opens, as parents[…] / "directory".
    opened = {
        found
        for path in (ROOT / "etl_tasks").rglob("*.py")
        for found in re.findall(r'parents\[\d\] / "(\w+)"', path.read_text(encoding="utf-8"))
    }
    assert opened <= sources


def with_what_they_need(names: Iterable[str]) -> set[str]:
    """The distributions, and all that pip installs along with them."""
    found: set[str] = set()
    pending = [canonicalize_name(name) for name in names]
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        needed = [Requirement(line) for line in metadata.requires(name) or []]
        pending += [
            canonicalize_name(one.name) for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})
        ]
    return found


def test_every_package_that_the_code_imports_is_installed() -> None:
    assert all(str(requirement.specifier).startswith("==") for requirement in REQUIREMENTS)
    installed_by_pip = with_what_they_need(requirement.name for requirement in REQUIREMENTS)
    distributions = metadata.packages_distributions()
    missing = set()
    for path in [ROOT / "celeryconfig.py", *(ROOT / "etl_tasks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                if top in sys.stdlib_module_names or top == "etl_tasks":
                    continue
                if not {canonicalize_name(owner) for owner in distributions.get(top, [])} & installed_by_pip:
                    missing.add(f"{path.relative_to(ROOT)}: {name}")
    assert missing == set()


def test_it_runs_without_rights_and_what_it_starts_exists() -> None:
    last_from = max(index for index, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM")
    final = INSTRUCTIONS[last_from:]
    assert [value for name, value in final if name == "USER"] == ["etl"]
    after_user = [name for name, _ in final[[name for name, _ in final].index("USER") :]]
    assert not {"RUN", "COPY"} & set(after_user), "what the user may run is not the user's to change"
    (entrypoint,), (command,) = values("ENTRYPOINT"), values("CMD")
    assert json.loads(entrypoint)[0] in installed()[1]
    assert json.loads(command)[:3] == ["python", "-m", "etl_tasks"]
    assert values("VOLUME") == ["/var/lib/etl"]
    assert "install -d -o etl -g etl /var/lib/etl" in TEXT
    assert "ADD" not in [name for name, _ in INSTRUCTIONS]


def test_its_environment_has_settings_that_exist_and_no_secret() -> None:
    given = dict(pair.split("=", 1) for value in values("ENV") for pair in value.split())
    settings = {name: value for name, value in given.items() if name in {"LOG_FORM", "LOG_LEVEL"}}
    assert load_settings(settings).log_form == "json"
    assert set(given) - set(settings) == {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "TZ"}


def test_labels_say_what_it_is() -> None:
    (labels,) = values("LABEL")
    for name in ("title", "description", "revision"):
        assert re.search(rf'org\.opencontainers\.image\.{name}="[^"]+"', labels), name
