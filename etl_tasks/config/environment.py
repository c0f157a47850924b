"""Read names and values from the process environment and the ``.env`` file, old names included."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv.parser import parse_stream

from etl_tasks.config.faults import Fault
from etl_tasks.config.secret_files import FILE_SUFFIX, read_secret_files

ENV_FILE_VARIABLE = "ETL_ENV_FILE"
DEFAULT_ENV_FILE = ".env"

# Names of the old system that still work. CH_TABLE is from before RAW and CLEAN were told apart, when there was one
# table, the one that people query; that is CLEAN now (its name is still the one without a suffix). ETL_LOG_FORM is from
# before the form of the log was a setting like all others.
OLD_NAMES: Mapping[str, str] = {
    "CH_TABLE": "CH_CLEAN_TABLE",
    "ETL_LOG_FORM": "LOG_FORM",
    "HBASE_MAIN_COLUMNS": "MAIN_COLUMNS",
    "PHOENIX_TCP_PROBE_TIMEOUT_MS": "PHX_TCP_PROBE_TIMEOUT_MS",
}

# In the process environment only names with a prefix of ours are looked at for slips; the .env file is ours altogether.
_OUR_PREFIXES = (
    "PHX_", "PHOENIX_", "PQS_", "CH_", "HBASE_", "PUBLISH_", "SANITIZE_", "OVERLOAD_", "JOURNAL_", "PG_",
    "REDIS_", "STEP_", "LEASE_", "MAIN_", "MAX_", "SLICE_", "RESEND_", "SWEEP_", "PARTITIONS_", "TASK_",
    "BUSINESS_", "SOURCE_", "PROCESS_", "VISIBILITY_", "ALWAYS_", "LOG_", "RECONCILE_", "FLOWER_",
)  # fmt: skip
_CLOSE = 0.8
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Reading:
    """What was found: values by name, where each came from, and what to say about it."""

    values: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()


def read_environment(
    known: Collection[str],
    env: Mapping[str, str] | None = None,
    env_file: str | Path | None = None,
    secret: Collection[str] = (),
) -> Reading:
    """Take the known names from ``env`` and from the file; the environment wins, an empty value is as good as none.

    Of the names that are ``secret``, ``NAME_FILE`` may name a file that holds the value.

    ``env=None`` is the process environment, and then the file is ``ETL_ENV_FILE`` or ``.env`` in the working
    directory. With an ``env`` of the caller's only a file that the caller names (or ``ETL_ENV_FILE`` in it) is read.
    """
    environment = dict(os.environ if env is None else env)
    path, must_exist = _which_file(environment, env is None, env_file)
    in_file, warnings, faults = _read_file(path, must_exist) if path else ({}, [], [])

    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    sources = ((in_file, str(path)), (environment, "environment"))
    for source, origin in sources:
        for name in source:
            if name in known and source[name].strip():
                values[name] = source[name] if name.endswith("PASSWORD") else source[name].strip()
                origins[name] = origin
    from_files = read_secret_files(secret, sources, origins)
    values |= from_files.values
    origins |= from_files.origins
    faults += from_files.faults
    for old, new in OLD_NAMES.items():
        for source, origin in ((environment, "environment"), (in_file, str(path))):
            if not source.get(old, "").strip():
                continue
            if new in values:
                warnings.append(f"{old} ({origin}) is ignored, because its new name {new} is set too; remove {old}")
            else:
                values[new] = source[old].strip()
                origins[new] = f"old name {old} ({origin})"
                warnings.append(f"{old} ({origin}) is an old name; write {new} instead")
    files = {f"{name}{FILE_SUFFIX}" for name in secret}
    warnings += _slips(in_file, str(path), known, files, everything=True)
    warnings += _slips(environment, "environment", known, files, everything=False)
    return Reading(values, origins, tuple(warnings), tuple(faults))


def _which_file(environment: Mapping[str, str], process: bool, asked: str | Path | None) -> tuple[Path | None, bool]:
    if asked is not None:
        return Path(asked), True
    named = environment.get(ENV_FILE_VARIABLE, "").strip()
    if named:
        return Path(named), True
    return (Path(DEFAULT_ENV_FILE), False) if process else (None, False)


def _read_file(path: Path, must_exist: bool) -> tuple[dict[str, str], list[str], list[Fault]]:
    values: dict[str, str] = {}
    warnings: list[str] = []
    faults: list[Fault] = []

    def fault(text: str) -> None:
        faults.append(Fault(((ENV_FILE_VARIABLE, str(path)),), text))

    try:
        # Values stand as they are written: no ${…} is replaced, so that a password may have any character.
        with path.open(encoding="utf-8-sig") as stream:
            bindings = list(parse_stream(stream))
    except FileNotFoundError:
        if must_exist:
            fault("there is no such file; write the path of a file of NAME=value lines")
        return values, warnings, faults
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        fault(f"cannot be read ({reason}); write the path of a file of NAME=value lines")
        return values, warnings, faults
    for binding in bindings:
        line = binding.original.line
        if binding.error or (binding.key is not None and not _NAME.fullmatch(binding.key)):
            fault(f"line {line} cannot be read; write NAME=value, a value with blanks or # in single quotes")
        elif binding.key is not None and binding.value is None:
            fault(f"line {line} has {binding.key} without a value; write {binding.key}=value")
        elif binding.key is not None and binding.value is not None:
            if binding.key in values:
                warnings.append(f"{binding.key} stands in {path} more than once; line {line} counts")
            values[binding.key] = binding.value
    return values, warnings, faults


def _slips(
    source: Mapping[str, str], origin: str, known: Collection[str], files: Collection[str], everything: bool
) -> list[str]:
    warnings = []
    for name in sorted(source):
        if name in known or name in files or name in OLD_NAMES or name == ENV_FILE_VARIABLE:
            continue
        if not (everything or name.upper().startswith(_OUR_PREFIXES)):
            continue
        if name.upper() in known:
            warnings.append(f"{name} ({origin}) is not read: names are written in capitals; write {name.upper()}")
            continue
        plain = name.removesuffix(FILE_SUFFIX)
        if plain in known:
            warnings.append(f"{name} ({origin}) is not read: only secrets come from files; write {plain}")
            continue
        near = difflib.get_close_matches(name.upper(), [*known, *files], n=1, cutoff=_CLOSE)
        if near:
            warnings.append(f"{name} ({origin}) is no setting; did you mean {near[0]}?")
    return warnings
