"""The workers' own lines, read back: which events they told, with their facts."""

from __future__ import annotations

import json
from typing import Any

from tests.faults.world import World

SETTINGS = {"LOG_FORM": "json"}
"""What a module's deployment needs for this."""


def events(world: World, name: str, **facts: object) -> list[dict[str, Any]]:
    """Lines of this event that hold these facts, in the order of each worker."""
    found = []
    for log in sorted(world.deployment.scratch.glob("worker*.log")):
        for line in log.read_text(errors="replace").splitlines():
            if not line.startswith("{"):
                continue
            try:
                told: dict[str, Any] = json.loads(line)
            except ValueError:
                continue  # the last line, half written
            if told.get("event") == name and all(told.get(key) == value for key, value in facts.items()):
                found.append(told)
    return found
