"""Passwords of the stack: random, made once, readable by the owner alone."""

import json
import os
import secrets
from pathlib import Path

NAMES = ("postgres", "redis", "clickhouse")


def load(state_dir: Path) -> dict[str, str]:
    """The passwords by part; made at first use."""
    path = state_dir / "passwords.json"
    if path.exists():
        stored: dict[str, str] = json.loads(path.read_text())
        return stored
    made = {name: secrets.token_hex(16) for name in NAMES}
    write_private(path, json.dumps(made, indent=1) + "\n")
    return made


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".tmp")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        handle.write(text)
    scratch.replace(path)
