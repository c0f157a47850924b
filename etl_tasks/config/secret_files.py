"""Secrets from files, as Docker and Kubernetes hand them out: ``NAME_FILE`` names a file that holds what NAME would."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from etl_tasks.config.faults import Fault

FILE_SUFFIX = "_FILE"
MOST_BYTES = 64 * 1024  # whoever names a larger file meant another one


@dataclass(frozen=True)
class SecretFiles:
    """What was read: values by the name without ``_FILE``, where each came from, and what is wrong."""

    values: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    faults: Sequence[Fault] = ()


def read_secret_files(
    secret: Collection[str], sources: Sequence[tuple[Mapping[str, str], str]], given: Mapping[str, str]
) -> SecretFiles:
    """Read the file of every ``NAME_FILE`` in ``sources`` (mapping, origin; the last one wins) whose NAME is secret.

    ``given`` has the origins of what is set directly: a secret may not be given in both ways, since nobody could say
    which one is meant. The newline at a file's end is not part of the secret; everything else is.
    """
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    faults: list[Fault] = []
    for name in sorted(secret):
        variable = f"{name}{FILE_SUFFIX}"
        named = [(source[variable].strip(), origin) for source, origin in sources if source.get(variable, "").strip()]
        if not named:
            continue
        path, origin = named[-1]
        if name in given:
            text = f"{name} is set too ({given[name]}), and one of them is forgotten; remove one ({variable}: {origin})"
            faults.append(Fault(((variable, path),), text))
            continue
        try:
            values[name] = _read(Path(path))
        except ValueError as error:
            faults.append(Fault(((variable, path),), f"{error}; write the path of a file that holds {name} ({origin})"))
        else:
            origins[name] = f"file {path}"
    return SecretFiles(values, origins, faults)


def _read(path: Path) -> str:
    """The file's text without the newline at its end; raises ValueError saying what is wrong with it."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"cannot be read ({reason})") from None
    if len(data) > MOST_BYTES:
        raise ValueError(f"is longer than {MOST_BYTES // 1024} KiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("cannot be read (it is not UTF-8 text)") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise ValueError("is empty")
    return text
